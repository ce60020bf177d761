"""Lineage: what came from what, up and down, in one call."""

import pytest
from statements import counting
from tiny_registry import TinyRegistry, digest

from loradock.registry.errors import InvalidArgument, NotAdmitted, NotFound, StillReferenced
from loradock.registry.policy import Demands
from loradock.registry.resources import (
    Dataset,
    EdgeKind,
    Heartbeat,
    Lineage,
    NodeKind,
    Residency,
)
from loradock.registry.rollout import Plan, Stage

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


def test_merges_and_distillations_have_edges_of_their_own(family):
    tiny, root, one, two, _ = family
    lineage = Lineage(merge_of=(two.digest, one.digest), distilled_from=(root.digest,))
    merged = tiny.version("merged", 4, lineage=lineage)
    assert merged.lineage == Lineage(
        merge_of=tuple(sorted((one.digest, two.digest))), distilled_from=(root.digest,)
    )
    edges = tiny.registry.lineage.graph("acme", merged.digest, upstream=True, depth=1).edges
    assert {(edge.kind, edge.parent) for edge in edges if edge.kind is not EdgeKind.BASE} == {
        (EdgeKind.MERGE_OF, one.digest),
        (EdgeKind.MERGE_OF, two.digest),
        (EdgeKind.DISTILLED_FROM, root.digest),
    }
    below = tiny.registry.lineage.graph("acme", ROWS.digest, upstream=False)
    assert "merged@2" in _labels(below, NodeKind.VERSION)
    with pytest.raises(StillReferenced, match="child merged@2"):
        tiny.registry.versions.delete("acme", "triage", 1, by="bob")
    for broken, code in (((digest("x"),), "PARENT_UNKNOWN"), (("x",), "DIGEST_MALFORMED")):
        for lineage in (Lineage(merge_of=broken), Lineage(distilled_from=broken)):
            with pytest.raises(NotAdmitted) as caught:
                tiny.version("merged", 5, lineage=lineage)
            assert [problem.code for problem in caught.value.problems] == [code]


@pytest.mark.contract("R13")
def test_r13_what_a_dataset_affects_and_where_that_is_live_is_one_call(family):
    tiny, root, one, two, both = family
    other = tiny.version("apart", 9)
    registry = tiny.registry
    tiny.point(1)
    tiny.point(2, 1)
    registry.aliases.set(
        "acme", "merged", "staging", version_number=1, expected_generation=0, by="ann"
    )
    residencies = tuple(Residency(v.digest, "resident", 1, 0) for v in (two, other))
    residencies += (Residency(one.digest, "loading", 1, 0),)
    when = root.created_at
    beat = Heartbeat("gpu-1", "", "tiny", tiny.base.digests, 1, residencies, (), when)
    registry.fleet.beat(beat)
    with counting(registry) as statements:
        affected = registry.lineage.affected("acme", ROWS.digest)
    assert len(statements) <= 6
    found = {f"{v.adapter}@{v.number}": v for v in affected.versions}
    assert set(found) == {"triage@1", "triage@2", "triage@3", "merged@1"}
    pointing = {
        name: [(a.alias, a.left_at is None) for a in v.aliases] for name, v in found.items()
    }
    assert pointing == {
        "triage@1": [("production", False)],
        "triage@2": [("production", True)],
        "triage@3": [],
        "merged@1": [("staging", True)],
    }
    assert {name: v.servers for name, v in found.items() if v.servers} == {"triage@3": ("gpu-1",)}
    short = Demands(rollback_window_s=0.0)
    registry.policies.set("acme", "triage", "production", short, expected_revision=0, by="ann")
    again = registry.lineage.affected("acme", ROWS.digest)
    assert next(v for v in again.versions if v.digest == root.digest).aliases == ()
    with pytest.raises(NotFound):
        registry.lineage.affected("rival", ROWS.digest)


@pytest.mark.contract("R13")
def test_r13_a_rollouts_candidate_is_live(family):
    tiny, root, *_ = family
    tiny.point(1)
    plan = Plan((Stage(1000, 60.0),))
    tiny.registry.rollouts.start(
        "acme",
        "triage",
        "production",
        version_number=3,
        expected_generation=1,
        plan=plan,
        by="ann",
    )
    affected = tiny.registry.lineage.affected("acme", ROWS.digest)
    named = {v.number: [a.alias for a in v.aliases] for v in affected.versions}
    assert named[3] == ["production"]


@pytest.mark.contract("R13")
@pytest.mark.parametrize("length", [3, 40])
def test_r13_a_walk_is_a_bounded_number_of_queries_however_long(lite, length):
    above: tuple[str, ...] = ()
    for seed in range(length):
        above = (lite.version(seed=seed, lineage=Lineage(parents=above)).digest,)
    with counting(lite.registry) as statements:
        graph = lite.registry.lineage.graph("acme", above[0], upstream=True, depth=100)
    assert len(_labels(graph, NodeKind.VERSION)) == length
    assert len(statements) == 2
    assert sum("WITH RECURSIVE" in statement for statement in statements) == 1


def test_versions_are_searched_by_what_they_came_from(family):
    tiny, root, one, *_ = family
    tiny.version("apart", 9)
    search = tiny.registry.versions.search

    def names(**filters):
        return [f"{v.adapter}@{v.number}" for v in search("acme", **filters).items]

    assert names(derived_from=ROWS.digest) == ["merged@1", "triage@3", "triage@2", "triage@1"]
    assert names(derived_from=one.digest) == ["merged@1"]
    assert names(derived_from=one.digest, text="triage") == []
    with pytest.raises(NotFound):
        names(derived_from=digest("nothing"))
    adapters = tiny.registry.adapters.list("acme", derived_from=one.digest).items
    assert [adapter.name for adapter in adapters] == ["merged"]
    with pytest.raises(InvalidArgument):
        search("acme", derived_from="rows")
