"""Whoever is admitted runs to its end, in turn, on memory that holds its own text and nothing else.

A memory of names stands for the keys and values: each place remembers for whom, and after which
tokens, it was written, and each step checks that a row finds what it would have written itself.
"""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradock.engine.blocks import BlockPool
from loradock.engine.errors import TooLong
from loradock.engine.protocol import Generate, Priority, Sampling, Score, Work
from loradock.engine.rows import GenerateRow, Row, ScoreRow
from loradock.engine.scheduler import Scheduler

SIZE = 4
CONTEXT = 40


def scheduler(num_blocks=32, max_rows=4, step_tokens=16, prefill_tokens=16):
    return Scheduler(
        BlockPool(num_blocks),
        block_tokens=SIZE,
        max_rows=max_rows,
        step_tokens=step_tokens,
        prefill_tokens=prefill_tokens,
        context_length=CONTEXT,
    )


def generating(name, num_prompt=3, max_tokens=4, **options):
    work = Generate(name, tuple(range(num_prompt)), Sampling(max_tokens), **options)
    return GenerateRow(work, seed=0)


def sizes(plan):
    return {chunk.row.name: len(chunk) for chunk in plan.chunks}


def run_step(scheduler):
    """Compute a step as the engine does, with tokens that mean nothing."""
    scheduler.admit()
    plan = scheduler.plan()
    for chunk in plan.chunks:
        scheduler.advance(chunk)
        if isinstance(chunk.row, GenerateRow) and chunk.wanted:
            chunk.row.append(9)
    scheduler.end_step()
    return plan


def test_rows_are_admitted_in_their_order_as_long_as_the_next_fits():
    made = scheduler(num_blocks=4, max_rows=3)
    for name, num_prompt in (("a", 5), ("big", 12), ("small", 1)):
        made.add(generating(name, num_prompt, max_tokens=4))
    made.admit()
    assert [row.name for row in made.running] == ["a"]
    assert [row.name for row in made.waiting] == ["big", "small"], "nobody is overtaken"
    made.leave(made.running[0])
    made.admit()
    assert [row.name for row in made.running] == ["big"]


def test_no_more_rows_run_than_may():
    made = scheduler(max_rows=2)
    for name in "abc":
        made.add(generating(name))
    made.admit()
    assert (len(made.running), len(made.waiting)) == (2, 1)


def test_rows_that_decode_go_first_and_prompts_share_the_rest():
    made = scheduler(max_rows=4, step_tokens=8)
    made.add(generating("decoding", 2, max_tokens=9))
    assert sizes(run_step(made)) == {"decoding": 2}
    made.add(generating("long", 20))
    made.add(generating("next", 6))
    assert sizes(run_step(made)) == {"decoding": 1, "long": 7}
    assert sizes(run_step(made)) == {"decoding": 1, "long": 7}
    assert sizes(run_step(made)) == {"decoding": 1, "long": 6, "next": 1}
    assert sizes(run_step(made)) == {"decoding": 1, "long": 1, "next": 5}


def test_fresh_blocks_are_those_that_are_written_for_the_first_time():
    made = scheduler(step_tokens=6, max_rows=1)
    row = generating("row", 9, max_tokens=4)
    made.add(row)
    fresh = [run_step(made).fresh_blocks for _ in range(5)]
    assert fresh == [row.blocks[:2], row.blocks[2:3], [], [], []]


def test_known_prefixes_are_not_computed_again():
    made = scheduler()
    first = generating("first", 9)
    made.add(first)
    run_step(made)
    again = generating("again", 9)
    made.add(again)
    plan = run_step(made)
    assert (again.num_cached, sizes(plan)["again"]) == (8, 1)
    assert again.blocks[:2] == first.blocks[:2]
    assert not set(again.blocks[2:]) & set(first.blocks)


def test_expired_rows_are_named_once_wherever_they_are():
    made = scheduler(max_rows=1)
    for name, deadline in (("running", 5.0), ("waiting", 4.0), ("endless", None)):
        made.add(generating(name, deadline=deadline))
    made.admit()
    assert made.expired(3.9) == []
    assert [row.name for row in made.expired(4.0)] == ["waiting"]
    assert [row.name for row in made.expired(9.0)] == ["running"]
    assert made.expired(9.0) == []
    assert made.find("waiting") in made.waiting
    assert made.find("nobody") is None


@pytest.mark.parametrize(
    ("work", "numbers"),
    [
        (Generate("row", (1,) * 30, Sampling(11)), (30, 11, 40)),
        (Generate("row", (1,) * 41, Sampling(1)), (41, 1, 40)),
        (Score("row", (1,) * 38, ((1, 2, 3), (1,))), (38, 3, 40)),
        (Generate("row", (1,) * 30, Sampling(10)), None),
        (Score("row", (1,) * 37, ((1, 2, 3), (1,))), None),
    ],
)
def test_s19_what_is_longer_than_the_context_never_fits(work, numbers):
    check(scheduler(), work, numbers)


@pytest.mark.parametrize(
    ("work", "numbers"),
    [
        (Generate("row", (1,) * 5, Sampling(9)), (5, 9, 13)),
        (Generate("row", (1,) * 5, Sampling(8)), None),
        (Score("row", (1,) * 9, ((1, 2), (2, 2), (3, 2), (4, 2))), (9, 4, 12)),
        (Score("row", (1,) * 9, ((1, 2), (2, 2), (3, 2), (4,))), None),
    ],
)
def test_s19_what_is_larger_than_the_memory_never_fits(work, numbers):
    check(scheduler(num_blocks=3), work, numbers)


def check(made, work: Work, numbers):
    row: Row = GenerateRow(work, 0) if isinstance(work, Generate) else ScoreRow(work)
    if numbers is None:
        made.check_fits(row)
        made.add(row)
        made.admit()
        assert made.running == [row]
    else:
        with pytest.raises(TooLong) as refused:
            made.check_fits(row)
        error = refused.value
        assert (error.prompt_tokens, error.max_tokens, error.limit_tokens) == numbers


def test_a_step_holds_at_least_a_token_of_each_row():
    with pytest.raises(ValueError, match="can't hold 5 rows"):
        scheduler(max_rows=5, step_tokens=4)


def test_check_finds_rows_that_hold_what_they_do_not():
    made = scheduler()
    made.add(generating("row"))
    made.admit()
    made.check()
    made.running[0].blocks = []
    with pytest.raises(AssertionError, match="held by rows"):
        made.check()


def test_more_rows_run_than_if_each_had_its_worst_case_to_itself():
    """A prompt of 6 and up to 30 tokens more take 9 blocks of 4; rows that stop at 5 take 3."""
    made = scheduler(num_blocks=36, max_rows=16)
    most = 0
    for number in range(400):
        made.add(generating(f"{number}", 6, max_tokens=30, salt=f"{number}"))
    while not made.is_idle:
        run_step(made)
        most = max(most, len(made.running))
        for row in list(made.running):
            if row.num_sampled >= 5:
                made.leave(row)
    assert 36 // 9 == 4, "so many would run, each with its worst case"
    assert most >= 10
    assert made.num_preemptions <= 40


def test_where_rows_use_all_that_they_may_hardly_any_is_put_back():
    """How much rows use is learned, so that they don't drive each other out for ever."""
    made = scheduler(num_blocks=36, max_rows=16)
    for number in range(200):
        made.add(generating(f"{number}", 6, max_tokens=30, salt=f"{number}"))
    at_half = 0
    while not made.is_idle:
        run_step(made)
        for row in list(made.running):
            if row.num_sampled == 30:
                made.leave(row)
        if len(made.rows) > 100:
            at_half = made.num_preemptions
    assert made.num_preemptions - at_half <= 20


def test_the_least_important_and_the_youngest_are_put_back_and_come_first_again():
    """Four rows of three blocks each are let in where eight are: two are expected of each."""
    made = scheduler(num_blocks=8, max_rows=4)
    high, low = Priority.HIGH, Priority.LOW
    for name, priority in (("old", low), ("high", high), ("normal", Priority.NORMAL), ("low", low)):
        made.add(generating(name, 4, max_tokens=9, salt=name, priority=priority))
    let_in: list[str] = []
    while not made.is_idle:
        before = {row.name for row in made.running}
        run_step(made)
        let_in += [row.name for row in made.running if row.name not in before]
        if made.num_preemptions and made.find("late") is None and "late" not in let_in:
            made.add(generating("late", 4, max_tokens=2, priority=low))
        for row in list(made.running):
            if row.num_sampled == row.work.sampling.max_tokens:
                made.leave(row)
    assert let_in == ["high", "normal", "old", "low", "normal", "low", "late"]


WORKS = st.builds(
    lambda is_score, prompt, adapter, salt, max_tokens, priority, texts: (
        Score("", tuple(prompt), tuple(map(tuple, texts)), adapter, salt, None, priority)
        if is_score
        else Generate("", tuple(prompt), Sampling(max_tokens), adapter, salt, None, priority)
    ),
    st.booleans(),
    st.lists(st.integers(0, 1), min_size=1, max_size=12),
    st.sampled_from([None, "sha256:1", "sha256:2"]),
    st.sampled_from(["", "tenant"]),
    st.integers(1, 28),
    st.sampled_from(Priority),
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=1, max_size=4),
)


class History:
    """Rows come, run, are put back, are cancelled and fail at random; every step is checked."""

    def __init__(self, seed, num_blocks, max_rows, step_tokens, prefill_tokens):
        self.random = random.Random(seed)
        self.pool = BlockPool(num_blocks)
        self.max_rows, self.step_tokens = max_rows, step_tokens
        self.prefill_tokens = prefill_tokens
        self.scheduler = Scheduler(
            self.pool,
            block_tokens=SIZE,
            max_rows=max_rows,
            step_tokens=step_tokens,
            prefill_tokens=prefill_tokens,
            context_length=CONTEXT,
        )
        self.scheduler._usage = 0.0  # nothing is expected of rows: as many as ever are put back
        self.memory: dict[int, object] = {}  # place in key/value memory -> what is written there

    def step(self):
        oldest = min(self.scheduler.running, key=lambda row: row.arrival, default=None)
        known = [(row, len(row.tokens)) for row in self.scheduler.rows]
        self.scheduler.admit()
        assert oldest is None or oldest.is_running, "the oldest row is never put back"
        assert [(row, len(row.tokens)) for row in self.scheduler.rows] == known
        plan = self.scheduler.plan()
        self.check_plan(plan)
        for block in plan.fresh_blocks:
            holders = [row for row in self.scheduler.running if block in row.blocks]
            assert len(holders) == 1, "what is to be written is nobody else's"
            for place in range(block * SIZE, (block + 1) * SIZE):
                self.memory.pop(place, None)
        for chunk in plan.chunks:
            self.compute(chunk)
        self.scheduler.end_step()
        self.scheduler.check()

    def check_plan(self, plan):
        running = self.scheduler.running
        assert len(running) <= self.max_rows
        assert sum(map(len, plan.chunks)) <= self.step_tokens
        assert plan or self.scheduler.is_idle, "something always comes on"
        single = {chunk.row.name for chunk in plan.chunks if len(chunk) == 1}
        assert single >= {row.name for row in running if row.num_remaining == 1}
        next_tokens = (chunk.row for chunk in plan.chunks if chunk.row.num_remaining == 1)
        if any(row.is_answering for row in next_tokens):  # of who was put back, it comes later
            assert sum(len(c) for c in plan.chunks if len(c) > 1) <= self.prefill_tokens

    def compute(self, chunk):
        row = chunk.row
        for place in chunk.places:
            assert self.at(row, place) not in self.memory, "nothing is written twice"
            self.memory[self.at(row, place)] = self.content(row, place)
        for place in range(chunk.end):
            assert self.memory[self.at(row, place)] == self.content(row, place)
        self.scheduler.advance(chunk)
        fate = self.random.random()
        if fate < 0.01:
            self.scheduler.leave(row, forget=fate < 0.005)
        elif isinstance(row, ScoreRow):
            if not row.num_remaining:
                self.scheduler.leave(row)
        elif chunk.wanted:
            row.append(self.random.randrange(2))
            if row.num_sampled == row.work.sampling.max_tokens:
                self.scheduler.leave(row)

    def at(self, row, place):
        return row.blocks[place // SIZE] * SIZE + place % SIZE

    def content(self, row, place):
        """Say what keys and values at a place depend on."""
        whole = [row.token(at) for at in range(min(place + 1, len(row.tokens)))]
        beyond = [row.token(at) for at in sorted(row.sees(place) or [])]
        return (row.work.adapter, row.work.salt, *whole, *beyond)


@settings(deadline=None)
@given(
    st.integers(0, 14).flatmap(lambda size: st.lists(WORKS, min_size=size, max_size=size)),
    st.integers(0, 99),
    st.integers(10, 14),
    st.integers(1, 8),
    st.integers(0, 12),
    st.integers(1, 9),
)
def test_s5_s13_random_histories_never_mix_what_is_whose(
    works, seed, num_blocks, max_rows, more, prefill
):
    history = History(seed, num_blocks, max_rows, max_rows + more, prefill)
    rows = []
    for number, work in enumerate(works):
        work = replace(work, row=f"row-{number}")
        row: Row = GenerateRow(work, 0) if isinstance(work, Generate) else ScoreRow(work)
        try:
            history.scheduler.check_fits(row)
        except TooLong:
            continue
        history.scheduler.add(row)
        rows.append(row)
        if history.random.random() < 0.5:
            history.step()
    most = sum(2 * CONTEXT for _ in works)
    for _ in range(most):
        if history.scheduler.is_idle:
            break
        history.step()
    assert history.scheduler.is_idle, "every row comes to its end"
    asked = sum(-(-row.most_places // SIZE) for row in rows)
    assert history.scheduler.num_preemptions <= asked, "each time, somebody has come on by a block"
    assert history.pool.num_used == 0
    assert history.pool.num_free + history.pool.num_cached == num_blocks
