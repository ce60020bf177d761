"""Where versions come from: a graph of digests, walked by one recursive query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CTE, Connection, Select, literal, select

from loradock.registry.affected import Affected
from loradock.registry.catalog.affected import find_affected
from loradock.registry.catalog.bases import id_of
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.tables import (
    base_models,
    lineage_edges,
    lineage_nodes,
)
from loradock.registry.catalog.types import insert_new
from loradock.registry.errors import InvalidArgument, NotFound
from loradock.registry.manifest import base_identity, canonical_json, digest_bytes
from loradock.registry.names import check_digest, check_name
from loradock.registry.resources import (
    BaseDigests,
    BaseModel,
    EdgeKind,
    Lineage,
    LineageEdge,
    LineageGraph,
    LineageNode,
    NodeKind,
)

MAX_DEPTH = 1000


class LineageReader:
    """Answers what something came from, and what came from it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def graph(self, project: str, node_id: str, *, upstream: bool, depth: int = 32) -> LineageGraph:
        """Walk from a version's or dataset's digest, or from a base by its name or identity."""
        check_name("project", project)
        if not 0 <= depth <= MAX_DEPTH:
            raise InvalidArgument("depth", f"{depth} is not in 0..{MAX_DEPTH}")
        with self._database.read() as c:
            root = _root(c, node_id)
            edges = _walk(c, project, root, upstream, depth)
            ids = {root} | {e.child for e in edges} | {e.parent for e in edges}
            nodes = _nodes(c, project, ids)
        if not nodes:
            raise NotFound("lineage node", node_id)
        return LineageGraph(root, nodes, edges)

    def affected(self, project: str, node_id: str) -> Affected:
        """Tell what came of a node, and where that is live: aliases, rollback windows, servers."""
        check_name("project", project)
        with self._database.read() as c:
            root = _root(c, node_id)
            check_node(c, project, root, node_id)
            return find_affected(c, project, root, versions_below(project, root))


def check_node(c: Connection, project: str, root: str, name: str = "") -> None:
    """Raise NotFound unless something that was published is or names a node."""
    mine = (lineage_nodes.c.project == project) & (lineage_nodes.c.id == root)
    if c.execute(select(lineage_nodes.c.id).where(mine)).one_or_none() is None:
        raise NotFound("lineage node", name or root)


def versions_below(project: str, root: str) -> Select[Any]:
    """Select the digests of what came of a node, and the node itself, by one recursive query."""
    return select(_reached(project, root, False, MAX_DEPTH).c.id)


@dataclass(frozen=True, slots=True)
class Origin:
    """A version whose edges are to be drawn."""

    project: str
    digest: str
    label: str
    base: BaseModel
    lineage: Lineage


def record_lineage(c: Connection, origin: Origin) -> None:
    """Draw a version's edges. The same content elsewhere in the project has drawn them already."""
    version = LineageNode(NodeKind.VERSION, origin.digest, origin.label)
    parents = list(_parents(origin))
    _check_acyclic(c, origin)
    for node in (version, *(node for _, node in parents)):
        row = {"project": origin.project, "id": node.id, "label": node.label}
        insert_new(c, lineage_nodes, {**row, "kind": node.kind.value})
    for kind, parent in parents:
        edge = {"project": origin.project, "child": origin.digest, "parent": parent.id}
        insert_new(c, lineage_edges, {**edge, "kind": kind.value})


def _parents(origin: Origin) -> Iterable[tuple[EdgeKind, LineageNode]]:
    base = LineageNode(NodeKind.BASE, base_identity(origin.base.digests), origin.base.name)
    yield EdgeKind.BASE, base
    for kind, digests in (
        (EdgeKind.PARENT, origin.lineage.parents),
        (EdgeKind.MERGE_OF, origin.lineage.merge_of),
        (EdgeKind.DISTILLED_FROM, origin.lineage.distilled_from),
    ):
        for digest in digests:
            yield kind, LineageNode(NodeKind.VERSION, digest, digest)
    for dataset in origin.lineage.datasets:
        yield EdgeKind.DATASET, LineageNode(NodeKind.DATASET, dataset.digest, dataset.name)
    if origin.lineage.training:
        facts = canonical_json(origin.lineage.training)
        label = str(origin.lineage.training.get("run", "training"))[:256]
        yield EdgeKind.TRAINING, LineageNode(NodeKind.TRAINING, digest_bytes(facts), label)


def _check_acyclic(c: Connection, origin: Origin) -> None:
    # A child's digest covers its parents', so a cycle would be a fixed point of sha256.
    above = {edge.parent for edge in _above(c, origin)} | set(origin.lineage.versions)
    if origin.digest in above:
        raise InvalidArgument("lineage", "would make a version its own ancestor")


def _above(c: Connection, origin: Origin) -> list[LineageEdge]:
    known = select(lineage_nodes.c.id).where(
        lineage_nodes.c.project == origin.project, lineage_nodes.c.id == origin.digest
    )
    if not origin.lineage.versions or c.execute(known).one_or_none() is None:
        return []
    edges: list[LineageEdge] = []
    for parent in origin.lineage.versions:
        edges += _walk(c, origin.project, parent, True, MAX_DEPTH)
    return edges


def _root(c: Connection, node_id: str) -> str:
    if node_id.startswith("sha256:"):
        return check_digest("node_id", node_id)
    check_name("base", node_id)
    query = select(base_models).where(base_models.c.id == id_of(c, node_id))
    row = c.execute(query).one()
    return base_identity(BaseDigests(row.structural, row.weights, row.tokenizer))


def _walk(c: Connection, project: str, root: str, upstream: bool, depth: int) -> list[LineageEdge]:
    reached = _reached(project, root, upstream, depth)
    start = lineage_edges.c.child if upstream else lineage_edges.c.parent
    near = select(reached.c.id).where(reached.c.depth < depth)
    query = select(lineage_edges).where(lineage_edges.c.project == project, start.in_(near))
    ordered = query.order_by(lineage_edges.c.child, lineage_edges.c.kind, lineage_edges.c.parent)
    return [LineageEdge(EdgeKind(row.kind), row.child, row.parent) for row in c.execute(ordered)]


def _reached(project: str, root: str, upstream: bool, depth: int) -> CTE:
    here, there = lineage_edges.c.child, lineage_edges.c.parent
    if not upstream:
        here, there = there, here
    reached = select(literal(root).label("id"), literal(0).label("depth")).cte(
        "reached", recursive=True
    )
    step = (
        select(there, reached.c.depth + 1)
        .join(reached, reached.c.id == here)
        .where(lineage_edges.c.project == project, reached.c.depth < depth)
    )
    return reached.union(step)


def _nodes(c: Connection, project: str, ids: set[str]) -> list[LineageNode]:
    found: list[LineageNode] = []
    wanted = sorted(ids)
    for start in range(0, len(wanted), 500):
        query = select(lineage_nodes).where(
            lineage_nodes.c.project == project,
            lineage_nodes.c.id.in_(wanted[start : start + 500]),
        )
        found += [LineageNode(NodeKind(r.kind), r.id, r.label) for r in c.execute(query)]
    return sorted(found, key=lambda node: (node.kind.value, node.label, node.id))
