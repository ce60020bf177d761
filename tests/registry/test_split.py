"""S12's arithmetic: which arm a key has, and what guards make of what arms did."""

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock.registry.arm_counts import ArmCounts, bucket_of, lower_edge, total_of, upper_edge
from loradock.registry.guards import (
    Guards,
    GuardState,
    difference_bound,
    judge_arms,
    quantile_ceiling,
)
from loradock.registry.split import WHOLE, Arm, Split

KEYS = st.text(max_size=40)
WEIGHTS = st.integers(0, WHOLE)
SALTS = st.uuids().map(str)


def split(weight, salt="salt", shadow=0):
    return Split(2, "sha256:…", weight, shadow, salt)


@pytest.mark.contract("S12")
@given(key=KEYS, salt=SALTS, weights=st.tuples(WEIGHTS, WEIGHTS).map(sorted))
def test_s12_raising_the_weight_moves_keys_only_to_the_candidate(key, salt, weights):
    low, high = (split(weight, salt).arm_of(key) for weight in weights)
    assert low is Arm.INCUMBENT or high is Arm.CANDIDATE
    assert split(0, salt).arm_of(key) is Arm.INCUMBENT
    assert split(WHOLE, salt).arm_of(key) is Arm.CANDIDATE


@pytest.mark.contract("S12")
@pytest.mark.parametrize("weight", [1, 100, 1000, 5000, 9900])
def test_s12_shares_follow_the_weight_within_binomial_bounds(weight):
    num_keys, share = 100_000, weight / WHOLE
    shared = split(weight, f"of {weight}")
    taken = sum(shared.arm_of(f"user-{n}") is Arm.CANDIDATE for n in range(num_keys))
    assert abs(taken - num_keys * share) <= 4 * (num_keys * share * (1 - share)) ** 0.5 + 1


@pytest.mark.contract("S12")
def test_s12_rollouts_and_shadows_choose_their_keys_independently():
    keys = [f"user-{n}" for n in range(20_000)]
    one, other = split(5000, "one", 5000), split(5000, "other")
    both = sum(one.arm_of(k) is other.arm_of(k) is Arm.CANDIDATE for k in keys)
    shadowed = sum(one.arm_of(k) is Arm.CANDIDATE and one.is_shadowed(k) for k in keys)
    assert abs(both - 5000) < 300 and abs(shadowed - 5000) < 300


@given(st.floats(1e-5, 5000))
def test_latency_lies_in_its_bucket(seconds):
    bucket = bucket_of(seconds)
    assert seconds <= 1e-4 or lower_edge(bucket) <= seconds * (1 + 1e-9)
    assert bucket == 100 or seconds <= upper_edge(bucket) * (1 + 1e-9)


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantile_is_within_its_bucket_of_the_true_one(seconds, share):
    counts = [ArmCounts(), ArmCounts()]
    for n, each in enumerate(seconds):
        counts[n % 2].add_call(each, failed=False)
    true = sorted(seconds)[max(1, -int(-len(seconds) * share // 1)) - 1]
    told = total_of(counts).quantile_s(share)
    assert true / 1.2 <= told <= true * 1.2


def arm(rng, calls, errors, median_s):
    counts = ArmCounts()
    for _ in range(calls):
        counts.add_call(rng.lognormvariate(0, 0.5) * median_s, failed=rng.random() < errors)
    return counts


def looked_at(guards, candidate, incumbent, *, looks=50, seed=0):
    """Judge again and again as calls come in, as a controller does; give what broke, and when."""
    rng = random.Random(seed)
    ours, theirs = ArmCounts(), ArmCounts()
    for _ in range(looks):
        ours = total_of([ours, arm(rng, 10, *candidate)])
        theirs = total_of([theirs, arm(rng, 90, *incumbent)])
        broken = [r.guard for r in judge_arms(guards, ours, theirs) if r.state is GuardState.BROKEN]
        if broken:
            return ours.num_calls, broken
    return None


def test_an_equal_candidate_is_left_alone_however_often_it_is_looked_at():
    for errors in (0.0, 0.02, 0.2):
        for seed in range(20):
            same = (errors, 0.1)
            assert looked_at(Guards(), same, same, seed=seed) is None


@pytest.mark.prove
@pytest.mark.parametrize("errors", [0.0, 0.02, 0.2])
def test_of_a_thousand_equal_candidates_that_often_fail_few_are_taken_back(errors):
    same = (errors, 0.1)
    broken = [looked_at(Guards(), same, same, seed=seed, looks=100) for seed in range(1000)]
    assert sum(found is not None for found in broken) < (20 if errors > 0.02 else 2)


@pytest.mark.parametrize(
    ("candidate", "guard", "within"),
    [
        ((1.0, 0.1), "errors", 20),
        ((0.2, 0.1), "errors", 200),
        ((0.0, 0.3), "latency_p50", 100),
    ],
)
def test_a_worse_candidate_breaks_its_guard_soon(candidate, guard, within):
    for seed in range(20):
        calls, broken = looked_at(Guards(), candidate, (0.01, 0.1), seed=seed)
        assert guard in broken
        assert calls <= within


@pytest.mark.parametrize(("share", "num_calls"), [(0.5, 14), (0.95, 220)])
def test_a_quantile_can_break_once_there_are_calls_enough_for_a_bound(share, num_calls):
    z = NormalDist().inv_cdf(Guards().confidence)
    assert quantile_ceiling({3: num_calls - 1}, share, z) == math.inf
    assert quantile_ceiling({3: num_calls}, share, z) == upper_edge(3)


def test_too_few_calls_conclude_nothing():
    bad = arm(random.Random(0), 19, 1.0, 1.0)
    good = arm(random.Random(0), 1000, 0.0, 0.1)
    states = {report.state for report in judge_arms(Guards(), bad, good)}
    assert states == {GuardState.WAITING}


@given(
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
)
def test_bound_is_below_what_was_measured_and_tightens_with_calls(ours, theirs):
    measured = ours[0] / ours[1] - theirs[0] / theirs[1]
    bound = difference_bound(ours[0], ours[1], theirs[0], theirs[1], 3.09)
    more = difference_bound(10 * ours[0], 10 * ours[1], 10 * theirs[0], 10 * theirs[1], 3.09)
    assert -1 - 1e-9 <= bound <= measured + 1e-9
    assert more >= bound - 1e-9


def test_bound_is_the_published_one():
    """Newcombe 1998, table II, method 10, case a: 56/70 against 48/80, at 95 % two-sided."""
    assert difference_bound(56, 70, 48, 80, 1.959964) == pytest.approx(0.0524, abs=5e-5)
