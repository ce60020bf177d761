"""`loradock lineage`: where a version came from, what came of it, and where that is live."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli.command import JsonOption, command, noun
from loradock.cli.names import dataset_digest
from loradock.cli.output import print_json, show_table, text_of
from loradock.cli.refusal import CommandError
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.client import AffectedAlias

app = noun("lineage", "See where versions came from, what came of them, and where that is live.")

ReferenceArgument = Annotated[str | None, typer.Argument(metavar="REFERENCE")]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", metavar="FILE|DIGEST", help="The rows: a file or a digest."),
]
BaseOption = Annotated[str | None, typer.Option("--base", help="By name.")]


class Format(enum.Enum):
    """How a graph is written."""

    TREE = "tree"
    DOT = "dot"
    MERMAID = "mermaid"
    JSON = "json"


@command(
    app,
    "show",
    "lineage show support-triage@2",
    "lineage show --dataset sha256:… --down",
    "lineage show support-triage@2 --format dot | dot -Tsvg > lineage.svg",
    gives="`LineageGraph`",
)
def show(
    context: typer.Context,
    reference: ReferenceArgument = None,
    dataset: DatasetOption = None,
    base: BaseOption = None,
    down: Annotated[bool, typer.Option("--down", help="What came of it.")] = False,
    depth: Annotated[int, typer.Option("--depth", min=0, help="0 is the server's limit.")] = 0,
    form: Annotated[
        Format, typer.Option("--format", help="tree, dot (Graphviz), mermaid or json.")
    ] = Format.TREE,
    as_json: JsonOption = False,
) -> None:
    """Show the tree from a version, a dataset or a base upwards, or with --down downwards."""
    from loradock.cli.graph import dot_lines, mermaid_lines, tree_lines

    _check_start(reference, dataset, base)
    with connect(context) as client:
        graph = client.lineage(
            reference,
            dataset=dataset and dataset_digest(dataset),
            base=base,
            direction="downstream" if down else "upstream",
            max_depth=depth,
        )
    if as_json or form is Format.JSON:
        print_json(graph)
        return
    draw = {Format.DOT: dot_lines, Format.MERMAID: mermaid_lines}.get(form)
    for line in tree_lines(graph, down) if draw is None else draw(graph):
        print(line)


@command(
    app,
    "affected",
    "lineage affected --dataset sha256:…",
    "lineage affected support-triage@1",
    gives="`Affected`",
)
def affected(
    context: typer.Context,
    reference: ReferenceArgument = None,
    dataset: DatasetOption = None,
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the versions that came of a version, a dataset or a base, and where they are live.

    That is: the aliases that point at each, share requests out to it, or did point there within
    their rollback windows; and the servers that have it resident.
    """
    _check_start(reference, dataset, base)
    with connect(context) as client:
        found = client.affected(reference, dataset=dataset and dataset_digest(dataset), base=base)
    if as_json:
        print_json(found)
        return
    show_table(
        found.versions,
        {
            "version": lambda v: f"{v.adapter}@{v.number}",
            "state": lambda v: v.state,
            "aliases": lambda v: [_alias_text(alias) for alias in v.aliases] or None,
            "servers": lambda v: v.servers or None,
        },
        as_json,
    )


def _check_start(reference: str | None, dataset: str | None, base: str | None) -> None:
    if sum(bool(start) for start in (reference, dataset, base)) != 1:
        raise CommandError("name one start: a version's reference, --dataset or --base")


def _alias_text(alias: AffectedAlias) -> str:
    name = f"{alias.adapter}:{alias.alias}"
    return name if alias.left_at is None else f"{name} (until {text_of(alias.left_at)})"
