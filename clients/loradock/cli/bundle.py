"""`loradock export` and `loradock import`: versions in one file, for a host without network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loradock.cli.command import DryRunOption, JsonOption, command
from loradock.cli.output import note, print_json, short_digest, show_table, size_text
from loradock.cli.progress import transfer_progress
from loradock.cli.refusal import CONFLICT, CommandError
from loradock.cli.session import connect

AliasesOption = Annotated[bool, typer.Option("--aliases", help="Their aliases as well.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands at the top, beside the nouns."""
    command(
        app,
        "export",
        "export support-triage@7 --to triage.tar",
        "export --adapter support-triage --adapter pii-redact --aliases --to all.tar",
        gives='`{"file": …, "size_bytes": …}`',
    )(export)
    command(
        app,
        "import",
        "import triage.tar --dry-run",
        "import all.tar --aliases",
        gives="`Imported`",
    )(import_)


def export(
    context: typer.Context,
    to: Annotated[Path, typer.Option("--to", help="The file to write.")],
    references: Annotated[list[str] | None, typer.Argument(metavar="REFERENCE")] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapter", help="All versions of this adapter; repeatable."),
    ] = None,
    aliases: AliasesOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write versions, and all that they need, into one file.

    It holds their manifests, weights and configs, the versions that they grew from, their base's
    record, their evaluations, and with --aliases the aliases that point at them. It is a tar file
    that appears when it is whole.
    """
    if not references and not adapters:
        raise CommandError("name a version, or an adapter with --adapter")
    if str(to) == "-":
        raise CommandError("a bundle appears when it is whole, so not on stdout", "name a file")
    if to.exists() and not overwrite:
        raise CommandError(f"{to} is there already", "replace it with --overwrite", CONFLICT)
    if not to.parent.is_dir():
        raise CommandError(f"there is no folder {to.parent}")
    with connect(context) as client, transfer_progress() as progress:
        size_bytes = client.admin.export_bundle(
            to,
            references or (),
            adapters=adapters or (),
            with_aliases=aliases,
            progress=progress,
        )
    note(f"{to} has {size_text(size_bytes)}")
    if as_json:
        print_json({"file": str(to), "size_bytes": size_bytes})


def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    aliases: AliasesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Publish what an exported file holds, to the same digests.

    Every byte is hashed and every version admitted as in a push. What is here already is left as
    it is, so that an import can be repeated. --aliases moves aliases as in the file, under the
    policies that hold here. With --dry-run everything is read and hashed, and nothing is published.
    """
    if not file.is_file():
        raise CommandError(f"there is no file {file}")
    with connect(context) as client, transfer_progress() as progress:
        done = client.admin.import_bundle(
            file, with_aliases=aliases, dry_run=dry_run, progress=progress
        )
    if as_json:
        print_json(done)
    else:
        show_table(
            done.versions,
            {
                "from": lambda version: version.source,
                "here": lambda version: version.reference or "new",
                "created": lambda version: "yes" if version.created else "no",
                "digest": lambda version: short_digest(version.digest),
            },
            as_json,
        )
    verb = "would be" if dry_run else "were"
    num_new = sum(version.created for version in done.versions)
    told = f"{num_new} versions and {done.num_evaluations} evaluations {verb} new"
    for what, names in (("bases", done.base_models), ("aliases moved", done.aliases)):
        told += f"; {what}: {', '.join(names)}" if names else ""
    note(told)
