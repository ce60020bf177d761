"""Policies: what an alias demands, and how a move is held against it (R8)."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from tiny_evaluations import record
from tiny_registry import digest, tiny_base

from loradock.registry.errors import (
    EvalGateFailed,
    Immutable,
    InvalidArgument,
    InvalidName,
    NotFound,
    RequestReused,
    StaleGeneration,
    VersionYanked,
)
from loradock.registry.policy import Demands, MetricDemand, SuiteDemand
from loradock.registry.resources import Direction, Metric

KEY = ("acme", "triage", "production")
HIGHER, LOWER = Direction.HIGHER, Direction.LOWER
ACCURACY = MetricDemand("accuracy", HIGHER, threshold=0.8)
LOSS = MetricDemand("loss", LOWER, threshold=0.2)


def demand(*metrics, dataset=None, suite="held-out", **more):
    return Demands((SuiteDemand(suite, dataset, metrics),), **more)


def set_policy(tiny, demands, expected=None, **more):
    fields = {"expected_revision": expected, "reason": "be careful", "by": "olga", **more}
    return tiny.registry.policies.set(*KEY, demands, **fields)


def refused(move, *arguments, **more):
    with pytest.raises(EvalGateFailed) as caught:
        move(*arguments, **more)
    return {(check.metric, check.code) for check in caught.value.failures}


def codes(tiny, number):
    report = tiny.registry.policies.check(*KEY, number)
    return [(check.metric, check.code) for check in report.checks]


@pytest.fixture
def three(tiny):
    for seed in range(3):
        tiny.publish(seed=seed)
    return tiny


@pytest.mark.contract("R8")
def test_r8_a_version_that_misses_a_demand_is_refused_with_every_metric(three):
    set_policy(three, demand(ACCURACY, LOSS, MetricDemand("f1", HIGHER, threshold=0.5)))
    everything = {("accuracy", "MISSING"), ("loss", "MISSING"), ("f1", "MISSING")}
    assert refused(three.point, 1) == everything
    record(three, 1, 0.5)
    assert refused(three.point, 1) == {
        ("accuracy", "THRESHOLD_MISSED"),
        ("loss", "THRESHOLD_MISSED"),
        ("f1", "METRIC_MISSING"),
    }
    with pytest.raises(NotFound):
        three.registry.aliases.get(*KEY)
    set_policy(three, demand(ACCURACY, LOSS), 1)
    record(three, 1, 0.8)
    assert three.point(1).generation == 1


@pytest.mark.contract("R8")
def test_r8_the_error_names_version_alias_and_numbers(three):
    set_policy(three, demand(ACCURACY, LOSS))
    record(three, 2, 0.75, metrics=(Metric("accuracy", 0.75, 9, None, None), LOW_LOSS))
    with pytest.raises(EvalGateFailed) as caught:
        three.point(2)
    assert "triage@2" in str(caught.value) and "triage:production" in str(caught.value)
    assert "held-out/accuracy is 0.75, not at least 0.8" in str(caught.value)
    assert caught.value.passed == ("held-out/loss",)


LOW_LOSS = Metric("loss", 0.1, 9, None, None, Direction.LOWER)


@pytest.mark.contract("R8")
def test_r8_only_evaluations_on_its_own_base_and_the_named_rows_count(three):
    other, _ = three.registry.bases.register(tiny_base("other"), by="tests")
    set_policy(three, demand(ACCURACY, dataset=digest("rows")))
    record(three, 1, 0.9, base_name="other", base_digests=other.digests)
    assert refused(three.point, 1) == {("accuracy", "OTHER_BASE")}
    record(three, 1, 0.9, dataset_digest=digest("easy rows"))
    assert refused(three.point, 1) == {("accuracy", "OTHER_DATASET")}
    record(three, 1, 0.9, suite="other-suite")
    assert refused(three.point, 1) == {("accuracy", "OTHER_DATASET")}
    record(three, 1, 0.9)
    assert three.point(1).version_number == 1


@pytest.mark.contract("R8")
def test_r8_the_last_evaluation_counts_not_the_best(three):
    set_policy(three, demand(ACCURACY))
    record(three, 1, 0.95)
    record(three, 1, 0.4)
    assert refused(three.point, 1) == {("accuracy", "THRESHOLD_MISSED")}


@pytest.mark.contract("R8")
def test_r8_an_evaluation_that_is_too_old_does_not_count(three):
    record(three, 1, 0.9)
    set_policy(three, demand(ACCURACY, max_age_s=0.0))
    assert refused(three.point, 1) == {("accuracy", "TOO_OLD")}
    set_policy(three, demand(ACCURACY, max_age_s=3600.0), 1)
    assert three.point(1).generation == 1


@pytest.mark.contract("R8")
@pytest.mark.parametrize(
    ("metric", "direction", "incumbent", "candidate", "passes"),
    [
        ("accuracy", HIGHER, 0.90, 0.85, True),
        ("accuracy", HIGHER, 0.90, 0.84, False),
        ("accuracy", HIGHER, 0.50, 0.99, True),
        ("loss", LOWER, 0.90, 0.85, True),
        ("loss", LOWER, 0.90, 0.84, False),
    ],
)
def test_r8_not_worse_than_the_incumbent_beyond_a_margin(
    three, metric, direction, incumbent, candidate, passes
):
    record(three, 1, incumbent, spread=None)
    record(three, 2, candidate, spread=None)
    three.point(1)
    set_policy(three, demand(MetricDemand(metric, direction, margin=0.05)))
    if passes:
        assert three.point(2, 1).version_number == 2
    else:
        assert refused(three.point, 2, 1) == {(metric, "WORSE_THAN_INCUMBENT")}


@pytest.mark.contract("R8")
def test_r8_an_incumbent_is_compared_on_the_same_rows_or_not_at_all(three):
    set_policy(three, demand(MetricDemand("accuracy", HIGHER, margin=0.0)))
    record(three, 1, 0.6, dataset_digest=digest("old rows"))
    record(three, 2, 0.9)
    three.point(1)  # the first one has nobody to be compared with
    assert refused(three.point, 2, 1) == {("accuracy", "INCUMBENT_NOT_MEASURED")}
    record(three, 1, 0.95)
    assert refused(three.point, 2, 1) == {("accuracy", "WORSE_THAN_INCUMBENT")}


@pytest.mark.contract("R8")
def test_r8_a_deleted_alias_keeps_its_policy_and_its_incumbent(three):
    record(three, 1, 0.9)
    record(three, 2, 0.5)
    three.point(1)
    set_policy(three, demand(MetricDemand("accuracy", HIGHER, margin=0.1)))
    three.registry.aliases.delete(*KEY, expected_generation=1, by="eve")
    assert refused(three.point, 2) == {("accuracy", "WORSE_THAN_INCUMBENT")}
    assert three.registry.policies.get(*KEY).revision == 1


@pytest.mark.contract("R8")
def test_r8_validate_only_and_check_answer_without_moving(three):
    set_policy(three, demand(ACCURACY, LOSS))
    record(three, 1, 0.5)
    record(three, 2, 0.9)
    failures = {("accuracy", "THRESHOLD_MISSED"), ("loss", "THRESHOLD_MISSED")}
    assert refused(three.point, 1, validate_only=True) == failures
    assert set(codes(three, 1)) == failures
    assert codes(three, 2) == [("accuracy", "PASSED"), ("loss", "PASSED")]
    assert three.point(2, validate_only=True).version_number == 2
    with pytest.raises(NotFound):
        three.registry.aliases.get(*KEY)
    with pytest.raises(NotFound):
        three.registry.policies.check(*KEY, 9)


@pytest.mark.contract("R8")
def test_r8_an_override_needs_a_reason_and_is_audited(three):
    set_policy(three, demand(ACCURACY))
    for reason in ("", "  "):
        with pytest.raises(InvalidArgument, match="reason"):
            three.point(1, reason=reason, override_gate=True)
    assert three.point(1, reason="the fix can't wait", override_gate=True).version_number == 1
    event = three.registry.audit.list("acme", page_size=1).items[0]
    assert (event.action, event.subject, event.reason) == ("alias.set", "ann", "the fix can't wait")
    assert event.details["gate"] == "overridden"
    assert "held-out/accuracy MISSING" in event.details["unmet"]
    record(three, 2, 0.9)
    three.point(2, 1, override_gate=True)
    passed = three.registry.audit.list("acme", page_size=1).items[0]
    assert passed.details == {"generation": "2"}  # there was nothing to override


@pytest.mark.contract("R8")
def test_r8_a_rollback_within_its_window_needs_no_evaluation(three):
    three.point(1)
    three.point(2, 1)
    set_policy(three, demand(ACCURACY, rollback_window_s=0.0))
    assert refused(three.roll_back, 2) == {("accuracy", "MISSING")}
    set_policy(three, demand(ACCURACY, rollback_window_s=3600.0), 1)
    assert three.roll_back(2).version_number == 1


@pytest.mark.contract("R8")
def test_r8_outside_its_window_a_rollback_passes_the_gate_or_overrides_it(three):
    three.point(1)
    three.point(2, 1)
    three.point(3, 2)
    set_policy(three, demand(ACCURACY, rollback_window_s=0.0))
    record(three, 2, 0.9)
    assert three.roll_back(3).version_number == 2
    assert refused(three.roll_back, 4) == {("accuracy", "MISSING")}
    assert three.roll_back(4, override_gate=True).version_number == 1


@pytest.mark.contract("R8")
def test_r8_no_rollback_and_no_override_reaches_a_yanked_version(three):
    three.point(1)
    three.point(2, 1)
    set_policy(three, demand(ACCURACY))
    three.registry.versions.yank("acme", "triage", 1, reason="leaks", by="bob")
    for move in (three.roll_back, lambda at, **more: three.point(1, at, **more)):
        for override in (False, True):
            with pytest.raises(VersionYanked, match="leaks"):
                move(2, override_gate=override)


def test_a_policy_is_set_by_compare_and_set_and_reads_back(three):
    demands = Demands(
        (
            SuiteDemand("held-out", digest("rows"), (ACCURACY, MetricDemand("f1", HIGHER))),
            SuiteDemand("safety"),
        ),
        max_age_s=86400.5,
        rollback_window_s=60.0,
    )
    with pytest.raises(NotFound):
        three.registry.policies.get(*KEY)
    first = set_policy(three, demands, request_id="p-1")
    assert (first.demands, first.revision, first.set_by) == (demands, 1, "olga")
    assert set_policy(three, demands, request_id="p-1") == first
    with pytest.raises(RequestReused):
        set_policy(three, Demands(), 1, request_id="p-1")
    for stale in (None, 2):
        with pytest.raises(StaleGeneration, match="the policy of '"):
            set_policy(three, Demands(), stale)
    assert set_policy(three, Demands(), 1, validate_only=True).revision == 2
    assert three.registry.policies.get(*KEY) == first
    assert set_policy(three, Demands(), 1).revision == 2
    assert three.point(1).version_number == 1
    event = three.registry.audit.list("acme", page_size=2).items[1]
    assert (event.action, event.resource) == ("policy.set", "triage:production")


def test_of_racing_setters_exactly_one_wins(three):
    def setter(i):
        try:
            return set_policy(three, demand(ACCURACY, max_age_s=float(i)))
        except StaleGeneration:
            return None

    with ThreadPoolExecutor(6) as pool:
        won = [policy for policy in pool.map(setter, range(6)) if policy]
    assert won == [three.registry.policies.get(*KEY)]


@pytest.mark.parametrize("act", ["UPDATE alias_policies SET demands = '{}'", "DELETE FROM {}"])
def test_the_database_keeps_every_policy(three, act):
    set_policy(three, demand(ACCURACY))
    with pytest.raises(Immutable):
        three.registry.versions._database.write(
            lambda c: c.execute(text(act.format("alias_policies")))
        )
    assert three.registry.policies.get(*KEY).demands == demand(ACCURACY)


@pytest.mark.parametrize(
    ("demands", "error"),
    [
        (demand(ACCURACY, ACCURACY), InvalidArgument),
        (Demands((SuiteDemand("a"), SuiteDemand("a"))), InvalidArgument),
        (Demands(tuple(SuiteDemand(f"s{i}") for i in range(65))), InvalidArgument),
        (demand(ACCURACY, suite="No Name"), InvalidName),
        (demand(ACCURACY, dataset="rows"), InvalidArgument),
        (demand(MetricDemand("", HIGHER)), InvalidArgument),
        (demand(MetricDemand("m", HIGHER, threshold=float("nan"))), InvalidArgument),
        (demand(MetricDemand("m", HIGHER, margin=-0.1)), InvalidArgument),
        (demand(ACCURACY, max_age_s=-1.0), InvalidArgument),
        (demand(ACCURACY, rollback_window_s=float("inf")), InvalidArgument),
    ],
)
def test_a_policy_that_can_not_be_meant_is_refused(lite, demands, error):
    lite.publish()
    with pytest.raises(error):
        set_policy(lite, demands)


def test_a_suite_without_metrics_has_only_to_be_measured(lite):
    lite.publish()
    set_policy(lite, demand())
    assert codes(lite, 1) == [("", "MISSING")]
    record(lite, 1)
    assert codes(lite, 1) == [("", "PASSED")]


def test_a_metric_recorded_the_other_way_round_is_not_compared(lite):
    lite.publish()
    set_policy(lite, demand(MetricDemand("loss", HIGHER, threshold=0.0)))
    record(lite, 1)
    assert codes(lite, 1) == [("loss", "DIRECTION_DIFFERS")]
