"""Tenants share by tokens, and so do the adapters of a tenant; nobody waits for ever."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradock.engine.blocks import BlockPool
from loradock.engine.fairness import AGE_STEPS, OUTPUT_WEIGHT, FairQueue
from loradock.engine.protocol import Generate, Priority, Sampling
from loradock.engine.rows import GenerateRow
from loradock.engine.scheduler import Scheduler

ROWS = 4  # that run at once
PROMPT, ANSWER = 4, 8
COST = PROMPT + OUTPUT_WEIGHT * ANSWER  # of a row, in weighted tokens
LONGEST = ANSWER + 1  # steps that a row runs, its prompt's included


class House:
    """A scheduler with memory for all, and what it gave to whom."""

    def __init__(self):
        self.scheduler = Scheduler(
            BlockPool(1 << 12),
            block_tokens=16,
            max_rows=ROWS,
            step_tokens=64,
            prefill_tokens=64,
            context_length=256,
        )
        self.names = map(str, itertools.count())
        self.step_number = 0
        self.waited: dict[str, int] = {}  # by row: steps from its coming to its admission
        self.served: Counter[tuple[str, str | None]] = (
            Counter()
        )  # weighted tokens by (tenant, adapter)

    def ask(
        self, adapter=None, tenant="", priority=Priority.NORMAL, prompt=PROMPT, answer=ANSWER
    ) -> str:
        name = next(self.names)
        tokens = (int(name), *range(prompt - 1))  # no two begin alike
        work = Generate(name, tokens, Sampling(answer), adapter, tenant, None, priority)
        self.scheduler.add(GenerateRow(work, 0))
        self.waited[name] = -self.step_number - 1
        return name

    def step(self):
        for row in self.scheduler.admit():
            self.waited[row.name] += self.step_number + 1
            self.charge(row, len(row.tokens))
        for chunk in self.scheduler.plan().chunks:
            row, wanted = chunk.row, chunk.wanted
            self.charge(row, OUTPUT_WEIGHT * len(range(max(chunk.start, PROMPT), chunk.end)))
            self.scheduler.advance(chunk)
            assert isinstance(row, GenerateRow)
            if wanted:
                row.append(1)
            if row.num_sampled == row.work.sampling.max_tokens:
                self.scheduler.leave(row)
        self.scheduler.end_step()
        self.step_number += 1

    def charge(self, row, tokens):
        self.served[row.work.salt, row.work.adapter] += tokens

    def run(self, num_steps):
        for _ in range(num_steps):
            self.step()

    def waits(self, name):
        """Run until a row is admitted; give the steps that it has waited."""
        while self.waited[name] < 0:
            self.step()
        return self.waited[name]


@pytest.mark.parametrize("who", [("quiet", ""), (None, ""), ("loud", "another tenant")])
def test_s17_a_flood_on_one_adapter_delays_others_by_one_row_at_most(who):
    """The base counts as an adapter of its own, and a tenant's flood stays the tenant's."""
    house = House()
    for _ in range(500):
        house.ask("loud")
    house.run(2 * AGE_STEPS)
    for _ in range(20):
        assert house.waits(house.ask(*who)) <= LONGEST


def test_s17_who_floods_waits_for_itself_only():
    house = House()
    flood = [house.ask("loud") for _ in range(40)]
    quiet = [house.ask("quiet") for _ in range(4)]
    house.waits(flood[-1])
    assert max(house.waited[name] for name in quiet) <= 3 * LONGEST
    assert house.waited[flood[-1]] == max(house.waited.values())


def test_s17_a_tenant_gains_nothing_by_using_many_adapters():
    house = House()
    for number in range(300):
        house.ask(f"adapter-{number % 10}", "many")
        house.ask("adapter", "one")
    house.run(200)
    served: Counter[str] = Counter()
    for (tenant, _), tokens in house.served.items():
        served[tenant] += tokens
    assert abs(served["many"] - served["one"]) <= 2 * ROWS * COST
    assert min(served.values()) > 10 * ROWS * COST


def test_s17_a_short_prompt_does_not_wait_behind_long_ones_of_others():
    """Prompts that are read side by side share a step as rows share the batch."""
    house = House()
    for _ in range(ROWS - 1):
        house.ask("loud", "loud", prompt=200)
    house.step()
    short = house.ask("quiet", "quiet", prompt=20)
    house.step()
    row = house.scheduler.find(short)
    assert row is not None
    assert row.num_computed == 20, "all of it, in the step in which it was let in"


def test_s17_idling_saves_up_no_credit():
    """Who comes back after a long while gets its share from then on, and not all."""
    house = House()
    for _ in range(2000):
        house.ask("busy")
    house.ask("idle")
    house.run(400)
    for _ in range(1000):
        house.ask("idle")
    before = house.served.copy()
    house.run(200)
    given = house.served - before
    assert abs(given["", "busy"] - given["", "idle"]) <= 2 * ROWS * COST


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from([None, "x", "y"]),
            st.integers(1, 12),
            st.integers(1, 12),
        ),
        min_size=2,
        max_size=6,
        unique_by=lambda line: line[:2],
    ),
    st.integers(20, 120),
)
def test_s17_the_bounds_that_are_promised_hold(lines, num_steps):
    """Of two that wait all the time, neither gets 2 R C more; and every first of a line is let in.

    Within (3 Q - 2) C steps, Q lines waiting: R rows run all the time, each a token a step.
    """
    house = House()
    cost = max(PROMPT + OUTPUT_WEIGHT * answer for _, _, _, answer in lines)
    cost = max(cost, max(prompt + OUTPUT_WEIGHT * answer for *_, prompt, answer in lines))
    for _ in range(num_steps * ROWS):
        for tenant, adapter, _, answer in lines:
            house.ask(adapter, tenant, answer=answer)
    house.run(num_steps)
    by_tenant: Counter[str] = Counter()
    for (tenant, _), tokens in house.served.items():
        by_tenant[tenant] += tokens
    told = {tenant: by_tenant[tenant] for tenant, *_ in lines}
    assert max(told.values()) - min(told.values()) <= 2 * ROWS * cost
    for tenant in told:
        own = [house.served[t, adapter] for t, adapter, *_ in lines if t == tenant]
        assert max(own) - min(own) <= 2 * ROWS * cost
    most = (3 * len(lines) - 2) * cost
    firsts = [str(number) for number in range(len(lines))]
    assert all(house.waits(name) <= most for name in firsts)


def test_who_is_more_important_goes_first():
    house = House()
    for _ in range(50):
        house.ask("batch", priority=Priority.LOW)
    house.run(3)
    normal = house.ask("x")
    high = house.ask("y", "another", Priority.HIGH)
    assert house.waits(high) <= LONGEST
    assert house.waits(normal) <= 2 * LONGEST
    assert house.waited["20"] < 0, "the rest of the batch still waits"


def test_s17_the_least_important_row_is_let_in_in_the_end():
    """However many more important ones come: after two ages it counts as one of them."""
    house = House()
    low = house.ask("batch", "busy", Priority.LOW)
    while house.waited[low] < 0 and house.step_number < 3 * AGE_STEPS:
        while house.scheduler.num_waiting < 20:
            house.ask("talk", "busy", Priority.HIGH)
        house.step()
    assert 2 * AGE_STEPS <= house.waited[low] <= 2 * AGE_STEPS + 2 * LONGEST


def test_counters_are_kept_only_as_long_as_somebody_competes():
    queue = FairQueue()
    for number in range(100):
        row = GenerateRow(Generate(str(number), (1,), Sampling(1), f"adapter-{number}"), 0)
        queue.add(row)
        queue.take(row)
        queue.leave(row, is_waiting=False)
    assert queue.num_shares <= 3
