"""`loradock lineage`: where a version came from, and what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli.command import JsonOption, command, noun
from loradock.cli.output import print_json, short_digest
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.client import LineageGraph

app = noun("lineage", "See where versions came from, and what came of them.")


@command(
    app,
    "show",
    "lineage show support-triage@2",
    "lineage show --dataset sha256:… --down",
    gives="`LineageGraph`",
)
def show(
    context: typer.Context,
    reference: Annotated[str | None, typer.Argument(metavar="REFERENCE")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="DIGEST")] = None,
    base: Annotated[str | None, typer.Option("--base")] = None,
    down: Annotated[bool, typer.Option("--down", help="What came of it.")] = False,
    depth: Annotated[int, typer.Option("--depth", min=0, help="0 is the server's limit.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show the tree from a version, a dataset or a base upwards, or with --down downwards."""
    direction = "downstream" if down else "upstream"
    with connect(context) as client:
        graph = client.lineage(
            reference,
            dataset=dataset,
            base=base,
            direction="downstream" if down else "upstream",
            max_depth=depth,
        )
    if as_json:
        print_json(graph)
        return
    for line in tree_lines(graph, direction):
        print(line)


def tree_lines(graph: LineageGraph, direction: str) -> Iterator[str]:
    """Draw a graph as a tree; what hangs in several places is drawn once and then referred to."""
    labels = {node.id: f"{node.kind.value} {_label(node.label, node.id)}" for node in graph.nodes}
    children: dict[str, list[str]] = defaultdict(list)
    for edge in graph.edges:
        near, far = edge.child, edge.parent
        if direction == "downstream":
            near, far = far, near
        children[near].append(far)
    drawn: set[str] = set()

    def branch(node: str, indent: str) -> Iterator[str]:
        drawn.add(node)
        below = sorted(set(children[node]), key=lambda far: labels.get(far, far))
        for place, far in enumerate(below, start=1):
            corner, next_indent = ("└── ", "    ") if place == len(below) else ("├── ", "│   ")
            again = far in drawn and bool(children[far])
            yield f"{indent}{corner}{labels.get(far, far)}{' (above)' if again else ''}"
            if not again:
                yield from branch(far, indent + next_indent)

    yield labels.get(graph.root, graph.root)
    yield from branch(graph.root, "")


def _label(label: str, node_id: str) -> str:
    digest = short_digest(node_id)
    return f"{label} ({digest})" if label and label != node_id else digest
