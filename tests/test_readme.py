"""The README's blocks run as they stand, against a real server on the real base."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TASKS = ("support-triage", "order-extract", "pii-redact")
pytestmark = pytest.mark.smollm2


def block(name: str) -> str:
    found = re.search(
        rf"<!-- test: {name} -->\n```\w+\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert found, f"README.md has no block {name!r}"
    return found.group(1)


@pytest.fixture(scope="module")
def published(smollm2_path, tmp_path_factory):
    """A server that holds the first version of each example."""
    from demo_server import BASE, server

    from loradock.client import Client

    with server(smollm2_path, tmp_path_factory.mktemp("readme")) as running:
        with Client(running.address) as client:
            for task in TASKS:
                client.versions.push(task, ROOT / "examples" / task / "v1", base=BASE)
                client.aliases.set(task, "production", 1)
        yield running


def test_sdk_block(published):
    code = block("sdk").replace("127.0.0.1:7431", published.address)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert "order-extract 1" in run.stdout
    assert "baseModels/smollm2-135m-instruct" in run.stdout
    assert "NOT_FOUND" in run.stdout


def test_cli_block(published):
    environment = os.environ | {"LORADOCK_ADDRESS": published.address}
    for line in block("cli").splitlines():
        assert line.startswith("$ loradock "), line
        words = shlex.split(line.removeprefix("$ loradock "))
        command = [str(Path(sys.executable).parent / "loradock"), *words]
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert run.returncode == 0, f"{line}\n{run.stdout}{run.stderr}"
