"""Commands that other parts of Loradock contribute, by the entry-point group `loradock.commands`.

They are loaded when they are called, not when they are listed: what runs a server is heavy, and may
not be installed at all.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

GROUP = "loradock.commands"
ABOUT = {
    "serve": "Start a server on this host.",
    "backup": "Save the catalog and its blobs into a folder.",
    "restore": "Bring a backup back, into an empty catalog.",
    "migrate": "Bring the catalog's schema to this release's.",
}


@cache
def contributions() -> dict[str, EntryPoint]:
    """Find the contributed commands by name; of two, the first on the path, as for modules."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, entry)
    return found


class LoradockGroup(TyperGroup):
    """The commands of the CLI, and those contributed to it."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401
        own = list(super().list_commands(ctx))
        return [*own, *sorted(name for name in contributions() if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        own = super().get_command(ctx, cmd_name)
        if own is None and cmd_name in contributions():
            return _stand_in(cmd_name)
        return own

    def resolve_command(self, ctx: Any, args: Any) -> Any:  # noqa: ANN401
        name, found, rest = super().resolve_command(ctx, args)
        if name in contributions():
            found = _loaded(name, found if name in super().list_commands(ctx) else None)
        return name, found, rest


def _stand_in(name: str) -> Any:  # noqa: ANN401
    """Make what listings show of a command that is not loaded."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    about = ABOUT.get(name, "Contributed by another package.")
    app.command(name, short_help=about)(lambda: None)
    return typer.main.get_command(app)


def _loaded(name: str, own: Any) -> Any:  # noqa: ANN401
    """Load a command; if it can't be, take the CLI's own of that name."""
    try:
        target = contributions()[name].load()
    except (ImportError, AttributeError) as error:
        if own is not None:
            return own
        raise ImportError(str(error), name=getattr(error, "name", "")) from error
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(name)(target)
    return typer.main.get_command(app)
