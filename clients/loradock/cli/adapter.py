"""`loradock adapter`: publish adapters, fetch them, find them, take them back."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli import version_state
from loradock.cli.command import (
    DryRunOption,
    JsonOption,
    LimitOption,
    YesOption,
    command,
    noun,
)
from loradock.cli.names import metric_filter, split_version
from loradock.cli.output import (
    note,
    print_json,
    short_digest,
    show_record,
    show_table,
    size_text,
)
from loradock.cli.progress import transfer_progress
from loradock.cli.refusal import CONFLICT, CommandError
from loradock.cli.session import confirm, connect
from loradock.cli.version_state import show_version

if TYPE_CHECKING:
    from loradock.client import Adapter, Client, Version

app = noun("adapter", "Publish adapters, fetch them, find them, take them back.")

BaseFilter = Annotated[str, typer.Option("--base", help="Made for this base.")]
TagFilter = Annotated[str, typer.Option("--tag", help="With this tag.")]
TextFilter = Annotated[str, typer.Option("--text", help="With this in name or description.")]
MetricOption = Annotated[
    str | None, typer.Option("--metric", help="Good enough: SUITE:METRIC>=0.9 (or <=).")
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="REFERENCE|DIGEST", help="Came from a version or a dataset."),
]
OwnerOption = Annotated[str | None, typer.Option("--owner", help="Who looks after it.")]
DescriptionOption = Annotated[str | None, typer.Option("--description", help="What it is for.")]
TagsOption = Annotated[list[str] | None, typer.Option("--tag", help="All its tags; repeatable.")]

VERSION_COLUMNS = {
    "version": lambda v: v.reference,
    "state": lambda v: v.state,
    "base": lambda v: v.base_model.removeprefix("baseModels/"),
    "rank": lambda v: v.max_rank,
    "modules": lambda v: v.num_modules,
    "size": lambda v: size_text(v.weights.size_bytes),
    "digest": lambda v: short_digest(v.digest),
    "published": lambda v: v.created_at,
    "by": lambda v: v.created_by,
}


@command(
    app,
    "push",
    "adapter push support-triage ./out --base smollm2-135m-instruct",
    gives="`Published`",
)
def push(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument(help="The series; made if it is new.")],
    folder: Annotated[Path, typer.Argument(help="As PEFT's save_pretrained writes it.")],
    base: Annotated[str, typer.Option("--base", help="The base that it was trained on.")],
    parent: Annotated[
        list[str] | None, typer.Option("--parent", help="A version it grew from; repeatable.")
    ] = None,
    merge_of: Annotated[
        list[str] | None, typer.Option("--merge-of", help="A version merged into it; repeatable.")
    ] = None,
    distilled_from: Annotated[
        list[str] | None,
        typer.Option("--distilled-from", help="A version whose answers it learnt; repeatable."),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Publish a folder as a new version.

    The folder holds adapter_config.json and adapter_model.safetensors, and optionally profile.json
    (template, system, labels, decoding) and lineage.json (parents, merge_of, distilled_from,
    datasets, training). A folder that was pulled has version.json, too, and is published for that
    exact base only. What the registry has already is not sent again; the same content gives the
    same version. With --dry-run the bytes go up to be checked against the base, but no version is
    published.
    """
    if not folder.is_dir():
        raise CommandError(f"there is no folder {folder}")
    with connect(context) as client, transfer_progress() as progress:
        published = client.versions.push(
            adapter,
            folder,
            base=base,
            parents=parent,
            merge_of=merge_of,
            distilled_from=distilled_from,
            progress=progress,
            validate_only=dry_run,
        )
    if dry_run:
        note(f"{folder} would be admitted as a version of {adapter}")
    elif not published.created:
        note(f"{adapter} has this content already, as {published.version.reference}")
    if as_json:
        print_json(published)
        return
    show_version(published.version, as_json)


@command(app, "pull", "adapter pull support-triage:production ./pulled", gives="`Version`")
def pull(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REFERENCE")],
    folder: Annotated[Path, typer.Argument()],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other files.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a version into a folder, verified by its digests.

    The folder can be pushed again and gives the same digest.
    """
    with connect(context) as client:
        if dry_run:
            version = client.versions.resolve(reference).version
            size = size_text(version.weights.size_bytes + version.config.size_bytes)
            note(f"would fetch {version.reference}, {size}, into {folder}")
        else:
            with transfer_progress() as progress:
                version = client.versions.pull(
                    reference, folder, overwrite=overwrite, progress=progress
                )
    show_version(version, as_json)


@command(
    app,
    "create",
    "adapter create support-triage --description 'Sorts messages' --tag support",
    gives="`Adapter`; with --dry-run `null`",
)
def create(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument()],
    owner: OwnerOption = None,
    description: DescriptionOption = None,
    tags: TagsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Create an adapter without a version. A push of the first version does so, too."""
    from loradock.client import NotFound

    with connect(context) as client:
        if not dry_run:
            made = client.adapters.create(
                adapter, owner=owner or "", description=description or "", tags=tags or ()
            )
            show_record(made, _adapter_fields(made), as_json)
            return
        with suppress(NotFound):
            client.adapters.get(adapter)
            raise CommandError(f"{adapter} exists already", exit_code=CONFLICT)
    note(f"{adapter} would be created")
    if as_json:
        print_json(None)


@command(app, "update", "adapter update support-triage --owner team-a", gives="`Adapter`")
def update(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument()],
    owner: OwnerOption = None,
    description: DescriptionOption = None,
    tags: TagsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change who owns an adapter, what it is for, and its tags. What is not given stays."""
    with connect(context) as client:
        found = client.adapters.get(adapter)
        if dry_run:
            note(f"{adapter} would be updated")
        else:
            found = client.adapters.update(
                adapter, owner=owner, description=description, tags=tags, etag=found.etag
            )
    show_record(found, _adapter_fields(found), as_json)


@command(
    app,
    "list",
    "adapter list --tag support",
    "adapter list --base smollm2-135m-instruct --metric 'heldout:accuracy>=0.9'",
    gives="a list of `Adapter`",
)
def list_(
    context: typer.Context,
    base: BaseFilter = "",
    tag: TagFilter = "",
    text: TextFilter = "",
    metric: MetricOption = None,
    derived_from: FromOption = None,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """List adapters."""
    with connect(context) as client:
        found = client.adapters.list(
            base=base,
            tag=tag,
            text=text,
            metric=metric_filter(metric),
            derived_from=_digest(client, derived_from),
        )
        show_table(
            islice(found, limit),
            {
                "adapter": lambda a: a.name,
                "versions": lambda a: a.num_versions,
                "owner": lambda a: a.owner,
                "tags": lambda a: a.tags,
                "description": lambda a: a.description,
                "updated": lambda a: a.updated_at,
            },
            as_json,
        )


@command(
    app,
    "search",
    "adapter search --metric 'heldout:accuracy>=0.9'",
    "adapter search --from support-triage@1 --tag support",
    gives="a list of `Version`",
)
def search(
    context: typer.Context,
    base: BaseFilter = "",
    tag: TagFilter = "",
    text: TextFilter = "",
    metric: MetricOption = None,
    derived_from: FromOption = None,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find versions over all adapters."""
    with connect(context) as client:
        found = client.versions.search(
            base=base,
            tag=tag,
            text=text,
            metric=metric_filter(metric),
            derived_from=_digest(client, derived_from),
        )
        show_table(islice(found, limit), VERSION_COLUMNS, as_json)


def _digest(client: Client, origin: str | None) -> str:
    if origin is None or origin.startswith("sha256:"):
        return origin or ""
    return client.versions.resolve(origin).version.digest


@command(
    app,
    "show",
    "adapter show support-triage",
    "adapter show support-triage:production",
    gives="`Version`; for a bare name "
    '`{"adapter": Adapter, "versions": [Version], "aliases": [Alias]}`',
)
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ADAPTER|REFERENCE")],
    as_json: JsonOption = False,
) -> None:
    """Show an adapter with its versions and aliases, or one version.

    A bare name is the adapter. A version is named as in support-triage@2, which also finds a yanked
    one, support-triage:staging or support-triage@sha256:….
    """
    with connect(context) as client:
        if ":" in name or "@" in name:
            show_version(_version(client, name), as_json)
        else:
            _show_adapter(client, name, as_json)


def _version(client: Client, reference: str) -> Version:
    adapter, _, number = reference.partition("@")
    if number.isdecimal():
        return client.versions.get(adapter, int(number))
    return client.versions.resolve(reference).version


def _show_adapter(client: Client, name: str, as_json: bool) -> None:
    adapter = client.adapters.get(name)
    versions = list(client.versions.list(name, include_yanked=True))
    aliases = list(client.aliases.list(name))
    if as_json:
        print_json({"adapter": adapter, "versions": versions, "aliases": aliases})
        return
    pointed = [f"{alias.name} → @{alias.version_number}" for alias in aliases]
    show_record(adapter, _adapter_fields(adapter) | {"aliases": pointed or "none"}, as_json)
    if versions:
        print()
        show_table(versions, VERSION_COLUMNS, as_json)


def _adapter_fields(adapter: Adapter) -> dict[str, object]:
    return {
        "adapter": adapter.name,
        "project": adapter.project,
        "owner": adapter.owner,
        "description": adapter.description,
        "tags": adapter.tags or "",
        "created": adapter.created_at,
    }


@command(
    app,
    "delete",
    "adapter delete support-triage@1",
    "adapter delete old-task --yes",
    gives='`{"deleted": true or false, "name": …, "was": Version or Adapter}`',
)
def delete(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ADAPTER[@N]")],
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a version that nothing refers to, or an adapter that has nothing left."""
    if ":" in name:
        raise CommandError(f"{name!r} is an alias", f"loradock alias delete {name}")
    adapter, number = split_version(name) if "@" in name else (name, None)
    with connect(context) as client:
        what = client.adapters.get(adapter) if number is None else _version(client, name)
        if not dry_run:
            confirm(f"Delete {name} for good?", yes)
            if number is None:
                client.adapters.delete(adapter)
            else:
                client.versions.delete(adapter, number)
    note(f"{name} {'would be' if dry_run else 'was'} deleted")
    if as_json:
        print_json({"deleted": not dry_run, "name": name, "was": what})


version_state.add_commands(app)
