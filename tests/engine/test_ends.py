"""Rows leave when they are told to, when they are late, or when they break: and only they."""

import shutil
import threading
import time

import pytest
import torch
from engine_harness import WAIT_S, at_work
from safetensors.torch import load_file, save_file

from loradock.engine.engine import BuiltinEngine
from loradock.engine.loading import load_base
from loradock.engine.protocol import AdapterSource, Failure, Finish

PROMPT = list(range(3, 53))
LONG = 500
NAMES = ("rank 64, all linear", "rank 8, mlp")


@pytest.fixture
def work(tiny_base, decoder, zoo):
    """An engine that nobody has asked anything yet."""
    with at_work(tiny_base, decoder) as running:
        for name in NAMES:
            running.engine.make_resident(zoo[name].source)
        yield running


@pytest.fixture
def broken_source(zoo, tmp_path):
    """An adapter with one weight that is no number."""
    source = zoo[NAMES[0]].source
    file = shutil.copy(source.weights, tmp_path / "broken.safetensors")
    tensors = load_file(file)
    tensors[next(key for key in tensors if "layers.0.mlp.up_proj.lora_B" in key)][5, 3] = torch.nan
    save_file(tensors, file)
    return AdapterSource("sha256:broken", file, source.modules)


def test_s13_a_cancelled_row_leaves_within_one_step(work, zoo, bare_oracle):
    """Told between two steps, the next report is the row's last, and brings no token."""
    row = work.ask(PROMPT, zoo[NAMES[0]].digest, max_tokens=LONG)
    beside = work.ask(PROMPT, max_tokens=64)
    work.when(row, 7, lambda: work.engine.cancel(row))
    result = work.result(row)
    assert (result.finish, len(result.tokens)) == (Finish.CANCELLED, 7)
    assert result.steps[-1] == result.steps[-2] + 1
    zoo[NAMES[0]].assert_greedy(PROMPT, result.tokens)
    assert_whole(bare_oracle, work.result(beside))


def assert_whole(oracle, result, num_tokens=64):
    """The row has come to its end, and every token of it is right."""
    assert (result.finish, len(result.tokens)) == (Finish.LENGTH, num_tokens)
    oracle.assert_greedy(PROMPT, result.tokens)


def test_s13_memory_comes_back_at_once(tiny_base, decoder):
    """Two rows fill the memory; whoever waits is let in as soon as one of them is cancelled."""
    with at_work(tiny_base, decoder, kv_tokens=1024) as work:
        long = PROMPT * 9
        *rows, third = [work.ask(long, max_tokens=60, salt=salt) for salt in "abc"]
        seen = []

        def cancel():
            seen.append(work.engine.state())
            work.engine.cancel(rows[0])

        work.when(rows[0], 5, cancel)
        ends = work.results([*rows, third])
        assert [(state.num_running, state.num_waiting) for state in seen] == [(2, 1)]
        assert [end.finish for end in ends] == [Finish.CANCELLED, Finish.LENGTH, Finish.LENGTH]
        assert ends[2].steps[0] == ends[0].steps[-1]


def test_s13_a_waiting_row_is_cancelled_too(tiny_base, decoder):
    with at_work(tiny_base, decoder, max_rows=1) as work:
        first = work.ask(PROMPT, max_tokens=64)
        waiting = work.ask(PROMPT)
        work.when(first, 3, lambda: work.engine.cancel(waiting))
        result = work.result(waiting)
        assert (result.finish, result.tokens) == (Finish.CANCELLED, [])
        assert work.result(first).finish is Finish.LENGTH


def test_s13_prompts_and_scores_are_cancelled_in_the_middle(tiny_base, decoder):
    """A prompt of many chunks: the rows leave before it is through."""
    with at_work(tiny_base, decoder, step_tokens=8) as work:
        first = work.ask(PROMPT, max_tokens=200)
        long = [3] * 800
        rows = []

        def ask():
            rows.extend([work.ask(long, salt="a"), work.ask_scores(long, [(4, 5)], salt="b")])
            work.when(first, 30, lambda: work.engine.cancel(rows[0]))
            work.when(first, 30, lambda: work.engine.cancel(rows[1]))

        work.when(first, 5, ask)
        work.wait_until(lambda: len(rows) == 2)
        for result in work.results(rows):
            assert (result.finish, result.tokens, result.scores) == (Finish.CANCELLED, [], ())
        assert work.result(first).finish is Finish.LENGTH


def test_s13_unknown_rows_are_not_cancelled(work, bare_oracle):
    done = work.ask(PROMPT, max_tokens=1)
    work.result(done)
    for name in (done, "nobody", ""):
        work.engine.cancel(name)
    assert_whole(bare_oracle, work.generate(PROMPT))


def test_s13_rows_that_are_late_leave_within_one_step(tiny_base, decoder, bare_oracle):
    """The clock passes their deadline while a step's report is taken: the next is their last."""
    with at_work(tiny_base, decoder, max_rows=2) as work:
        deadline = time.monotonic() + 0.3
        beside = work.ask(PROMPT)
        running = work.ask(PROMPT, max_tokens=LONG, deadline=deadline)
        waiting = work.ask(PROMPT, max_tokens=LONG, deadline=deadline)
        work.when(running, 1, lambda: let_pass(deadline))
        ends = work.results([running, waiting])
        assert [end.finish for end in ends] == [Finish.EXPIRED] * 2
        assert len(ends[0].tokens) <= 1
        assert ends[0].steps in ([1, 2], [1], [2])
        assert ends[1].tokens == []
        assert_whole(bare_oracle, work.result(beside))


def let_pass(moment):
    while time.monotonic() < moment:
        pass


def test_s13_a_row_that_comes_too_late_costs_no_step(work):
    result = work.generate(PROMPT, deadline=time.monotonic() - 1)
    assert (result.finish, result.tokens) == (Finish.EXPIRED, [])
    assert work.engine.state().num_steps == 0


def test_a_broken_adapter_fails_its_own_rows_only(work, broken_source, zoo, bare_oracle):
    broken = work.engine.make_resident(broken_source).digest
    fine = [bare_oracle, *(zoo[name] for name in NAMES)]
    rows = [work.ask(PROMPT, oracle.digest) for oracle in fine]
    failing = [
        work.ask(PROMPT, broken),
        work.ask_scores(PROMPT, [(5, 6), (7,)], broken),
        work.ask(PROMPT, broken, temperature=1.0, top_p=0.5, logprobs=True),
    ]
    for result in work.results(failing):
        assert (result.finish, result.failure) == (Finish.FAILED, Failure.NOT_FINITE)
        assert (result.tokens, result.logprobs, result.scores) == ([], [], ())
    for oracle, result in zip(fine, work.results(rows), strict=True):
        assert_whole(oracle, result)


def test_nothing_of_a_failed_row_is_used_again(tiny_base, decoder, bare_oracle, broken_source):
    """Neither by its own version, nor is what it left in memory seen by who gets its blocks.

    It is longer than the next row's prompt, whose last block thus ends with what is no number.
    """
    with at_work(tiny_base, decoder, kv_tokens=192) as work:
        work.engine.make_resident(broken_source)
        for _ in range(3):
            failed = work.generate([*PROMPT, *range(13)], broken_source.digest, max_tokens=100)
            assert (failed.finish, failed.cached_tokens) == (Finish.FAILED, 0)
            assert work.settled().num_free_blocks >= 4
            for salt in ("one", "two"):
                fine = work.generate(PROMPT, max_tokens=100, salt=salt)
                assert_whole(bare_oracle, fine, 100)


def test_a_failing_step_fails_only_the_row_that_breaks_it(work, zoo, bare_oracle):
    """Its adapter is released under it: a caller's mistake, of which others know nothing."""
    fine = work.ask(PROMPT, zoo[NAMES[1]].digest)
    beside = work.ask(PROMPT)
    failing = work.ask(PROMPT, zoo[NAMES[0]].digest)
    work.when(failing, 10, lambda: work.engine.release(zoo[NAMES[0]].digest))
    result = work.result(failing)
    assert (result.finish, len(result.tokens)) == (Finish.FAILED, 10)
    assert result.failure is Failure.COMPUTE
    for oracle, row in ((zoo[NAMES[1]], fine), (bare_oracle, beside)):
        assert_whole(oracle, work.result(row))


def test_closing_ends_all_rows_and_is_idempotent(tiny_base, decoder):
    with at_work(tiny_base, decoder, max_rows=2) as work:
        rows = [work.ask(PROMPT, max_tokens=900) for _ in range(4)]
        closing = threading.Thread(target=work.engine.close)
        work.when(rows[0], 5, closing.start)
        results = work.results(rows)
        closing.join(WAIT_S)
        assert {result.finish for result in results} == {Finish.CANCELLED}
        assert [bool(result.tokens) for result in results] == [True, True, False, False]
        work.engine.close()
        assert not any(thread.name == "engine" for thread in threading.enumerate())


def test_an_engine_that_was_never_started_closes(tiny_base, decoder):
    engine = BuiltinEngine(load_base(tiny_base, "tiny"), max_rows=1, kv_tokens=64, decoder=decoder)
    assert engine.state().num_blocks == 4
    engine.close()
