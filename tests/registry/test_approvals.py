"""Approvals and protection: whose word a move of an alias needs (R8)."""

import pytest
from sqlalchemy import text
from tiny_evaluations import record

from loradock.registry.errors import (
    AliasProtected,
    EvalGateFailed,
    Immutable,
    InvalidArgument,
    NotFound,
    VersionYanked,
)
from loradock.registry.policy import Demands, SuiteDemand
from loradock.registry.rollout import Plan, Stage

KEY = ("acme", "triage", "production")


def demand(tiny, expected=0, **more):
    return tiny.registry.policies.set(*KEY, Demands(**more), expected_revision=expected, by="olga")


def approve(tiny, by, number=1, **more):
    return tiny.registry.approvals.approve(*KEY, number, by=by, **more)


def missing(tiny, by="ann", number=1, **more):
    with pytest.raises(EvalGateFailed) as caught:
        tiny.point(number, by=by, **more)
    return [(check.subject, check.code, check.message) for check in caught.value.failures]


@pytest.mark.contract("R8")
def test_r8_a_move_needs_others_approvals_and_tells_which_do_not_count(tiny):
    tiny.publish(by="paul")
    demand(tiny, num_approvals=2)
    assert missing(tiny) == [("approvals", "APPROVALS_MISSING", "0 of 2 are given")]
    for person in ("ann", "paul", "bob"):
        approve(tiny, person, reason="looks good")
    why = "1 of 2 are given (by bob); ann's own does not count; paul's own does not count"
    assert missing(tiny) == [("approvals", "APPROVALS_MISSING", why)]
    approve(tiny, "bob")
    assert len(missing(tiny)) == 1, "one person's word counts once"
    report = tiny.registry.policies.check(*KEY, 1, by="olga")
    assert [(check.subject, check.passed) for check in report.checks] == [("approvals", True)]
    approve(tiny, "eve")
    assert tiny.point(1).generation == 1


@pytest.mark.contract("R8")
def test_r8_an_approval_is_of_one_version_and_can_be_withdrawn(tiny):
    tiny.publish(by="paul")
    tiny.publish(seed=1, by="paul")
    demand(tiny, num_approvals=1)
    given = approve(tiny, "bob", reason="measured it")
    assert [(a.approver, a.version_number, a.reason) for a in given] == [("bob", 1, "measured it")]
    assert missing(tiny, number=2)
    assert tiny.registry.approvals.withdraw(*KEY, 1, reason="it leaks", by="bob") == []
    assert missing(tiny)
    with pytest.raises(NotFound, match="approval"):
        tiny.registry.approvals.withdraw(*KEY, 1, by="bob")
    approve(tiny, "bob")
    assert tiny.point(1).generation == 1
    deeds = [(e.action, e.subject, e.reason) for e in tiny.registry.audit.list("acme").items]
    assert ("alias.withdraw", "bob", "it leaks") in deeds
    assert ("alias.approve", "bob", "measured it") in deeds


@pytest.mark.contract("R8")
def test_r8_approvals_age_as_evaluations_do_and_both_are_listed(tiny):
    tiny.publish(by="paul")
    demand(tiny, num_approvals=1, max_age_s=0.0, suites=(SuiteDemand("held-out"),))
    approve(tiny, "bob")
    record(tiny, 1)
    told = {(subject, code) for subject, code, _ in missing(tiny)}
    assert told == {("held-out", "TOO_OLD"), ("approvals", "APPROVALS_MISSING")}
    demand(tiny, 1, num_approvals=1, max_age_s=3600.0, suites=(SuiteDemand("held-out"),))
    assert tiny.point(1).generation == 1


@pytest.mark.contract("R8")
def test_r8_a_rollout_needs_the_approvals_too(tiny):
    tiny.publish(by="paul")
    tiny.publish(seed=1, by="paul")
    tiny.point(1)
    demand(tiny, num_approvals=1)
    plan = Plan((Stage(1000, 60.0),))
    start = {"version_number": 2, "expected_generation": 1, "plan": plan}
    approve(tiny, "ann", 2)
    with pytest.raises(EvalGateFailed, match="ann's own"):
        tiny.registry.rollouts.start(*KEY, by="ann", **start)
    approve(tiny, "bob", 2)
    assert tiny.registry.rollouts.start(*KEY, by="ann", **start).report.passed


@pytest.mark.contract("R8")
def test_r8_a_protected_alias_is_moved_back_and_deleted_only_by_who_may(tiny):
    tiny.publish()
    tiny.publish(seed=1)
    tiny.point(1)
    demand(tiny, is_protected=True)
    plan = Plan((Stage(1000, 60.0),))
    start = {"version_number": 2, "expected_generation": 1, "plan": plan, "by": "ann"}
    for act in (
        lambda: tiny.point(2, 1),
        lambda: tiny.point(2, 1, validate_only=True),
        lambda: tiny.registry.aliases.delete(*KEY, expected_generation=1, by="ann"),
        lambda: tiny.registry.rollouts.start(*KEY, **start),
    ):
        with pytest.raises(AliasProtected):
            act()
    assert tiny.point(2, 1, may_move_protected=True).generation == 2
    with pytest.raises(AliasProtected):
        tiny.roll_back(2)
    assert tiny.roll_back(2, may_move_protected=True).version_number == 1
    demand(tiny, 1)
    assert tiny.point(2, 3).generation == 4


def test_what_can_not_be_approved_is_told(tiny):
    tiny.publish()
    with pytest.raises(NotFound):
        approve(tiny, "bob", 9)
    tiny.registry.versions.yank("acme", "triage", 1, reason="leaks", by="bob")
    with pytest.raises(VersionYanked):
        approve(tiny, "bob")
    for number in (-1, 101):
        with pytest.raises(InvalidArgument):
            demand(tiny, num_approvals=number)


def test_the_database_keeps_every_approval(tiny):
    tiny.publish()
    approve(tiny, "bob")
    for act in ("UPDATE alias_approvals SET approver = 'eve'", "DELETE FROM alias_approvals"):
        with pytest.raises(Immutable):
            tiny.registry.versions._database.write(lambda c, act=act: c.execute(text(act)))


def test_a_policys_revisions_are_listed_and_shown(tiny):
    tiny.publish()
    first = demand(tiny, num_approvals=1)
    second = demand(tiny, 1, is_protected=True)
    policies = tiny.registry.policies
    with pytest.raises(NotFound, match="staging"):
        policies.history("acme", "triage", "staging")
    newest = policies.history(*KEY, page_size=1)
    older = policies.history(*KEY, page_size=1, page_token=newest.next_page_token)
    assert [*newest.items, *older.items] == [second, first]
    assert policies.revision(*KEY, 1) == first
    with pytest.raises(NotFound):
        policies.revision(*KEY, 3)
    with pytest.raises(InvalidArgument):
        policies.history("acme", "triage", "staging", page_token=newest.next_page_token)
