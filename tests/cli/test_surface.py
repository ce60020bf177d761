"""What every command shows: help with an example first, `--json`, `--dry-run`; and the page."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from loradock.cli.main import app, run

ROOT = Path(__file__).parents[2]
READ_ONLY = {"list", "show", "search", "history", "status", "check", "top"}
READ_ONLY |= {"approvals", "affected", "generate", "classify", "score"}
READ_ONLY |= {"verify", "doctor", "export"}
DESTRUCTIVE = {"adapter delete", "alias delete"}


def commands():
    def walk(path, found):
        if hasattr(found, "commands"):
            for name, inner in found.commands.items():
                yield from walk(f"{path} {name}".strip(), inner)
        else:
            yield path, found

    return dict(walk("", typer.main.get_command(app)))


COMMANDS = commands()


def options_of(path):
    return {option for param in COMMANDS[path].params for option in param.opts}


def test_the_issues_commands_are_there():
    nouns = {
        "adapter": "push pull list show yank unyank delete search",
        "alias": "set show history rollback list delete",
        "alias policy": "set show check",
        "rollout": "start status pause resume promote abort",
        "eval": "run add list",
        "lineage": "show",
        "server": "status top list prefetch load unload pin unpin drain undrain override",
        "base": "list",
        "audit": "list verify",
    }
    wanted = {f"{noun} {verb}" for noun, verbs in nouns.items() for verb in verbs.split()}
    assert wanted | {"generate", "classify", "score", "gc", "verify"} <= set(COMMANDS)


@pytest.mark.contract("C5")
@pytest.mark.parametrize("path", COMMANDS)
def test_c5_help_starts_with_an_example(path, capsys):
    assert run([*path.split(), "--help"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].strip() == "Example:"
    assert shown[3].strip().startswith(f"$ loradock {path}")


@pytest.mark.contract("C5")
@pytest.mark.parametrize("path", COMMANDS)
def test_c5_every_command_gives_json(path):
    assert "--json" in options_of(path)


@pytest.mark.contract("C5")
@pytest.mark.parametrize("path", [p for p in COMMANDS if p.split()[-1] not in READ_ONLY])
def test_c5_what_changes_something_can_be_tried(path):
    assert "--dry-run" in options_of(path)


def test_what_destroys_asks():
    assert {path for path in COMMANDS if "--yes" in options_of(path)} == DESTRUCTIVE


@pytest.mark.contract("C5")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_c5_shell_completion(shell, monkeypatch):
    words = {"bash": "complete_bash", "zsh": "complete_zsh", "fish": "complete_fish"}
    environment = {
        "_LORADOCK_COMPLETE": words[shell],
        "COMP_WORDS": "loradock ali",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "loradock ali",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "PATH": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from loradock.cli.main import app; app(prog_name='loradock')"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "alias" in done.stdout, done.stderr


def test_help_is_quick():
    code = (
        "import sys; from loradock.cli.main import run; run(['--help']); "
        "heavy = {'grpc', 'google.protobuf', 'rich', 'torch', 'loradock.server'}; "
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in out.stdout


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip()


def test_no_arguments_show_help(capsys):
    assert run([]) == 2
    told = capsys.readouterr()
    assert "Usage: loradock" in told.out + told.err


def test_docs_are_current():
    """Run `python scripts/generate_cli_docs.py` if this fails."""
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import generate_cli_docs as g; "
        "sys.exit(g.page() != g.PAGE.read_text())"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0, (
        "stale: run python scripts/generate_cli_docs.py"
    )


def test_the_readmes_commands_parse():
    lines = [
        line.removeprefix("$ loradock ")
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("$ loradock ")
    ]
    assert len(lines) > 10
    for line in lines:
        path = next((p for p in COMMANDS if line.startswith(p)), None)
        assert path or line.startswith(("serve", "migrate", "base")), line


def test_commands_contain_no_try():
    for name in (
        "adapter",
        "alias",
        "audit",
        "base",
        "bundle",
        "doctor",
        "housekeeping",
        "inference",
        "lineage",
        "policy",
        "server",
    ):
        assert "try:" not in (ROOT / f"clients/loradock/cli/{name}.py").read_text(), name
