"""Puts the CLI together and runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loradock.cli import (
    adapter,
    alias,
    audit,
    base,
    bundle,
    doctor,
    evaluation,
    housekeeping,
    inference,
    lineage,
    rollout,
    server,
)
from loradock.cli.contributed import LoradockGroup
from loradock.cli.session import Session

app = typer.Typer(
    name="loradock",
    cls=LoradockGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for noun in (adapter, alias, rollout, evaluation, lineage, server, base, audit):
    app.add_typer(noun.app)
inference.add_commands(app)
housekeeping.add_commands(app)
doctor.add_commands(app)
bundle.add_commands(app)

HELP = """\b
Example:
  $ loradock adapter push support-triage ./out --base smollm2-135m-instruct
  $ loradock alias set support-triage:production 1
  $ loradock generate --adapter support-triage 'Where is my parcel?'

One resident base model, hot-swapped LoRA adapters, and a registry that knows where each came from.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not allowed, 5 conflict, 6 refused by the
state of things, 7 bytes do not match, 8 nobody answers (in time), 130 interrupted. A token is
given by --token-file, or by LORADOCK_TOKEN in the environment.
"""


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("loradock"))
        raise typer.Exit


@app.callback(help=HELP)
def connection(
    context: typer.Context,
    address: Annotated[
        str, typer.Option(envvar="LORADOCK_ADDRESS", help="Where the server is.")
    ] = "127.0.0.1:7431",
    project: Annotated[
        str, typer.Option(envvar="LORADOCK_PROJECT", help="Whose adapters are meant.")
    ] = "default",
    token_file: Annotated[
        Path | None, typer.Option(envvar="LORADOCK_TOKEN_FILE", help="A file with the token.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="SECONDS", help="For each call, not the method's own."),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt the connection.")] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Send the token in plain text to another host.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Tell it.")
    ] = False,
) -> None:
    """Take the options that every command shares."""
    token = os.environ.get("LORADOCK_TOKEN") or None
    context.obj = Session(address, project, token, token_file, timeout, tls, insecure)


def run(arguments: Sequence[str]) -> int:
    """Run one command; give its exit code."""
    try:
        ended = app(list(arguments), prog_name="loradock", standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception as error:
        from loradock.cli.errors import report

        code = report(error, as_json="--json" in arguments)
        if code is None:
            raise
        return code
    return ended if isinstance(ended, int) else 0  # a number is what `typer.Exit` was raised with


def main() -> None:
    """Be the command `loradock`."""
    sys.exit(run(sys.argv[1:]))
