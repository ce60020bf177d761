"""The README's blocks run as they stand, against a real server on the real base."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from processes import serving

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(sys.executable).parent
pytestmark = pytest.mark.smollm2


def block(name: str) -> str:
    found = re.search(
        rf"<!-- test: {name} -->\n```\w+\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert found, f"README.md has no block {name!r}"
    return found.group(1)


def typed(name: str) -> str:
    """What a person types of a console block."""
    lines = block(name).splitlines()
    assert all(line.startswith(("$ ", "> ")) for line in lines)
    return "\n".join(line[2:] for line in lines)


def run(*command: str, address: str) -> str:
    environment = os.environ | {
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "LORADOCK_ADDRESS": address,
    }
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server that holds the first version of each example, as the README starts and fills it."""
    data = shlex.quote(str(tmp_path_factory.mktemp("readme")))
    path = f"cd {shlex.quote(str(ROOT))}; PATH={shlex.quote(str(SCRIPTS))}:$PATH"
    serve = f"{path}; exec {typed('serve')} --port 0 --data-dir {data}"
    with serving("bash", "-c", serve, says=r"^loradock is serving \S+ on (\S+)$") as address:
        run("bash", "-ec", typed("publish"), address=address)
        yield address


def test_sdk_block(address):
    code = block("sdk").replace("127.0.0.1:7431", address)
    said = run(sys.executable, "-c", code, address=address)
    assert "order-extract 1" in said
    assert re.search(r"^\w+ [01]\.\d+$", said, re.MULTILINE), "the label has a line of its own"
    assert "\nsmollm2-135m-instruct " in said
    assert "NOT_FOUND" in said


def test_cli_block(address):
    lines = typed("cli").splitlines()
    assert all(line.startswith("loradock ") for line in lines)
    for line in lines:
        run("bash", "-c", line, address=address)


def test_blocks_are_about_twenty_lines():
    assert all(len(block(name).splitlines()) <= 22 for name in ("sdk", "cli"))


def test_links_lead_somewhere():
    page = (ROOT / "README.md").read_text()
    named = re.findall(r"\]\(([^)#]+)\)", page) + re.findall(r"\bdocs/\w+\.md", page)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
