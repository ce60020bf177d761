"""Each test of a command runs it against the real server."""

import itertools
import json

import pytest
from command_line import PROFILE, assert_has_fields

from loradock.cli.main import run

_numbers = itertools.count()


@pytest.fixture
def loradock(real_server, capfd):
    """Run a command; give what it put out, once it ended as expected."""

    def run_one(*words, code=0):
        capfd.readouterr()
        ended = run(["--address", real_server.address, *map(str, words)])
        captured = capfd.readouterr()
        assert ended == code, captured.err
        assert "Traceback" not in captured.err
        assert "\x1b" not in captured.out + captured.err
        return captured

    return run_one


@pytest.fixture
def as_json(loradock):
    def run_one(kind, *words, code=0):
        told = json.loads(loradock(*words, "--json", code=code).out)
        for value in told if isinstance(told, list) else [told]:
            assert_has_fields(value, kind)
        return told

    return run_one


@pytest.fixture
def task(loradock, tiny):
    """An adapter with two versions, the first in production."""
    name = f"cli-{next(_numbers)}"
    loradock("adapter", "push", name, tiny.folder("one", profile=PROFILE), "--base", "tiny-base")
    loradock("adapter", "push", name, tiny.folder("two", rank=8), "--base", "tiny-base")
    loradock("alias", "set", f"{name}:production", "1", "--reason", "first", "--wait", "10")
    return name
