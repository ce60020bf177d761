"""Errors at a terminal: what is wrong, what to do next, and the exit code."""

import errno
import json
import re
import sys
from pathlib import Path

import pytest

import loradock.client
from loradock.cli import refusal, start
from loradock.cli.errors import exit_code_of, report
from loradock.cli.main import run
from loradock.cli.names import version_number
from loradock.cli.refusal import CommandError
from loradock.client import (
    LoradockError,
    NotAdmitted,
    NotFound,
    Problem,
    ServerError,
    StaleAlias,
    Unavailable,
)

ROOT = Path(__file__).parents[2]
CODES = {
    "LoradockError": 1,
    "InvalidRequest": 2,
    "PromptTooLong": 2,
    "RequestIdReused": 5,
    "NotFound": 3,
    "AlreadyExists": 5,
    "Aborted": 5,
    "StaleAlias": 5,
    "PreconditionFailed": 6,
    "NotAdmitted": 6,
    "BaseModelMismatch": 6,
    "EvalGateFailed": 6,
    "VersionYanked": 6,
    "StillReferenced": 6,
    "Unauthenticated": 4,
    "PermissionDenied": 4,
    "ResourceExhausted": 8,
    "MessageTooLarge": 1,
    "Unavailable": 8,
    "AdapterLoadFailed": 8,
    "DeadlineExceeded": 8,
    "Cancelled": 1,
    "DataLoss": 7,
    "ClientClosed": 1,
    "ServerError": 1,
}


def errors_of_the_sdk():
    return {
        name
        for name in loradock.client.__all__
        if isinstance(kind := getattr(loradock.client, name), type)
        and issubclass(kind, LoradockError)
    }


@pytest.mark.contract("C5")
@pytest.mark.parametrize("name", sorted(errors_of_the_sdk()))
def test_c5_every_error_has_its_exit_code(name):
    assert exit_code_of(getattr(loradock.client, name)("why")) == CODES[name]


@pytest.mark.contract("C5")
def test_c5_exit_codes_are_documented():
    page = (ROOT / "docs/cli.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert documented == {0, *set(CODES.values()), refusal.INTERRUPTED}


def told(capsys, error, as_json=False):
    code = report(error, as_json)
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def test_what_is_wrong_and_what_next(capsys):
    error = NotFound("no adapter 'x'", reason="NOT_FOUND", metadata={"kind": "adapter"})
    assert told(capsys, error) == (3, "error: no adapter 'x'\n  see `loradock adapter list`\n")
    stale = StaleAlias("generation 3, not 2", reason="STALE_GENERATION")
    assert "alias history" in told(capsys, stale)[1]
    assert "--address" in told(capsys, Unavailable("nobody", reason="UNAVAILABLE"))[1]
    drained = Unavailable("last error: ipv4:1.2.3.4:7431: backend unhealthy", reason="UNAVAILABLE")
    assert "server status" in told(capsys, drained)[1]
    no_tls = Unavailable("last error: UNKNOWN: Tls handshake failed (…)", reason="UNAVAILABLE")
    assert "speak TLS" in told(capsys, no_tls)[1]


def test_problems_that_no_message_had_room_for_are_counted(capsys):
    problems = [Problem("a", "SHAPE_WRONG", "is 4x4"), Problem("b", "SHAPE_WRONG", "is 4x4")]
    left_out = {"num_problems_left_out": "381"}
    error = NotAdmitted("no", reason="NOT_ADMITTED", metadata=left_out, problems=problems)
    lines = told(capsys, error)[1].splitlines()
    assert lines[0] == "error: 383 things are wrong with it"
    assert lines[1:] == ["  a: is 4x4 [SHAPE_WRONG]", "  b: is 4x4 [SHAPE_WRONG]", "  and 381 more"]


def test_what_a_file_refuses_is_told_by_its_name(capsys):
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", "out/ready")
    assert told(capsys, error) == (1, "error: out/ready: No such file or directory\n")


def test_all_problems_are_listed(capsys):
    problems = [Problem("a.b", "NO_MODULE", "maps to no module"), Problem("c", "NAN", "not finite")]
    error = NotAdmitted("not admitted: …", reason="NOT_ADMITTED", problems=problems)
    code, text = told(capsys, error)
    assert code == 6
    assert "a.b: maps to no module [NO_MODULE]" in text
    assert "c: not finite [NAN]" in text


def test_a_fault_of_the_server_names_the_request(capsys):
    error = ServerError("internal error", reason="INTERNAL", request_id="r-7")
    assert "r-7" in told(capsys, error)[1]


def test_errors_in_json(capsys):
    error = NotFound("no", reason="NOT_FOUND", metadata={"kind": "alias"}, request_id="r")
    code, text = told(capsys, error, as_json=True)
    assert json.loads(text)["error"] == {
        "message": "no",
        "exit_code": code,
        "hint": "see `loradock adapter list`, and `loradock alias list` for an adapter's aliases",
        "reason": "NOT_FOUND",
        "metadata": {"kind": "alias"},
        "request_id": "r",
        "retry_after_s": None,
        "problems": [],
    }


def test_faults_of_the_cli_are_not_hidden():
    assert report(KeyError("x"), as_json=False) is None
    assert report(ImportError("x", name="loradock.cli.nowhere"), as_json=False) is None


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("--address 127.0.0.1:1 adapter list", 8, "--address"),
        ("adapter list --nonsense", 2, "--nonsense"),
        ("nonsense", 2, "nonsense"),
        ("alias set support-triage 2", 2, "support-triage:production"),
        ("alias set a:b two", 2, "version number"),
        ("adapter yank support-triage --reason r", 2, "support-triage@2"),
        ("generate hi", 2, "--adapter"),
        ("generate hi --adapter a --base", 2, "--adapter"),
        ("eval run nowhere.toml --base", 2, "nowhere.toml"),
        ("eval add a@1 --suite s --dataset sha256:1 --metric accuracy", 2, "accuracy=0.61"),
        ("adapter list --metric accuracy", 2, "SUITE:METRIC"),
        ("--token-file nowhere adapter list", 2, "nowhere"),
        ("lineage show", 2, "one start"),
        ("adapter push a nowhere --base b", 2, "there is no folder nowhere"),
        ("export a@1 --to -", 2, "stdout"),
        ("--address 127.0.0.1:99999 adapter list", 2, "there is no port 99999"),
        ("--address http://10.0.0.1:1 adapter list", 2, "'http://10.0.0.1:1' is no HOST:PORT"),
        ("--address= adapter list", 2, "'' is no HOST:PORT, as in 127.0.0.1:7431"),
        ("--address 10.0.0.1:1 --token-file pyproject.toml adapter list", 2, "plain text"),
    ],
)
def test_c5_exit_codes(capsys, monkeypatch, line, code, text):
    monkeypatch.chdir(ROOT)
    assert run(line.split()) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert text in captured.err


def test_error_of_a_command_in_json(capsys):
    assert run(["alias", "set", "a", "2", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("nonsense", "no such command 'nonsense'", "see `loradock --help`"),
        ("adapter list --nonsense", "no such option: --nonsense", "see `loradock adapter list -"),
        ("alias set a:b", "missing argument 'N'", "see `loradock alias set --help`"),
        ("adapter list --limit", "option '--limit' requires an argument", None),
    ],
)
def test_c5_a_command_line_that_can_not_be_read_is_told_as_all_else_is(capsys, line, message, hint):
    assert run(line.split()) == 2
    first, *more = capsys.readouterr().err.splitlines()
    assert first == f"error: {message}"
    assert [text.strip()[: len(hint or "")] for text in more] == ([] if hint is None else [hint])
    assert run([*line.split()[:2], "--nonsense", "--json"]) == 2
    assert "error" in json.loads(capsys.readouterr().err)


def test_command_error_is_usage_unless_said(capsys):
    assert told(capsys, CommandError("no"))[0] == 2


def test_an_interrupt_before_the_cli_is_loaded_is_130(monkeypatch):
    class Interrupted:
        def find_spec(self, name, *_):
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "loradock.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupted()])
    with pytest.raises(SystemExit) as ended:
        start.main()
    assert ended.value.code == refusal.INTERRUPTED


def test_version_number_is_one_that_a_version_can_have():
    assert version_number("@2147483647") == 2**31 - 1
    with pytest.raises(CommandError, match="no version number"):
        version_number("2147483648")


def test_text_that_is_not_utf_8_is_a_usage_error(capsys):
    assert run(["generate", "--base", "caf\udce9"]) == refusal.USAGE
    assert "is not UTF-8" in capsys.readouterr().err
