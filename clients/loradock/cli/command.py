"""How a command is declared: its help begins with examples, its listing with one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

F = TypeVar("F", bound=Callable[..., None])

JsonOption = Annotated[bool, typer.Option("--json", help="Give JSON, as docs/cli.md describes.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Tell what would happen.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask. Needed off a terminal.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the record.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Give at most so many.")]


def noun(name: str, about: str) -> typer.Typer:
    """Make the group of a noun's commands."""
    return typer.Typer(name=name, help=about, no_args_is_help=True, rich_markup_mode=None)


GIVES: dict[Callable[..., None], str] = {}  # what --json gives, for docs/cli.md


def command(app: typer.Typer, name: str, *examples: str, gives: str) -> Callable[[F], F]:
    """Declare a command; its docstring is its help, after the examples."""

    def declare(function: F) -> F:
        about = inspect.getdoc(function) or ""
        shown = "\n".join(f"  $ loradock {example}" for example in examples)
        short = about.splitlines()[0]
        GIVES[function] = gives
        app.command(name, help=f"\b\nExample:\n{shown}\n\n{about}", short_help=short)(function)
        return function

    return declare
