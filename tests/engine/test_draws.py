"""What a row draws, when it ends by itself, and the log-likelihoods it tells."""

import pytest
from engine_harness import at_work
from tiny_base import EOS, make_tiny_base

from loradock.engine.protocol import Finish

PROMPT = list(range(3, 30))
NAMES = ("rank 16, all linear", "rank 8, head")
WARM = [
    {"temperature": 1.0, "seed": 7},
    {"temperature": 0.7, "top_k": 9, "seed": 8},
    {"temperature": 1.5, "top_p": 0.8, "seed": 9},
    {"temperature": 1.0, "repetition_penalty": 1.3, "seed": 10},
    {"repetition_penalty": 1.5},
]


@pytest.fixture(scope="module")
def oracles(work, zoo, bare_oracle):
    for name in NAMES:
        work.engine.make_resident(zoo[name].source)
    return [bare_oracle, *(zoo[name] for name in NAMES)]


def test_s2_the_same_seed_draws_the_same_alone_and_among_others(work, oracles):
    asked = [(oracle.digest, warm) for oracle in oracles for warm in WARM]
    rows = [work.ask(PROMPT, digest, max_tokens=32, **warm) for digest, warm in asked]
    rows += [work.ask(PROMPT[at:], max_tokens=32, temperature=2.0) for at in range(9)]
    together = work.results(rows)[: len(asked)]
    for (digest, warm), result in zip(asked, together, strict=True):
        assert work.generate(PROMPT, digest, max_tokens=32, **warm).tokens == result.tokens
    assert len({tuple(result.tokens) for result in together}) == len(asked)


def test_another_seed_or_another_row_draws_otherwise(work, oracles):
    warm = {"temperature": 1.0, "max_tokens": 32}
    seeded = [work.generate(PROMPT, seed=seed, **warm).tokens for seed in (1, 2, 1)]
    assert seeded[0] == seeded[2] != seeded[1]
    unseeded = [work.generate(PROMPT, **warm).tokens for _ in range(2)]
    assert unseeded[0] != unseeded[1], "the stream is that of the row's name"


@pytest.mark.parametrize("warm", [{}, *WARM], ids=str)
def test_logprobs_are_the_oracles(work, oracles, warm):
    """Of the unmodified distribution, however the tokens were drawn."""
    rows = [work.ask(PROMPT, oracle.digest, logprobs=True, **warm) for oracle in oracles]
    plain = work.ask(PROMPT, **warm)
    for oracle, result in zip(oracles, work.results(rows), strict=True):
        assert result.logprobs == pytest.approx(oracle.logprobs(PROMPT, result.tokens), abs=2e-3)
    assert work.result(plain).logprobs == []


def test_an_end_token_ends_the_row_and_is_not_told(tmp_path, decoder):
    """A base whose ends are many: it stops where its own greedy answer has one."""
    base = make_tiny_base(tmp_path / "base", is_endless=False, vocab_size=64)
    prompts = [[3, at] for at in range(4, 20)]
    with at_work(base, decoder) as work:
        endless = work.results([work.ask(prompt) for prompt in prompts])
        ended = work.results([work.ask(prompt, ignore_eos=False) for prompt in prompts])
    for one, other in zip(endless, ended, strict=True):
        at = one.tokens.index(EOS) if EOS in one.tokens else None
        assert other.tokens == one.tokens[:at]
        assert other.finish is (Finish.LENGTH if at is None else Finish.STOP)
    assert {result.finish for result in ended} == {Finish.STOP, Finish.LENGTH}


def test_max_tokens_is_reached_and_never_passed(work, bare_oracle):
    for max_tokens in (1, 2, 16, 17):
        result = work.generate(PROMPT, max_tokens=max_tokens)
        assert (result.finish, len(result.tokens)) == (Finish.LENGTH, max_tokens)
        assert len(result.steps) == max_tokens, "a token a step, told as it comes"
        bare_oracle.assert_greedy(PROMPT, result.tokens)
