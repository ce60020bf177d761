"""What every test gets: a clean environment, the contract's ids, real parts on demand."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_server import RealServer, TinyAdapters, run_server

pytest_plugins = ["services", "scripted_server"]
ROOT = Path(__file__).parent.parent
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # nothing calls into gRPC after a fork; it warns
sys.path.insert(0, str(ROOT / "examples"))
# A shell's background job ignores interrupts, and so would what tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test with the contract ids that its name begins with: `test_a1_a4_…`."""
    marked = {mark.args[0] for mark in item.iter_markers("contract")}
    named = re.match(r"test_((?:[acrsx]\d+_)*)", item.name)
    for name in named[1].upper().split("_")[:-1] if named else ():
        if name not in marked:
            item.add_marker(pytest.mark.contract(name))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's shell reaches a test."""
    for name in list(os.environ):
        if name.startswith(("LORADOCK_", "AWS_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def contract_property(request, record_property):
    """Write a test's contract ids into the report."""
    ids = [str(mark.args[0]) for mark in request.node.iter_markers("contract")]
    if ids:
        record_property("contract", " ".join(sorted(set(ids))))


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The real base, fetched and converted once."""
    from fetch_base import fetch_base

    return fetch_base()


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """One server process, over a tiny random base, for all tests that call one."""
    with run_server(tmp_path_factory.mktemp("real"), "--log-level", "debug") as server:
        yield server


@pytest.fixture(scope="session")
def tiny(real_server: RealServer) -> TinyAdapters:
    """Adapters of the real server's base, by name."""
    return TinyAdapters(real_server)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A tiny random Llama with a tokenizer: see tiny_base.py."""
    from tiny_base import make_tiny_base

    return make_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def other_tiny_base(tmp_path_factory) -> Path:
    """The same but for its weights."""
    from tiny_base import make_tiny_base

    return make_tiny_base(tmp_path_factory.mktemp("bases") / "other", seed=1)


@pytest.fixture(scope="session")
def tiny_adapter(tiny_base, tmp_path_factory):
    """Give the folder of an adapter: `tiny_adapter(seed, rank=4, targets=[…], …)`."""
    from tiny_base import TinyAdapters

    return TinyAdapters(tiny_base, tmp_path_factory.mktemp("adapters"))
