"""Lineage: what came from what, up and down, in one call."""

import pytest
from tiny_registry import TinyRegistry, digest

from loradock.registry.errors import InvalidArgument, NotFound
from loradock.registry.resources import Dataset, EdgeKind, Lineage, NodeKind

ROWS = Dataset("rows", digest("rows"))


@pytest.fixture
def family(tiny):
    """Root, two children, and a grandchild of both."""
    root = tiny.version(lineage=Lineage(datasets=(ROWS,), training={"run": "r-1", "lr": 0.1}))
    one = tiny.version(seed=1, lineage=Lineage(parents=(root.digest,)))
    two = tiny.version(seed=2, lineage=Lineage(parents=(root.digest,), datasets=(ROWS,)))
    both = tiny.version("merged", 3, lineage=Lineage(parents=(one.digest, two.digest)))
    return tiny, root, one, two, both


def _labels(graph, kind):
    return {node.label for node in graph.nodes if node.kind is kind}


def test_upstream_of_a_version(family):
    tiny, root, one, two, both = family
    graph = tiny.registry.lineage.graph("acme", both.digest, upstream=True)
    assert _labels(graph, NodeKind.VERSION) == {"triage@1", "triage@2", "triage@3", "merged@1"}
    assert _labels(graph, NodeKind.DATASET) == {"rows"}
    assert _labels(graph, NodeKind.TRAINING) == {"r-1"}
    assert _labels(graph, NodeKind.BASE) == {"tiny"}
    parents = {(e.child, e.parent) for e in graph.edges if e.kind is EdgeKind.PARENT}
    assert parents == {
        (both.digest, one.digest),
        (both.digest, two.digest),
        (one.digest, root.digest),
        (two.digest, root.digest),
    }


def test_downstream_of_a_dataset_and_a_base(family):
    tiny, *_ = family
    everything = {"triage@1", "triage@2", "triage@3", "merged@1"}
    for start in (ROWS.digest, "tiny"):
        graph = tiny.registry.lineage.graph("acme", start, upstream=False)
        assert _labels(graph, NodeKind.VERSION) == everything


def test_depth_bounds_the_walk(family):
    tiny, root, one, two, _ = family
    graph = tiny.registry.lineage.graph("acme", root.digest, upstream=False, depth=1)
    assert _labels(graph, NodeKind.VERSION) == {"triage@1", "triage@2", "triage@3"}
    alone = tiny.registry.lineage.graph("acme", root.digest, upstream=False, depth=0)
    assert (len(alone.nodes), alone.edges) == (1, [])


def test_projects_do_not_see_each_others_graph(family):
    tiny, root, *_ = family
    with pytest.raises(NotFound):
        tiny.registry.lineage.graph("rival", root.digest, upstream=True)
    TinyRegistry(tiny.registry, "rival").publish(lineage=Lineage(datasets=(ROWS,)))
    graph = tiny.registry.lineage.graph("rival", ROWS.digest, upstream=False)
    assert _labels(graph, NodeKind.VERSION) == {"triage@1"}


def test_a_node_that_is_none_is_told(lite):
    graph = lite.registry.lineage.graph
    for unknown in ("other", digest("x")):
        with pytest.raises(NotFound):
            graph("acme", unknown, upstream=True)
    with pytest.raises(InvalidArgument):
        graph("acme", digest("x"), upstream=True, depth=-1)
