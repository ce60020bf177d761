"""What the global options say: where the server is, in which project, with which token."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from loradock.cli.refusal import CommandError

if TYPE_CHECKING:
    from loradock.client import Client


@dataclass(frozen=True, slots=True)
class Session:
    """One invocation's connection settings. Nothing is connected until a client is asked for."""

    address: str
    project: str
    token: str | None
    token_file: Path | None
    timeout_s: float | None
    tls: bool
    insecure: bool

    def client(self) -> Client:
        """Connect."""
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the library's own log is not for here
        from loradock.client import Client

        return Client(
            self.address,
            project=self.project,
            token=self._token(),
            timeout_s=self.timeout_s,
            tls=self.tls,
            insecure=self.insecure,
        )

    def _token(self) -> str | None:
        if self.token_file is None:
            return self.token
        if not self.token_file.is_file():
            raise CommandError(f"there is no token file {self.token_file}")
        return self.token_file.read_text(encoding="utf-8").strip()


def connect(context: typer.Context) -> Client:
    """Connect as the global options say."""
    session = context.obj
    assert isinstance(session, Session)
    return session.client()


def confirm(question: str, yes: bool) -> None:
    """Ask before something is lost: on a terminal only, and never if `--yes` was given."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CommandError(f"{question} Nothing was done.", "say so with --yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)
