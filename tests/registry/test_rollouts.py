"""Rollouts in the catalog: the ledger's splits, each step, what ends them, who may step them."""

import dataclasses
from datetime import timedelta

import pytest
from sqlalchemy import select
from tiny_evaluations import record

from loradock.registry.arm_counts import ArmCounts, ArmTally
from loradock.registry.catalog import rollout_rows, rollout_steps
from loradock.registry.catalog.arms import KEPT
from loradock.registry.catalog.tables import arm_counts
from loradock.registry.catalog.types import now
from loradock.registry.errors import (
    AliasProtected,
    EvalGateFailed,
    InvalidArgument,
    NotFound,
    RolloutEnded,
    RolloutRunning,
    StaleGeneration,
    StillReferenced,
)
from loradock.registry.guards import Guards
from loradock.registry.policy import Demands, MetricDemand, SuiteDemand
from loradock.registry.resources import Direction, Heartbeat, MoveKind
from loradock.registry.rollout import PATIENCE, Plan, RolloutState, Stage, Step
from loradock.registry.split import Arm

KEY = ("acme", "triage", "production")
PLAN = Plan((Stage(100, 0.0), Stage(5000, 0.0), Stage(10_000, 0.0)), Guards(min_calls=10))
QUICK = Plan((Stage(5000, 0.0),), Guards(min_calls=10))


@pytest.fixture
def two(lite):
    """Two versions, the first in production."""
    return filled(lite)


@pytest.fixture
def on_both(tiny):
    """The same, on both engines."""
    return filled(tiny)


def filled(tiny):
    for seed in (0, 1):
        tiny.publish(seed=seed)
    tiny.point(1)
    return tiny


def start(tiny, number=2, plan=PLAN, **options):
    generation = tiny.registry.aliases.get(*KEY).generation
    fields = {"expected_generation": generation, "plan": plan, "by": "ann", **options}
    return tiny.registry.rollouts.start(*KEY, version_number=number, **fields).rollout


def duty(tiny, holder="one", lasts_s=60.0):
    taken = tiny.registry.rollouts.duty(holder, lasts_s=lasts_s)
    assert taken.take()
    return taken


def step(tiny):
    (rollout_id,) = tiny.registry.rollouts.going_on()
    return tiny.registry.rollouts.step(rollout_id, duty(tiny))


def counted(calls, errors=0, seconds=0.1):
    counts = ArmCounts()
    for n in range(calls):
        counts.add_call(seconds, failed=n < errors)
    return counts


def beat(tiny, **told):
    """Let a server tell what it counted at the stage that is reached."""
    rollout = tiny.registry.rollouts.get(*KEY).rollout
    tell(tiny, rollout, **told)


def tell(tiny, rollout, *, server="a", sequence=None, divergences=(), drained=False, **arms):
    """Let a server tell what it counted at a stage."""
    if sequence is None:
        sequence = tiny.registry.reader.latest_sequence()
    tiny.registry.fleet.beat(
        Heartbeat(
            server_id=server,
            address="here",
            base_name="tiny",
            base_digests=tiny.base.digests,
            sequence=sequence,
            residencies=(),
            divergences=divergences,
            drained=drained,
            started_at=rollout.started_at,
            tallies=tuple(
                ArmTally(rollout.id, rollout.generation, Arm(arm), counts)
                for arm, counts in arms.items()
            ),
        )
    )


def alias(tiny):
    return tiny.registry.aliases.get(*KEY)


def kinds(tiny):
    return [move.kind for move in reversed(tiny.registry.aliases.history(*KEY).items)]


def deeds(tiny):
    events = tiny.registry.audit.list("acme").items
    return [event for event in events if event.action.startswith("rollout.")]


def test_rollout_goes_stage_by_stage_to_the_alias_and_the_ledger_tells_it(on_both):
    rollout = start(on_both, reason="beats 1")
    assert alias(on_both).split.weight == 100
    shares = []
    while on_both.registry.rollouts.going_on():
        shares.append(alias(on_both).split.weight)
        beat(on_both, incumbent=counted(50), candidate=counted(20))
        assert step(on_both) in (Step.ADVANCE, Step.PROMOTE)
    assert shares == [100, 5000, 10_000]
    standing = alias(on_both)
    assert (standing.version_number, standing.split) == (2, None)
    assert (standing.previous_number, standing.generation) == (1, 5)
    assert kinds(on_both) == [MoveKind.SET, *[MoveKind.SPLIT] * 3, MoveKind.SET]
    ended = on_both.registry.rollouts.get(*KEY).rollout
    assert (ended.id, ended.state) == (rollout.id, RolloutState.PROMOTED)
    assert {event.action for event in deeds(on_both)} == {
        *("rollout.start", "rollout.advance", "rollout.promote")
    }


@pytest.mark.contract("R7")
def test_r7_history_tells_the_split_that_was_in_force(on_both):
    began = start(on_both, plan=dataclasses.replace(PLAN, shadow=2500))
    moves = {move.generation: move for move in on_both.registry.aliases.history(*KEY).items}
    split_at = moves[2].moved_at
    before = on_both.registry.aliases.at(*KEY, split_at - timedelta(microseconds=1))
    then = on_both.registry.aliases.at(*KEY, split_at)
    assert (before.version_number, before.split) == (1, None)
    assert (then.version_number, then.split) == (1, began.split)
    assert (then.split.candidate_number, then.split.weight, then.split.shadow) == (2, 100, 2500)


def test_rollback_of_a_split_goes_to_the_incumbent_and_from_there_on_beneath_it(two):
    two.publish(seed=2)
    two.point(2, 1)
    start(two, 3)
    assert alias(two).previous_number == 2
    back = two.roll_back(3)
    assert (back.version_number, back.split, back.previous_number) == (2, None, 1)
    ended = two.registry.rollouts.get(*KEY).rollout
    assert (ended.state, ended.state_by) == (RolloutState.ABORTED, "bob")
    assert two.roll_back(4).version_number == 1


def test_rollback_after_a_rollout_walks_past_its_splits(two):
    start(two)
    with pytest.raises(StaleGeneration, match="the rollout of 'triage:production'"):
        two.registry.rollouts.promote(*KEY, by="ann", expected_generation=1)
    two.registry.rollouts.promote(*KEY, by="ann")
    assert alias(two).previous_number == 1
    back = two.roll_back(3)
    assert (back.version_number, back.previous_number) == (1, None)


@pytest.mark.parametrize(("number", "state"), [(2, "promoted"), (3, "aborted")])
def test_who_moves_the_alias_himself_ends_the_rollout(two, number, state):
    two.publish(seed=2)
    start(two)
    moved = two.point(number, 2)
    assert (moved.version_number, moved.split) == (number, None)
    assert two.registry.rollouts.get(*KEY).rollout.state.value == state
    assert two.registry.rollouts.going_on() == []


def test_deleting_the_alias_ends_the_rollout(two):
    start(two)
    two.registry.aliases.delete(*KEY, expected_generation=2, by="ann")
    assert two.registry.rollouts.get(*KEY).rollout.state is RolloutState.ABORTED


def test_yank_of_the_candidate_aborts_and_says_so(on_both):
    start(on_both)
    on_both.registry.versions.yank("acme", "triage", 2, reason="leaks", by="eve")
    assert (alias(on_both).version_number, alias(on_both).split) == (1, None)
    ended = on_both.registry.rollouts.get(*KEY).rollout
    assert ended.state is RolloutState.ABORTED
    assert "yanked: leaks" in ended.state_reason
    assert "leaks" in on_both.registry.aliases.history(*KEY).items[0].reason


@pytest.mark.contract("R9")
def test_r9_what_a_rollout_refers_to_cannot_be_deleted_and_is_no_garbage(on_both):
    on_both.publish(seed=2)
    on_both.point(2, 1)
    start(on_both, 3)
    for number, who in ((1, "rollback"), (2, "alias"), (3, "candidate")):
        with pytest.raises(StillReferenced, match=who):
            on_both.registry.versions.delete("acme", "triage", number, by="ann")
    assert list(on_both.registry.garbage.collect("acme", grace_s=0.0, by="op")) == []
    on_both.registry.rollouts.abort(*KEY, by="ann")
    on_both.registry.versions.delete("acme", "triage", 3, by="ann")


def test_errors_abort_with_the_reason_in_ledger_and_audit_log(on_both):
    start(on_both)
    beat(on_both, server="a", incumbent=counted(500), candidate=counted(20))
    assert step(on_both) is Step.ADVANCE
    beat(on_both, server="a", incumbent=counted(50), candidate=counted(50, errors=10))
    beat(on_both, server="b", incumbent=counted(50), candidate=counted(50, errors=20))
    assert step(on_both) is Step.ABORT
    last = on_both.registry.aliases.history(*KEY).items[0]
    assert (last.kind, last.version_number, last.split) == (MoveKind.ROLLBACK, 1, None)
    assert "30 of 100 calls fail" in last.reason
    aborted = deeds(on_both)[0]
    assert aborted.action == "rollout.abort"
    assert "30 of 100 calls fail" in aborted.reason


def test_latency_aborts(two):
    start(two)
    beat(two, incumbent=counted(500), candidate=counted(50, seconds=0.3))
    assert step(two) is Step.ABORT
    assert "latency_p50" in two.registry.rollouts.get(*KEY).rollout.state_reason


def test_at_the_last_stage_the_incumbent_of_the_stage_before_is_what_counts(two):
    start(two)
    for _ in range(2):
        beat(two, incumbent=counted(500), candidate=counted(50))
        assert step(two) is Step.ADVANCE
    beat(two, candidate=counted(50, errors=25))
    assert step(two) is Step.ABORT


def test_too_few_calls_and_servers_that_lag_hold_a_stage(two):
    start(two)
    assert step(two) is Step.WAIT
    assert "0 of 10 calls" in two.registry.rollouts.get(*KEY).decision.why
    beat(two, incumbent=counted(50), candidate=counted(20))
    beat(two, server="late", sequence=0)
    assert step(two) is Step.WAIT
    assert "late has not seen" in two.registry.rollouts.get(*KEY).decision.why
    name = "projects/acme/adapters/triage/aliases/production"
    beat(two, server="late", divergences=(f"{name}: it can't be loaded",))
    assert step(two) is Step.WAIT
    assert "late can't follow: it can't be loaded" in two.registry.rollouts.get(*KEY).decision.why
    beat(two, server="late", divergences=(f"{name}: it can't be loaded",), drained=True)
    assert step(two) is Step.ADVANCE, "a drained server answers nobody new"
    beat(two, incumbent=counted(50), candidate=counted(20))
    beat(two, server="late", sequence=0)
    assert step(two) is Step.WAIT
    beat(two, server="late")
    assert step(two) is Step.ADVANCE


def set_back(tiny, by):
    """Let the stage have begun earlier."""
    rollout = tiny.registry.rollouts.get(*KEY).rollout

    def work(c):
        row = rollout_rows.by_id(c, rollout.id)
        rollout_rows.change_rollout(c, row, stage_at=row.stage_at - by)

    tiny.registry.rollouts._database.write(work)


def test_a_stage_without_its_calls_waits_and_a_day_later_it_stops_and_says_why(on_both):
    start(on_both)
    beat(on_both, incumbent=counted(50), candidate=counted(9))
    set_back(on_both, PATIENCE - timedelta(minutes=1))
    assert step(on_both) is Step.WAIT
    set_back(on_both, timedelta(minutes=1))
    assert step(on_both) is Step.STOP
    stopped = on_both.registry.rollouts.get(*KEY).rollout
    assert stopped.state is RolloutState.PAUSED
    assert "errors: 9 of 10 calls" in stopped.state_reason
    assert alias(on_both).split.weight == 100
    assert [event.action for event in deeds(on_both)] == ["rollout.stop", "rollout.start"]
    on_both.registry.rollouts.resume(*KEY, by="ann")
    assert step(on_both) is Step.WAIT
    beat(on_both, incumbent=counted(50), candidate=counted(10))
    assert step(on_both) is Step.ADVANCE


def test_no_stage_ends_while_a_guard_has_nothing_to_compare_with(two):
    """Not for want of the incumbent's calls, nor of answers whose latency could be told."""
    start(two, plan=Plan((Stage(0, 0.0), Stage(9999, 0.0), Stage(10_000, 0.0)), PLAN.guards))
    beat(two, incumbent=counted(9))
    assert step(two) is Step.WAIT
    assert "9 of 10 calls" in two.registry.rollouts.get(*KEY).decision.why
    beat(two, incumbent=counted(20, errors=15))
    assert step(two) is Step.ADVANCE
    beat(two, candidate=counted(50, errors=25))
    assert step(two) is Step.WAIT
    assert "latency_p50: 5 of 10 calls" in two.registry.rollouts.get(*KEY).decision.why
    beat(two, incumbent=counted(50, errors=25), candidate=counted(50, errors=25))
    assert step(two) is Step.ADVANCE


def test_a_rollout_that_an_earlier_release_began_unguarded_waits_for_calls_too(two):
    start(two)
    rollout_id = two.registry.rollouts.going_on()[0]
    plan = {"stages": [[10_000, 0.0]], "shadow": 0, "max_error_increase": 0.01}
    plan |= {"max_latency_ratio": 1.5, "min_calls": 0, "confidence": 0.999}
    two.registry.rollouts._database.write(
        lambda c: rollout_rows.change_rollout(c, rollout_rows.by_id(c, rollout_id), plan=plan)
    )
    assert step(two) is Step.WAIT


def test_pause_holds_but_guards_go_on_and_resume_holds_the_stage_anew(two):
    rollouts = two.registry.rollouts
    start(two)
    assert rollouts.pause(*KEY, by="bob", reason="lunch").rollout.state is RolloutState.PAUSED
    beat(two, incumbent=counted(50), candidate=counted(20))
    assert step(two) is Step.WAIT
    resumed = rollouts.resume(*KEY, by="bob").rollout
    assert resumed.stage_at > resumed.started_at
    assert step(two) is Step.ADVANCE
    rollouts.pause(*KEY, by="bob")
    beat(two, incumbent=counted(50), candidate=counted(50, errors=50))
    assert step(two) is Step.ABORT


def test_a_pause_and_what_ended_it_leave_the_reason_that_a_rollout_was_begun_for(on_both):
    rollouts = on_both.registry.rollouts
    start(on_both, reason="beats 1")
    told = [
        rollouts.pause(*KEY, by="bob", reason="lunch").rollout,
        rollouts.resume(*KEY, by="eve").rollout,
        rollouts.abort(*KEY, by="bob", reason="wrong labels").rollout,
    ]
    assert {(each.reason, each.started_by) for each in told} == {("beats 1", "ann")}
    why = [(each.state.value, each.state_by, each.state_reason) for each in told]
    assert why == [
        ("paused", "bob", "lunch"),
        ("running", "eve", ""),
        ("aborted", "bob", "wrong labels"),
    ]


def test_steering_twice_is_as_good_as_once_and_an_ended_rollout_says_what_became_of_it(two):
    rollouts = two.registry.rollouts
    with pytest.raises(NotFound):
        rollouts.pause(*KEY, by="bob")
    start(two)
    for _ in range(2):
        rollouts.abort(*KEY, by="bob", reason="no")
    assert [event.action for event in deeds(two)] == ["rollout.abort", "rollout.start"]
    with pytest.raises(RolloutEnded, match="aborted already: no"):
        rollouts.promote(*KEY, by="bob")


def test_the_rollout_that_goes_on_is_the_last_though_the_clock_was_set_back(two, monkeypatch):
    start(two)
    two.registry.rollouts.abort(*KEY, by="ann")
    with monkeypatch.context() as earlier:
        earlier.setattr(rollout_steps, "now", lambda: now() - timedelta(hours=1))
        second = start(two)
    assert two.registry.rollouts.get(*KEY).rollout.id == second.id
    assert two.registry.rollouts.abort(*KEY, by="ann").rollout.id == second.id
    assert two.registry.rollouts.going_on() == []
    assert alias(two).split is None


def test_start_refuses_what_makes_no_sense(two):
    with pytest.raises(InvalidArgument, match="points at already"):
        start(two, 1)
    with pytest.raises(NotFound):
        start(two, 7)
    with pytest.raises(StaleGeneration):
        start(two, expected_generation=9)
    for plan in (
        Plan(()),
        Plan((Stage(5, 0.0), Stage(5, 0.0))),
        Plan((Stage(10_001, 0.0),)),
        Plan((Stage(1, -1.0),)),
        Plan((Stage(0, 0.0),)),
        Plan((Stage(10_000, 0.0),)),
        Plan(shadow=-1),
        Plan(guards=Guards(confidence=1.0)),
        Plan(guards=Guards(min_calls=0)),
    ):
        with pytest.raises(InvalidArgument):
            start(two, plan=plan)
    start(two)
    with pytest.raises(RolloutRunning, match="triage@2"):
        start(two)


def test_validate_only_starts_nothing_and_a_request_id_starts_once(two):
    start(two, validate_only=True)
    assert two.registry.rollouts.going_on() == []
    first = start(two, request_id="one")
    again = start(two, expected_generation=1, request_id="one")
    assert first.id == again.id


def demand(tiny, threshold=0.9):
    metric = MetricDemand("accuracy", Direction.HIGHER, threshold)
    demands = Demands((SuiteDemand("held-out", None, (metric,)),))
    tiny.registry.policies.set(*KEY, demands, expected_revision=None, by="ann")


def test_gate_is_asked_at_the_start_and_can_be_overridden_for_a_reason(two):
    demand(two)
    told = two.registry.rollouts.start(
        *KEY, version_number=2, expected_generation=1, plan=PLAN, by="ann", validate_only=True
    )
    assert not told.report.passed
    with pytest.raises(EvalGateFailed):
        start(two)
    with pytest.raises(InvalidArgument, match="audited"):
        start(two, override_gate=True)
    start(two, override_gate=True, reason="we need to see it")
    assert deeds(two)[0].details["gate"] == "overridden"


def test_gate_that_fails_at_the_end_stops_the_rollout_there_and_says_why(two):
    record(two, 2, 0.95)
    demand(two)
    start(two, plan=QUICK)
    record(two, 2, 0.5)
    beat(two, incumbent=counted(50), candidate=counted(50))
    assert step(two) is Step.STOP
    stopped = two.registry.rollouts.get(*KEY).rollout
    assert stopped.state is RolloutState.PAUSED
    assert "not at least 0.9" in stopped.state_reason
    assert alias(two).version_number == 1
    with pytest.raises(EvalGateFailed):
        two.registry.rollouts.promote(*KEY, by="ann")
    record(two, 2, 0.95)
    two.registry.rollouts.resume(*KEY, by="ann")
    assert step(two) is Step.PROMOTE
    assert alias(two).version_number == 2


def test_who_started_a_rollout_does_not_approve_of_its_end(two):
    demands = Demands(num_approvals=1)
    two.registry.policies.set(*KEY, demands, expected_revision=0, by="olga")
    start(two, plan=QUICK, override_gate=True, reason="to be approved later", by="bob")
    two.registry.approvals.approve(*KEY, 2, by="bob")
    beat(two, incumbent=counted(50), candidate=counted(50))
    assert step(two) is Step.STOP
    stopped = two.registry.rollouts.get(*KEY).rollout
    assert stopped.state is RolloutState.PAUSED
    assert "approvals" in stopped.state_reason
    assert stopped.reason == "to be approved later"
    two.registry.approvals.approve(*KEY, 2, by="olga")
    two.registry.rollouts.resume(*KEY, by="ann")
    step(two)
    assert two.registry.rollouts.get(*KEY).rollout.state is RolloutState.PROMOTED


def test_one_process_at_a_time_has_the_duty_and_another_takes_it_once_it_lapses(on_both):
    start(on_both)
    beat(on_both, incumbent=counted(50), candidate=counted(20))
    (rollout_id,) = on_both.registry.rollouts.going_on()
    one = on_both.registry.rollouts.duty("one", lasts_s=60.0)
    other = on_both.registry.rollouts.duty("other", lasts_s=0.0)
    assert one.take() and one.take()
    assert not other.take()
    assert on_both.registry.rollouts.step(rollout_id, other) is Step.WAIT
    assert alias(on_both).generation == 2
    other.lay_down()  # of what it doesn't have: nothing
    assert on_both.registry.rollouts.step(rollout_id, one) is Step.ADVANCE
    one.lay_down()
    assert other.take()
    assert one.take(), "the other's claim has lapsed at once"


def protect(tiny):
    demands = Demands(is_protected=True)
    tiny.registry.policies.set(*KEY, demands, expected_revision=0, by="olga")


@pytest.mark.contract("R8")
@pytest.mark.parametrize("stages", [QUICK.stages, PLAN.stages], ids=["promote", "advance"])
def test_r8_a_rollout_stops_at_an_alias_that_was_protected_since_it_began(on_both, stages):
    rollouts = on_both.registry.rollouts
    start(on_both, plan=Plan(stages, PLAN.guards), by="bob")
    before = alias(on_both)
    protect(on_both)
    beat(on_both, incumbent=counted(50), candidate=counted(20))
    assert step(on_both) is Step.STOP
    stopped = rollouts.get(*KEY).rollout
    assert (stopped.state, stopped.state_by) == (RolloutState.PAUSED, "rollout of bob")
    assert "only who may set policies may move it" in stopped.state_reason
    assert alias(on_both) == before
    rollouts.resume(*KEY, by="bob")
    assert step(on_both) is Step.STOP, "it has no more right than before"
    with pytest.raises(AliasProtected):
        rollouts.promote(*KEY, by="bob")
    rollouts.resume(*KEY, by="olga", may_move_protected=True)
    assert step(on_both) in (Step.ADVANCE, Step.PROMOTE)


@pytest.mark.contract("R8")
def test_r8_a_rollout_of_who_may_move_a_protected_alias_goes_to_its_end(on_both):
    protect(on_both)
    start(on_both, plan=QUICK, by="olga", may_move_protected=True)
    beat(on_both, incumbent=counted(50), candidate=counted(20))
    assert step(on_both) is Step.PROMOTE
    assert alias(on_both).version_number == 2


@pytest.mark.contract("S12")
def test_s12_shadows_that_fail_take_a_candidate_back_before_anybody_is_given_it(on_both):
    start(on_both, plan=Plan((Stage(0, 3600.0), Stage(100, 3600.0)), PLAN.guards, shadow=1000))
    beat(on_both, incumbent=counted(500), shadow=counted(50, seconds=10.0))
    assert step(on_both) is Step.WAIT, "how long shadows take is told, and no more"
    beat(on_both, incumbent=counted(500), shadow=counted(50, errors=20))
    assert step(on_both) is Step.ABORT
    ended = on_both.registry.rollouts.get(*KEY).rollout
    assert "failed shadows: 20 of 50 calls fail, against 0 of 500" in ended.state_reason
    assert alias(on_both).split is None


def test_shadows_hold_no_stage_up(two):
    start(two, plan=dataclasses.replace(PLAN, shadow=1000))
    beat(two, incumbent=counted(50), candidate=counted(20), shadow=counted(1))
    guards = {report.guard: report.state.value for report in judged(two)}
    assert guards["shadow_errors"] == "waiting"
    assert step(two) is Step.ADVANCE


def judged(tiny):
    return tiny.registry.rollouts.get(*KEY).decision.guards


def num_counts(tiny):
    with tiny.registry.rollouts._database.read() as c:
        return len(c.execute(select(arm_counts)).all())


def test_counts_stay_as_they_ended_a_rollout_and_go_when_the_next_begins(on_both):
    rollouts = on_both.registry.rollouts
    start(on_both)
    beat(on_both, incumbent=counted(50), candidate=counted(50, errors=25))
    late = rollouts.get(*KEY).rollout
    assert step(on_both) is Step.ABORT
    ended_by = judged(on_both)
    beat(on_both, incumbent=counted(90), candidate=counted(900))
    tell(on_both, late, candidate=counted(900))
    assert judged(on_both) == ended_by
    assert num_counts(on_both) == 2
    start(on_both)
    assert num_counts(on_both) == 0
    tell(on_both, late, candidate=counted(900))
    assert num_counts(on_both) == 0


def test_counts_of_other_aliases_go_once_they_ended_long_ago(on_both):
    start(on_both)
    beat(on_both, incumbent=counted(50), candidate=counted(50))
    ended = on_both.registry.rollouts.abort(*KEY, by="ann").rollout
    other = (*KEY[:2], "staging")
    fields = {"version_number": 2, "plan": PLAN, "by": "ann"}
    on_both.registry.aliases.set(*other, version_number=1, expected_generation=None, by="ann")
    on_both.registry.rollouts.start(*other, expected_generation=1, **fields)
    assert num_counts(on_both) == 2
    on_both.registry.rollouts.abort(*other, by="ann")

    def long_ago(c):
        row = rollout_rows.by_id(c, ended.id)
        rollout_rows.change_rollout(c, row, ended_at=row.ended_at - KEPT)

    on_both.registry.rollouts._database.write(long_ago)
    on_both.registry.rollouts.start(*other, expected_generation=3, **fields)
    assert num_counts(on_both) == 0
    assert on_both.registry.rollouts.get(*KEY).rollout.id == ended.id
