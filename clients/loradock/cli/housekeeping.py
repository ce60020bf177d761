"""`loradock gc` and `loradock verify`: look after what is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli.command import DryRunOption, JsonOption, command
from loradock.cli.names import seconds_of
from loradock.cli.output import note, print_json, show_table, size_text
from loradock.cli.progress import count_progress
from loradock.cli.refusal import INTEGRITY, CommandError
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.client import Damage


def add_commands(app: typer.Typer) -> None:
    """Add the commands at the top, beside the nouns."""
    examples = ("gc --dry-run", "gc --keep-last 10 --keep-younger 90d")
    command(app, "gc", *examples, gives="a list of `Garbage`")(gc)
    command(
        app,
        "verify",
        "verify",
        gives='`{"num_blobs": …, "size_bytes": …, "damages": list of Damage}`',
    )(verify)


def gc(
    context: typer.Context,
    grace: Annotated[
        str | None,
        typer.Option("--grace", help="Only what has been garbage for so long; 1d."),
    ] = None,
    keep_last: Annotated[
        int | None,
        typer.Option("--keep-last", min=0, help="Delete versions but the last N of each adapter."),
    ] = None,
    keep_younger: Annotated[
        str | None,
        typer.Option("--keep-younger", help="Delete versions but those younger than this, as 90d."),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take away bytes that no version refers to, and what broken uploads left.

    It is safe while others publish. A grace shorter than an upload takes makes some be sent again.
    With --keep-last or --keep-younger, versions of the project go, too, ready or yanked: those that
    neither keeps and to which nothing refers, that is no alias, rollout, rollback window, hold,
    child or live server. Their bytes go with a later run.
    """
    with connect(context) as client:
        found = list(
            client.admin.collect_garbage(
                grace_s=seconds_of(grace),
                keep_last=keep_last,
                keep_younger_s=seconds_of(keep_younger),
                dry_run=dry_run,
            )
        )
    show_table(
        found,
        {
            "kind": lambda garbage: garbage.kind,
            "size": lambda garbage: size_text(garbage.size_bytes),
            "name": lambda garbage: garbage.name,
        },
        as_json,
    )
    size = size_text(sum(garbage.size_bytes for garbage in found))
    note(f"{len(found)} things of {size} {'would be' if dry_run else 'were'} taken away")


def verify(context: typer.Context, as_json: JsonOption = False) -> None:
    """Read every stored byte again and hold it against the catalog; exit code 7 if one differs."""
    damages: list[Damage] = []
    num_blobs, size_bytes = 0, 0
    with connect(context) as client, count_progress("blobs") as show:
        for told in client.admin.verify():
            num_blobs, size_bytes = told.num_blobs, told.size_bytes
            damages += told.damages
            show(num_blobs)
    if as_json:
        print_json({"num_blobs": num_blobs, "size_bytes": size_bytes, "damages": damages})
    elif damages:
        show_table(
            damages,
            {
                "kind": lambda damage: damage.kind,
                "name": lambda damage: damage.name,
                "of": lambda damage: damage.referrers,
                "what": lambda damage: damage.detail,
            },
            as_json,
        )
    note(f"{num_blobs} blobs of {size_text(size_bytes)} were read")
    _refuse_damage(damages)


def _refuse_damage(damages: list[Damage]) -> None:
    """Let bytes that versions need decide over the exit code; an orphan costs room alone."""
    bad = [damage for damage in damages if damage.kind.value in ("corrupt", "missing")]
    if bad:
        raise CommandError(
            f"{len(bad)} blobs are not what the catalog says",
            "push the same files again: what is damaged is sent, and replaced; or restore a backup",
            INTEGRITY,
        )
