"""A lineage graph as a tree for a terminal, as Graphviz's DOT, and as Mermaid's flowchart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradock.cli.output import short_digest

if TYPE_CHECKING:
    from loradock.client import LineageEdge, LineageGraph, LineageNode

_DOT_SHAPES = {"base": "box3d", "version": "box", "dataset": "cylinder", "training": "note"}
_MERMAID_SHAPES = {
    "base": ("[[", "]]"),
    "version": ("[", "]"),
    "dataset": ("[(", ")]"),
    "training": ("([", "])"),
}
_PLAIN = {"base", "dataset", "training"}  # edges whose kind the node's own tells already


def tree_lines(graph: LineageGraph, down: bool) -> Iterator[str]:
    """Draw a graph as a tree; what hangs in several places is drawn once and then referred to."""
    labels = {node.id: f"{node.kind.value} {_label(node)}" for node in graph.nodes}
    children: dict[str, dict[str, str]] = defaultdict(dict)
    for edge in graph.edges:
        near, far = (edge.parent, edge.child) if down else (edge.child, edge.parent)
        children[near][far] = _how(edge)
    drawn: set[str] = set()

    def branch(node: str, indent: str) -> Iterator[str]:
        drawn.add(node)
        below = sorted(children[node].items(), key=lambda item: labels.get(item[0], item[0]))
        for place, (far, how) in enumerate(below, start=1):
            corner, next_indent = ("└── ", "    ") if place == len(below) else ("├── ", "│   ")
            again = far in drawn and bool(children[far])
            yield f"{indent}{corner}{labels.get(far, far)}{how}{' (above)' if again else ''}"
            if not again:
                yield from branch(far, indent + next_indent)

    yield labels.get(graph.root, graph.root)
    yield from branch(graph.root, "")


def _how(edge: LineageEdge) -> str:
    kind = edge.kind.value
    return "" if kind in _PLAIN or kind == "parent" else f" ({kind})"


def dot_lines(graph: LineageGraph) -> Iterator[str]:
    """Write a graph for Graphviz; an arrow leads from what was to what came of it."""
    yield "digraph lineage {"
    yield "  rankdir=LR;"
    for node in graph.nodes:
        shape = _DOT_SHAPES.get(node.kind.value, "box")
        bold = ", style=bold" if node.id == graph.root else ""
        yield f"  {_quoted(node.id)} [label={_quoted(_label(node))}, shape={shape}{bold}];"
    for edge in graph.edges:
        label = "" if edge.kind.value in _PLAIN else f" [label={_quoted(edge.kind.value)}]"
        yield f"  {_quoted(edge.parent)} -> {_quoted(edge.child)}{label};"
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def mermaid_lines(graph: LineageGraph) -> Iterator[str]:
    """Write a graph for Mermaid; an arrow leads from what was to what came of it."""
    names = {node.id: f"n{place}" for place, node in enumerate(graph.nodes)}
    yield "flowchart LR"
    for node in graph.nodes:
        left, right = _MERMAID_SHAPES.get(node.kind.value, ("[", "]"))
        yield f'  {names[node.id]}{left}"{_entities(_label(node))}"{right}'
    for edge in graph.edges:
        label = "" if edge.kind.value in _PLAIN else f"|{edge.kind.value}|"
        yield f"  {names[edge.parent]} -->{label} {names[edge.child]}"


def _entities(text: str) -> str:
    """Write what Mermaid would take for its own syntax as it wants it."""
    special = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "\n": " "}
    return "".join(special.get(letter, letter) for letter in text)


def _label(node: LineageNode) -> str:
    digest = short_digest(node.id)
    return f"{node.label} ({digest})" if node.label and node.label != node.id else digest
