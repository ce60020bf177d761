"""What every test gets: a clean environment, the contract's ids in reports, the base on demand."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(ROOT / "examples"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No setting of the developer's shell reaches a test."""
    for name in list(os.environ):
        if name.startswith(("LORADOCK_", "AWS_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def contract_property(request, record_property):
    """Write a test's contract ids into the report."""
    ids = [str(mark.args[0]) for mark in request.node.iter_markers("contract") if mark.args]
    if ids:
        record_property("contract", " ".join(ids))


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The real base, fetched and converted once."""
    from fetch_base import fetch_base

    return fetch_base()
