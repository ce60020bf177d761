"""Commands that other packages contribute: listed without being loaded, told if they can't be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = """\
[loradock.commands]
hello = hello_commands:hello
broken = nowhere_at_all:broken
absent = hello_commands:absent
base = {base}
"""
CODE = """\
import typer

print("LOADED")
base = typer.Typer()

@base.command()
def register(): print("registered")

@base.command("list")
def list_(): print("theirs")

def hello(name: str = "you"):
    "Say hello."
    print(f"hello {name}")

def heavy():
    import torch_of_tomorrow
"""


@pytest.fixture
def loradock(tmp_path):
    """Run the CLI as if another distribution were installed beside it."""

    def install(base="hello_commands:base"):
        (tmp_path / "hello_commands.py").write_text(CODE)
        info = tmp_path / "hello-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(ENTRY_POINTS.format(base=base))

    def run(*words, base="hello_commands:base"):
        install(base)
        roots = [str(tmp_path), *(str(ROOT / root) for root in ("clients", "proto"))]
        code = "import sys; from loradock.cli.main import run; sys.exit(run(sys.argv[1:]))"
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(roots)},
            capture_output=True,
            text=True,
        )

    return run


def test_listed_without_being_loaded(loradock):
    shown = loradock("--help")
    assert shown.returncode == 0
    assert "LOADED" not in shown.stdout
    for name in ("hello", "broken", "serve", "migrate"):
        assert f"\n  {name} " in shown.stdout


def test_loaded_when_called(loradock):
    assert "hello Ada" in loradock("hello", "--name", "Ada").stdout
    assert "--name" in loradock("hello", "--help").stdout


@pytest.mark.parametrize("name", ["broken", "absent"])
def test_what_cannot_be_loaded_says_what_to_install(loradock, name):
    done = loradock(name)
    assert done.returncode == 1
    assert "loradock[server]" in done.stderr
    assert "Traceback" not in done.stderr


def test_base_is_the_contributed_one(loradock):
    assert "registered" in loradock("base", "register").stdout
    assert "theirs" in loradock("base", "list").stdout


def test_base_list_is_there_without_the_contribution(loradock):
    done = loradock("--address", "127.0.0.1:1", "base", "list", base="nowhere_at_all:base")
    assert done.returncode == 8, done.stderr


def test_a_command_that_lacks_something_says_so(loradock):
    done = loradock("base", base="hello_commands:heavy")
    assert done.returncode == 1
    assert "torch_of_tomorrow" in done.stderr and "loradock[server]" in done.stderr
