"""Where memory runs out, rows are put back, and go on later as if nothing had happened."""

from functools import partial

import pytest
from engine_harness import at_work

from loradock.engine.protocol import Finish

PROMPTS = [[5 * row + token for token in range(3, 33)] for row in range(6)]
NAMES = (None, "rank 64, all linear", "rank 8, mlp")
NUM_TOKENS = 90
SHORT = 16 * 20  # tokens of memory; six rows of 119 places need 48 blocks


def sampling_of(row):
    """Half of the rows are greedy."""
    drawn = {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.1, "seed": row}
    return (drawn if row % 2 else {}) | {"logprobs": row > 2}


@pytest.fixture(scope="module")
def ask_all(zoo):
    """Ask for all rows at once, and for a score beside them."""
    sources = [None if name is None else zoo[name] for name in NAMES]

    def ask(work):
        for oracle in filter(None, sources):
            work.engine.make_resident(oracle.source)
        digests = [oracle and oracle.digest for oracle in sources]
        rows = [
            work.ask(prompt, digests[at % 3], max_tokens=NUM_TOKENS, **sampling_of(at))
            for at, prompt in enumerate(PROMPTS)
        ]
        score = work.ask_scores([7] * 40, [(at, at + 1, at + 2) for at in range(3, 40)])
        return [*work.results(rows), work.result(score)]

    return ask


def test_s2_rows_that_are_put_back_go_on_as_if_they_had_not_been(tiny_base, decoder, ask_all, zoo):
    """Nothing is told twice, nothing is lost, and what is drawn is drawn from the same numbers."""
    with at_work(tiny_base, decoder) as work:
        undisturbed = ask_all(work)
        assert work.engine.state().num_preemptions == 0
    with at_work(tiny_base, decoder, kv_tokens=SHORT) as work:
        short = ask_all(work)
        assert work.engine.state().num_preemptions >= 2
    for at, (row, beside) in enumerate(zip(short, undisturbed, strict=True)):
        assert row.finish is beside.finish
        assert row.tokens == beside.tokens
        assert row.logprobs == pytest.approx(beside.logprobs, abs=1e-3)
        for own, other in zip(row.scores, beside.scores, strict=True):
            assert own == pytest.approx(other, abs=1e-3)
        if at in (2, 4):
            zoo[NAMES[at % 3]].assert_greedy(PROMPTS[at], row.tokens)


def test_s13_rows_that_were_put_back_can_be_cancelled(tiny_base, decoder):
    with at_work(tiny_base, decoder, kv_tokens=SHORT) as work:
        rows = [work.ask(prompt, max_tokens=NUM_TOKENS) for prompt in PROMPTS]
        for row in rows[1:]:
            work.when(rows[0], 70, partial(work.engine.cancel, row))
        ends = work.results(rows)
        assert work.engine.state().num_preemptions
        assert [end.finish for end in ends] == [Finish.LENGTH, *[Finish.CANCELLED] * 5]
