"""Not worse than the incumbent: by pairs of items, by intervals, or by values alone (R8)."""

import random

import pytest
from sqlalchemy import text
from tiny_evaluations import record
from tiny_registry import digest

from loradock.registry.comparison import Method, Scored, _t_quantile, compare
from loradock.registry.errors import EvalGateFailed, Immutable, InvalidArgument
from loradock.registry.policy import Demands, MetricDemand, SuiteDemand
from loradock.registry.resources import Direction, ItemScores, Metric

KEY = ("acme", "triage", "production")
HIGHER, LOWER = Direction.HIGHER, Direction.LOWER


def items_of(scores, metric="accuracy"):
    return ItemScores(tuple(map(str, range(len(scores)))), {metric: tuple(map(float, scores))})


def scored(scores, low=None, high=None, metric="accuracy", direction=HIGHER):
    value = sum(scores) / len(scores)
    return Scored(Metric(metric, value, len(scores), low, high, direction), items_of(scores))


def record_items(tiny, number, scores, **more):
    measured = (Metric("accuracy", sum(scores) / len(scores), len(scores), None, None),)
    return record(tiny, number, **{"metrics": measured, "items": items_of(scores), **more})


def test_students_quantile_is_that_of_the_tables():
    table = {4: 2.1318, 9: 1.8331, 29: 1.6991, 119: 1.6578}
    for freedom, wanted in table.items():
        assert _t_quantile(freedom) == pytest.approx(wanted, abs=2e-3)


def test_shares_are_compared_by_the_adjusted_wald_bound():
    mine = [1] * 90 + [0] * 10 + [1] * 5
    other = [1] * 90 + [1] * 10 + [0] * 5
    found = compare(scored(mine), scored(other), HIGHER)
    assert (found.method, found.num_items) == (Method.PAIRED, 105)
    assert found.difference == pytest.approx(-5 / 105)
    # By hand: (6 - 11)/107 - 1.6449 * sqrt((17/107 - (5/107)**2) / 107)
    assert found.bound == pytest.approx(-0.04673 - 1.64485 * 0.03826, abs=1e-4)


def test_a_metric_where_less_is_better_is_turned_round():
    mine, other = [0.2, 0.3, 0.1, 0.4, 0.2, 0.3], [0.3, 0.5, 0.2, 0.4, 0.3, 0.3]
    found = compare(scored(mine), scored(other), LOWER)
    assert found.difference == pytest.approx(0.5 / 6)
    assert 0 < found.bound < found.difference
    assert compare(scored(mine), scored(other), HIGHER).bound < -0.5 / 6


def test_without_the_same_items_the_intervals_are_compared_or_the_values():
    mine, other = scored([1, 1, 1, 1, 0, 1], 0.6, 0.95), scored([1, 0, 1, 1, 1], 0.5, 0.95)
    found = compare(mine, other, HIGHER)
    assert (found.method, found.num_items) == (Method.INTERVALS, 0)
    spread = ((0.35 / 3.91993) ** 2 + (0.45 / 3.91993) ** 2) ** 0.5
    assert found.bound == pytest.approx(5 / 6 - 0.8 - 1.64485 * spread, abs=1e-4)
    bare = compare(scored([1, 0, 1]), scored([1, 1, 1]), HIGHER)  # of too few to pair
    assert bare.method is Method.POINTS
    assert bare.bound == pytest.approx(-1 / 3)


def test_a_version_that_is_worse_by_the_margin_rarely_passes():
    """The level holds: of candidates that are worse by just the margin, about 5 % pass."""
    draw, margin, passed, runs = random.Random(0), 0.05, 0, 1000
    for _ in range(runs):
        other = [float(draw.random() < 0.9) for _ in range(150)]
        mine = [s if draw.random() < 0.9 else float(draw.random() < 0.4) for s in other]
        passed += compare(scored(mine), scored(other), HIGHER).bound >= -margin
    assert 0.01 < passed / runs < 0.08  # the true difference is 0.1 * (0.4 - 0.9) = -0.05


@pytest.fixture
def two(tiny):
    tiny.publish()
    tiny.publish(seed=1)
    tiny.point(1)
    return tiny


def demand_margin(tiny, margin):
    suite = SuiteDemand("held-out", None, (MetricDemand("accuracy", HIGHER, margin=margin),))
    tiny.registry.policies.set(*KEY, Demands((suite,)), expected_revision=None, by="olga")


def test_an_interval_that_is_upside_down_is_refused(two):
    with pytest.raises(InvalidArgument, match="from 0.9 down to 0.75"):
        record(two, 1, metrics=(Metric("accuracy", 0.8, 120, 0.9, 0.75),))


@pytest.mark.contract("R8")
def test_r8_items_decide_where_intervals_could_not(two):
    """Two wrong answers more in 120: too few to tell by intervals, and shown by pairs."""
    demand_margin(two, 0.06)
    scores = [1.0] * 100 + [0.0] * 20
    slip = [0.0] * 2 + scores[2:]
    wide = Metric("accuracy", 100 / 120, 120, 0.75, 0.9)
    near = Metric("accuracy", 98 / 120, 120, 0.73, 0.88)
    record(two, 1, metrics=(wide,))
    record(two, 2, metrics=(near,))
    with pytest.raises(EvalGateFailed) as caught:
        two.point(2, 1)
    (failure,) = caught.value.failures
    assert failure.code == "WORSE_THAN_INCUMBENT"
    assert failure.comparison and failure.comparison.method is Method.INTERVALS
    assert "by their intervals" in failure.message
    record(two, 1, metrics=(wide,), items=items_of(scores))
    record(two, 2, metrics=(near,), items=items_of(slip))
    (check,) = two.registry.policies.check(*KEY, 2).checks
    assert (check.passed, check.comparison.method) == (True, Method.PAIRED)
    assert check.comparison.num_items == 120
    assert -0.06 < check.comparison.bound < check.comparison.difference < 0
    assert "by 120 items, paired, it is worse by no more than" in check.message
    assert two.point(2, 1).generation == 2


@pytest.mark.contract("R8")
def test_r8_items_show_what_the_values_alone_hide(two):
    """The means are equal, but half the items turned: nothing is shown."""
    demand_margin(two, 0.02)
    record_items(two, 1, [1.0, 0.0] * 20)
    record_items(two, 2, [0.0, 1.0] * 20)
    with pytest.raises(EvalGateFailed, match="40 items, paired"):
        two.point(2, 1)


def test_items_are_kept_whole_and_not_in_lists(tiny):
    tiny.publish()
    items = items_of([0.25, 0.75, 1.0])
    measured = (Metric("accuracy", 2 / 3, 3, None, None),)
    made = record(tiny, 1, metrics=measured, items=items, request_id="r")
    assert made.items == items
    assert tiny.registry.evaluations.get("acme", made.id) == made
    assert tiny.registry.evaluations.list("acme").items[0].items is None
    assert record(tiny, 1, metrics=measured, items=items, request_id="r") == made
    with pytest.raises(Immutable):
        tiny.registry.versions._database.write(
            lambda c: c.execute(text("UPDATE evaluation_items SET items = '{}'"))
        )


@pytest.mark.parametrize(
    ("items", "why"),
    [
        (ItemScores((), {"accuracy": ()}), "0 is not in"),
        (ItemScores(("a", "a"), {"accuracy": (0.0, 1.0)}), "twice"),
        (ItemScores(("a", ""), {"accuracy": (0.0, 1.0)}), "empty"),
        (ItemScores(("a", "b"), {}), "no metric"),
        (ItemScores(("a", "b"), {"f1": (0.0, 1.0)}), "not among"),
        (ItemScores(("a", "b"), {"accuracy": (1.0,)}), "1 scores for 2 ids"),
        (ItemScores(("a", "b"), {"accuracy": (1.0, float("nan"))}), "not finite"),
        (ItemScores(("a", "b"), {"accuracy": (1.0, 1.0)}), "the mean 1, not 0.5"),
        (ItemScores(("a",), {"accuracy": (0.5,)}), "is of 2 items, and has 1"),
        (ItemScores(tuple(map(str, range(20_001))), {"accuracy": ()}), "20001 is not in"),
    ],
)
def test_items_that_do_not_make_up_the_metric_are_refused(lite, items, why):
    lite.publish()
    measured = (Metric("accuracy", 0.5, 2, None, None),)
    with pytest.raises(InvalidArgument, match=why):
        record(lite, 1, metrics=measured, items=items, dataset_digest=digest("rows"))
