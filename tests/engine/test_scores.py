"""Log-likelihoods are those of the oracle, whatever continuations share, and beside what."""

import random

import pytest
from engine_harness import at_work
from tiny_base import VOCAB_SIZE

from loradock.engine.protocol import Finish

NAMES = ("rank 4, head and all linear", "rsLoRA, patterns")
TOLERANCE = 2e-3
# Shared beginnings, one that another begins with, one given twice, and different lengths.
CONTINUATIONS = [
    (7, 8, 9),
    (7, 8, 9, 10, 11, 12),
    (7, 8, 30),
    (40,),
    (7,),
    (7, 8, 9),
    tuple(range(100, 140)),
    (*range(100, 120), 3, 4, 5),
]


def random_tokens(seed, length):
    return random.Random(seed).choices(range(3, VOCAB_SIZE), k=length)


PROMPTS = [random_tokens(length, length) for length in (1, 16, 45)]


@pytest.fixture(scope="module")
def oracles(work, zoo, bare_oracle):
    for name in NAMES:
        work.engine.make_resident(zoo[name].source)
    return [bare_oracle, *(zoo[name] for name in NAMES)]


def assert_scored(oracle, prompt, continuations, result):
    assert (result.finish, result.tokens) == (Finish.SCORED, [])
    assert [len(scores) for scores in result.scores] == [len(text) for text in continuations]
    for text, scores in zip(continuations, result.scores, strict=True):
        assert scores == pytest.approx(oracle.logprobs(prompt, text), abs=TOLERANCE)


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_s1_scores_equal_the_oracles(work, oracles, prompt):
    found = [work.score(prompt, CONTINUATIONS, oracle.digest) for oracle in oracles]
    for oracle, result in zip(oracles, found, strict=True):
        assert_scored(oracle, prompt, CONTINUATIONS, result)
    bare, *adapted = (result.scores[6] for result in found)
    for scores in adapted:
        changes = [abs(one - other) for one, other in zip(scores, bare, strict=True)]
        assert max(changes) > 1, "or an adapter might be left out"


def test_s2_scores_beside_rows_that_generate(work, oracles):
    """All kinds of rows in one batch; a trie larger than what a step has room for."""
    many = [tuple(random_tokens(seed % 7, 12) + random_tokens(seed, 5)) for seed in range(20)]
    generating = [(oracle, prompt) for oracle in oracles for prompt in PROMPTS]
    rows = [work.ask(prompt, oracle.digest, salt="beside") for oracle, prompt in generating]
    scoring = [(o, prompt, many) for o in oracles for prompt in PROMPTS[::2]]
    scoring += [(oracle, PROMPTS[2], CONTINUATIONS) for oracle in oracles]
    asked = [work.ask_scores(prompt, texts, o.digest) for o, prompt, texts in scoring]
    for (oracle, prompt, texts), result in zip(scoring, work.results(asked), strict=True):
        assert_scored(oracle, prompt, texts, result)
    for (oracle, prompt), result in zip(generating, work.results(rows), strict=True):
        oracle.assert_greedy(prompt, result.tokens)


@pytest.mark.parametrize("step_tokens", [1, 5, 17])
def test_s2_tries_in_small_chunks(tiny_base, decoder, oracles, step_tokens):
    with at_work(tiny_base, decoder, max_rows=1, step_tokens=step_tokens) as work:
        for oracle in oracles[1:]:
            work.engine.make_resident(oracle.source)
        for oracle in oracles:
            result = work.score(PROMPTS[2], CONTINUATIONS, oracle.digest)
            assert_scored(oracle, PROMPTS[2], CONTINUATIONS, result)


def test_shared_beginnings_are_computed_once(tiny_base, decoder):
    """A prompt of 20 and a trie whose inner nodes are 9: 29 places, one token a step."""
    texts = [(*range(50, 59), last) for last in range(100, 130)]
    with at_work(tiny_base, decoder, max_rows=1, step_tokens=1) as work:
        work.score(random_tokens(0, 20), texts)
        assert work.engine.state().num_steps == 29
