"""Holds: a version that must not go, though nothing points at it (R9)."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from tiny_registry import TinyRegistry

from loradock.registry.errors import Immutable, InvalidArgument, NotFound, StillReferenced
from loradock.registry.policy import Demands
from loradock.registry.resources import Heartbeat, Lineage, Residency

HOUR = timedelta(hours=1)


def hold(tiny, number=1, **more):
    fields = {"reason": "evidence of a complaint", "by": "olga", **more}
    return tiny.registry.versions.hold("acme", "triage", number, **fields)


def delete(tiny, number=1):
    tiny.registry.versions.delete("acme", "triage", number, by="bob")


def refused(tiny, number=1):
    with pytest.raises(StillReferenced) as caught:
        delete(tiny, number)
    return caught.value.referrers


def rewind(tiny, statement):
    """Let something have happened long ago: the catalog's own clock can't be set back."""
    tiny.registry.versions._database.write(lambda c: c.execute(text(statement)))


@pytest.mark.contract("R9")
def test_r9_a_held_version_is_not_deleted_until_it_is_let_go(tiny):
    tiny.publish()
    held = hold(tiny)
    assert (held.hold.reason, held.hold.held_by, held.hold.expires_at) == (
        "evidence of a complaint",
        "olga",
        None,
    )
    assert tiny.registry.versions.list("acme", "triage").items == [held]
    assert refused(tiny) == ("hold of olga: evidence of a complaint",)
    yanked = tiny.registry.versions.yank("acme", "triage", 1, reason="bad", by="bob")
    assert yanked.hold == held.hold
    assert refused(tiny)
    released = tiny.registry.versions.unhold("acme", "triage", 1, reason="settled", by="bob")
    assert released.hold is None
    tiny.registry.versions.unhold("acme", "triage", 1, reason="again", by="bob")
    delete(tiny)
    deeds = [(e.action, e.subject, e.reason) for e in tiny.registry.audit.list("acme").items]
    assert deeds[3] == ("version.hold", "olga", "evidence of a complaint")
    assert deeds[1] == ("version.unhold", "bob", "settled")


@pytest.mark.contract("R9")
def test_r9_a_hold_ends_by_itself_and_again_is_anew(tiny):
    tiny.publish()
    hold(tiny)
    until = datetime.now(UTC) + HOUR
    again = hold(tiny, reason="longer", expires_at=until, by="ann")
    assert (again.hold.reason, again.hold.held_by) == ("longer", "ann")
    assert refused(tiny) == (f"hold of ann until {until:%Y-%m-%d %H:%M} UTC: longer",)
    rewind(tiny, "UPDATE version_holds SET expires_at = 1")
    assert tiny.registry.versions.get("acme", "triage", 1).hold is None
    delete(tiny)


@pytest.mark.contract("R9")
def test_r9_a_hold_that_can_not_be_meant_is_refused(lite):
    lite.publish()
    for more in (
        {"reason": " "},
        {"expires_at": datetime.now(UTC) - HOUR},
        {"expires_at": datetime(2999, 1, 1)},  # noqa: DTZ001 - without a zone, on purpose
    ):
        with pytest.raises(InvalidArgument):
            hold(lite, **more)
    with pytest.raises(NotFound):
        hold(lite, 7)
    delete(lite)
    with pytest.raises(Immutable):
        hold(lite)


@pytest.mark.contract("R9")
def test_r9_the_error_names_every_referrer_at_once(tiny):
    version = tiny.version()
    tiny.version(seed=1, lineage=Lineage(parents=(version.digest,)))
    tiny.point(1)
    hold(tiny)
    residency = Residency(version.digest, "resident", 10, 0)
    beat = Heartbeat(
        "server-1", "", "tiny", tiny.base.digests, 1, (residency,), (), version.created_at
    )
    tiny.registry.fleet.beat(beat)
    assert refused(tiny) == (
        "alias triage:production",
        "child triage@2",
        "hold of olga: evidence of a complaint",
        "server server-1",
    )


@pytest.mark.contract("R9")
def test_r9_what_was_live_within_a_rollback_window_stays(tiny):
    for seed in range(4):
        tiny.publish(seed=seed)
    for generation in range(3):
        tiny.point(generation + 1, generation)
    key = ("acme", "triage", "production")
    assert [said.split(" until")[0] for said in refused(tiny)] == [
        "rollback window of triage:production"
    ]
    short = Demands(rollback_window_s=0.0)
    tiny.registry.policies.set(*key, short, expected_revision=0, by="ann")
    assert refused(tiny, 2) == ("alias triage:production (a rollback would go there)",)
    delete(tiny)
    delete(tiny, 4)


@pytest.mark.contract("R9")
def test_r9_another_projects_version_can_not_be_held(lite):
    lite.publish()
    with pytest.raises(NotFound):
        TinyRegistry(lite.registry, "rival").registry.versions.hold(
            "rival", "triage", 1, reason="mine", by="eve"
        )
