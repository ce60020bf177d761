"""Retention: which versions garbage collection deletes, if it is asked to (R10)."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy import text
from tiny_registry import TinyRegistry, digest

from loradock.registry.catalog.retention import Retention
from loradock.registry.errors import (
    InvalidArgument,
    NotFound,
    StaleGeneration,
    StillReferenced,
    StoreUnavailable,
    VersionYanked,
)
from loradock.registry.garbage import Garbage, GarbageKind
from loradock.registry.policy import Demands
from loradock.registry.resources import Lineage, VersionState

KEY = ("acme", "triage", "production")


def collect(tiny, *, dry_run=False, grace_s=3600.0, **retention):
    kept = Retention(**retention) if retention else None
    collector = tiny.registry.garbage
    found = collector.collect("acme", grace_s=grace_s, retention=kept, dry_run=dry_run, by="op")
    return list(found)


def assert_whole(tiny):
    """Read every byte of every version that is not deleted; give their digests."""
    listed = tiny.registry.versions.list("acme", "triage", include_yanked=True, page_size=1000)
    for version in listed.items:
        for wanted in (version.digest, version.delta.weights.digest, version.delta.config.digest):
            assert digest(b"".join(tiny.registry.blobs.read("acme", wanted))) == wanted
    return {version.digest for version in listed.items}


def deleted(*names):
    return [Garbage(GarbageKind.VERSION, name, 0) for name in names]


def states(tiny):
    return [tiny.registry.versions.get("acme", "triage", n).state.value[0] for n in range(1, 7)]


@pytest.fixture
def six(tiny):
    for seed in range(6):
        tiny.publish(seed=seed)
    return tiny


@pytest.mark.contract("R10")
def test_r10_only_a_retention_deletes_versions_and_foretells_which(six):
    six.registry.versions.yank("acme", "triage", 2, reason="bad", by="bob")
    six.point(3)
    assert collect(six) == []
    assert states(six) == ["r", "y", "r", "r", "r", "r"]
    foreseen = collect(six, keep_last=2, dry_run=True)
    assert states(six) == ["r", "y", "r", "r", "r", "r"]
    assert collect(six, keep_last=2) == foreseen == deleted("triage@4", "triage@2", "triage@1")
    assert states(six) == ["d", "d", "r", "d", "r", "r"]
    assert collect(six, keep_last=2) == []
    event = six.registry.audit.list("acme").items[1]
    assert (event.action, event.subject) == ("version.delete", "op")
    assert event.reason == "retention: the last 2 of each adapter are kept"
    assert_whole(six)


@pytest.mark.contract("R10")
def test_r10_the_last_ones_are_counted_without_yanked_ones(six):
    for number in (5, 6):
        six.registry.versions.yank("acme", "triage", number, reason="bad", by="bob")
    assert collect(six, keep_last=2) == deleted("triage@2", "triage@1")
    assert states(six) == ["d", "d", "r", "r", "y", "y"]


@pytest.mark.contract("R10")
def test_r10_what_is_young_held_or_has_children_stays(six):
    child = six.registry.versions.get("acme", "triage", 2).digest
    six.version("other", 7, lineage=Lineage(parents=(child,)))
    six.registry.versions.hold("acme", "triage", 1, reason="evidence", by="bob")
    assert collect(six, keep_younger_s=3600.0) == []
    assert collect(six, keep_last=3, keep_younger_s=3600.0) == []
    gone = collect(six, keep_last=3, keep_younger_s=0.0)
    assert gone == deleted("triage@3")
    six.registry.versions.delete("acme", "other", 1, by="bob")
    six.registry.versions.unhold("acme", "triage", 1, reason="settled", by="bob")
    assert collect(six, keep_younger_s=0.0) == deleted(
        "triage@6", "triage@5", "triage@4", "triage@2", "triage@1"
    )


@pytest.mark.contract("R10")
def test_r10_the_bytes_of_what_went_go_with_the_next_run(six):
    assert {g.kind for g in collect(six, keep_last=1, grace_s=0.0)} == {GarbageKind.VERSION}
    later = collect(six, grace_s=0.0)
    assert {g.kind for g in later} == {GarbageKind.BLOB}
    assert len(later) == 10, "weights and manifests; the config is the same"
    assert_whole(six)


@pytest.mark.contract("R10")
def test_r10_other_projects_versions_are_not_ones_own_to_delete(lite):
    rival = TinyRegistry(lite.registry, "rival")
    rival.publish()
    assert collect(lite, keep_last=0) == []
    assert rival.registry.versions.get("rival", "triage", 1).state is VersionState.READY


def test_a_retention_that_keeps_nothing_or_too_much_is_refused(lite):
    for kept in (Retention(), Retention(-1), Retention(10**7), Retention(None, -1.0)):
        with pytest.raises(InvalidArgument):
            list(lite.registry.garbage.collect("acme", retention=kept, by="op"))


@pytest.mark.contract("R10")
@pytest.mark.contract("R9")
def test_r10_a_retention_beside_publishes_and_moves_takes_nothing_that_is_needed(tiny):
    """A publisher, a mover and two collectors at once: what is left is whole, and answers."""
    tiny.publish()
    alias = tiny.point(1)
    short = Demands(rollback_window_s=0.0)
    tiny.registry.policies.set(*KEY, short, expected_revision=0, by="ann")
    draw, published = random.Random(5), threading.Event()
    errors = (StillReferenced, NotFound, StaleGeneration, VersionYanked)

    def publish():
        seeds = list(range(1, 30))
        try:
            while seeds:
                # The grace is so short that uploads are collected: send again.
                with suppress(NotFound, StoreUnavailable):
                    tiny.publish(seed=seeds[0])
                    seeds.pop(0)
        finally:
            published.set()  # or the others would go on for ever

    def move():
        generation = alias.generation
        while not published.wait(0.02):
            newest = tiny.registry.versions.list("acme", "triage", page_size=5).items
            with suppress(*errors):
                number = draw.choice(newest).number
                generation = tiny.point(number, generation).generation

    def sweep():
        while not published.is_set():
            collect(tiny, keep_last=2, grace_s=0.2)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work) for work in (publish, move, sweep, sweep)]
        for future in running:
            future.result()
    digests = assert_whole(tiny)
    live = tiny.registry.aliases.get(*KEY)
    assert live.version_digest in digests
    assert tiny.registry.versions.get("acme", "triage", live.version_number).state.value == "ready"
    numbers = [v.number for v in tiny.registry.versions.list("acme", "triage").items]
    assert {30, 29} <= set(numbers), "the last two are always kept"
    tombstones = tiny.registry.versions._database.write(
        lambda c: c.execute(text("SELECT count(*) FROM versions WHERE state = 'deleted'")).scalar()
    )
    assert tombstones > 0, "the collectors found something to do"
