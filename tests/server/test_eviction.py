"""What goes first: held against the two usual rules, on traces with Zipf's popularity."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from loradock.server.residency.eviction import GreedyDual, Worth

NUM_VERSIONS = 64
NUM_REQUESTS = 3000


@dataclass
class Memory:
    """A budget of bytes that counts what reloading costs, under one rule of what goes first."""

    budget: int
    rule: Callable[["Memory", int], float]
    worths: Sequence[Worth]
    greedy_dual: GreedyDual = field(default_factory=GreedyDual)
    last_use: dict[int, int] = field(default_factory=dict)
    arrival: dict[int, int] = field(default_factory=dict)  # of those that are in memory
    cost_s: float = 0.0

    def ask(self, version: int, now: int) -> None:
        worth = self.worths[version]
        self.greedy_dual.used(worth)
        self.last_use[version] = now
        if version in self.arrival:
            return
        self.cost_s += worth.load_s
        while self.used + worth.size_bytes > self.budget:
            victim = min(self.arrival, key=lambda v: self.rule(self, v))
            self.greedy_dual.let_go(self.worths[victim])
            del self.arrival[victim]
        self.arrival[version] = now

    @property
    def used(self) -> int:
        return sum(self.worths[version].size_bytes for version in self.arrival)


def fifo(memory: Memory, version: int) -> float:
    return memory.arrival[version]


def lru(memory: Memory, version: int) -> float:
    return memory.last_use[version]


def ours(memory: Memory, version: int) -> float:
    return memory.worths[version].credit


def cost_s(rule, seed, skew, is_even, num_slots):
    draw = random.Random(seed)
    sizes = [1 if is_even else draw.choice((1, 2, 4, 8)) for _ in range(NUM_VERSIONS)]
    slow = [1 if is_even else draw.choice((1, 1, 1, 5)) for _ in range(NUM_VERSIONS)]
    worths = [Worth(s * f * 0.01, s) for s, f in zip(sizes, slow, strict=True)]
    versions = draw.sample(range(NUM_VERSIONS), NUM_VERSIONS)
    popularity = [1 / place**skew for place in range(1, NUM_VERSIONS + 1)]
    memory = Memory(num_slots * sum(sizes) // NUM_VERSIONS, rule, worths)
    for now, version in enumerate(draw.choices(versions, popularity, k=NUM_REQUESTS)):
        memory.ask(version, now)
    return memory.cost_s


@pytest.mark.parametrize("skew", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("is_even", [True, False], ids=["all alike", "of all sizes"])
@pytest.mark.parametrize("num_slots", [8, 16])
def test_reloads_cost_less_than_by_the_usual_rules(skew, is_even, num_slots):
    for seed in range(3):
        how = (seed, skew, is_even, num_slots)
        assert cost_s(ours, *how) < 0.92 * min(cost_s(lru, *how), cost_s(fifo, *how))


def test_what_was_popular_once_goes_in_the_end():
    worths = [Worth(0.01, 1) for _ in range(4)]
    memory = Memory(2, ours, worths)
    for now in range(100):
        memory.ask(0, now)
    for now in range(100, 1000):
        memory.ask(1 + now % 3, now)
    assert 0 not in memory.arrival
