"""Draws follow the distribution that transformers' own processors give, and nobody else's row."""

import math
from typing import Any

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from loradock.engine.protocol import Generate, Sampling
from loradock.engine.rows import GenerateRow
from loradock.engine.sampling import LIKELY_TOKENS, Drawn, logprobs_of, sample

INF, NAN = float("inf"), float("nan")
SEEN = (1, 4, 4, 7)
SHAPES: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.7},
    "hot": {"temperature": 1.6},
    "top_k": {"temperature": 1.0, "top_k": 5},
    "top_p": {"temperature": 1.0, "top_p": 0.8},
    "small top_p": {"temperature": 1.0, "top_p": 0.01},
    "penalty": {"temperature": 1.0, "repetition_penalty": 1.7},
    "reward": {"temperature": 1.0, "repetition_penalty": 0.6},
    "all": {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.2},
}


def row(seed=0, num_sampled=0, prompt=SEEN, **sampling):
    made = GenerateRow(Generate("row", prompt, Sampling(max_tokens=1, **sampling)), seed)
    for _ in range(num_sampled):
        made.append(prompt[0])
    return made


def random_logits(*shape, seed=0, scale=2.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def oracle(logits, temperature, top_k=None, top_p=1.0, repetition_penalty=1.0):
    """Give the probabilities that transformers would draw from."""
    steps = [
        RepetitionPenaltyLogitsProcessor(repetition_penalty),
        TemperatureLogitsWarper(temperature),
    ]
    steps += [TopKLogitsWarper(top_k)] if top_k else []
    steps += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    scores = logits[None]
    for step in steps:
        scores = step(torch.tensor([SEEN]), scores)
    return scores.softmax(dim=-1)[0]


def draw_often(logits, num_draws, **sampling):
    rows = [row(seed, **sampling) for seed in range(num_draws)]
    drawn = sample(logits.expand(num_draws, -1), rows)
    return torch.bincount(torch.tensor([d.token for d in drawn]), minlength=len(logits))


def assert_follows(counts, probabilities):
    """Bound the chi-square statistic by five of its standard deviations."""
    assert not counts[probabilities == 0].any(), "a token was drawn that a filter took away"
    expected = probabilities * counts.sum()
    is_usual = expected >= 5
    dof = int(is_usual.sum())
    statistic = ((counts - expected) ** 2 / expected)[is_usual].sum()
    assert statistic <= dof + 5 * math.sqrt(2 * dof)


@pytest.mark.parametrize("sampling", SHAPES.values(), ids=SHAPES)
def test_draws_follow_what_transformers_would_draw_from(sampling):
    logits = random_logits(24)
    assert_follows(draw_often(logits, 10_000, **sampling), oracle(logits, **sampling))


def test_top_p_beyond_the_likely_tokens_is_exact_too():
    """A flat distribution, of which top-p keeps more tokens than are looked at first."""
    logits = random_logits(4 * LIKELY_TOKENS, scale=0.1)
    probabilities = oracle(logits, 1.0, top_p=0.7)
    assert (probabilities > 0).sum() > 2 * LIKELY_TOKENS
    counts = draw_often(logits, 8_000, temperature=1.0, top_p=0.7)
    assert not counts[probabilities == 0].any()
    groups = range(0, len(logits), 32)
    assert_follows(
        torch.stack([counts[at : at + 32].sum() for at in groups]),
        torch.stack([probabilities[at : at + 32].sum() for at in groups]),
    )


@pytest.mark.parametrize("penalty", [1.3, 0.5])
def test_penalised_greedy_rows_take_what_transformers_would(penalty):
    logits = random_logits(200, 24)
    wanted = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([SEEN] * 200), logits)
    drawn = sample(logits, [row(repetition_penalty=penalty)] * 200)
    assert [d.token for d in drawn] == wanted.argmax(dim=-1).tolist()
    assert wanted.argmax(dim=-1).tolist() != logits.argmax(dim=-1).tolist()


def test_greedy_rows_take_the_best_token():
    logits = random_logits(6, 50)
    assert sample(logits, [row()] * 6) == [Drawn(token) for token in logits.argmax(-1).tolist()]


@pytest.mark.parametrize("sampling", [{"temperature": 1e-40}, {"temperature": 1.0, "top_p": 1e-9}])
def test_what_leaves_one_token_is_greedy(sampling):
    logits = random_logits(20, 50)
    drawn = sample(logits, [row(seed, **sampling) for seed in range(20)])
    assert [d.token for d in drawn] == logits.argmax(dim=-1).tolist()


def mixed_rows():
    """All kinds of rows, over logits with the many equal values that bfloat16 leaves."""
    shapes = [{}, *SHAPES.values(), {"temperature": 1.0, "top_k": 700}, {"logprobs": True}]
    rows = [row(seed, seed % 5, **shape) for seed, shape in enumerate(shapes * 3)]
    logits = random_logits(len(rows), 4_000).bfloat16().float()
    logits[::2] *= 0.1
    return logits, rows


def test_s2_a_draw_depends_on_no_neighbour():
    logits, rows = mixed_rows()
    together = sample(logits, rows)
    alone = [sample(logits[at : at + 1], [rows[at]])[0] for at in range(len(rows))]
    backwards = sample(logits.flip(0), rows[::-1])[::-1]
    tokens = [d.token for d in together]
    assert tokens == [d.token for d in alone] == [d.token for d in backwards]


def test_a_draw_depends_on_seed_and_number_of_sampled_tokens():
    logits = random_logits(500, scale=0.1)

    def draws(seed):
        rows = [row(seed, num_sampled, temperature=1.0) for num_sampled in range(30)]
        return [d.token for d in sample(logits.expand(30, -1), rows)]

    assert draws(1) == draws(1)
    assert len(set(draws(1))) > 20, "each token is drawn anew"
    assert sum(a == b for a, b in zip(draws(1), draws(2), strict=True)) < 3
    assert draws(-5) != draws(2**80), "any integer is a seed"


def test_tokens_of_equal_weight_are_kept_together():
    logits = torch.tensor([0.0, 3.0, 1.0, 3.0, 3.0])
    for sampling in ({"top_k": 1}, {"top_p": 0.1}):
        counts = draw_often(logits, 200, temperature=1.0, **sampling)
        assert counts.nonzero().flatten().tolist() == [1, 3, 4]


def test_masked_tokens_are_never_drawn():
    logits = random_logits(10)
    logits[::2] = -INF
    assert not draw_often(logits, 500, temperature=3.0)[::2].any()


@pytest.mark.parametrize("kind", [{}, {"logprobs": True}, *SHAPES.values()], ids=str)
def test_a_row_with_broken_logits_says_so_and_its_neighbours_are_well(kind):
    logits = random_logits(5, 40)
    well = sample(logits, [row(seed, **kind) for seed in range(5)])
    logits[0, 3], logits[2, 0], logits[4] = NAN, INF, -INF
    drawn = sample(logits, [row(seed, **kind) for seed in range(5)])
    assert [drawn[at] for at in (0, 2, 4)] == [Drawn(None)] * 3
    assert [drawn[at] for at in (1, 3)] == [well[at] for at in (1, 3)]


@pytest.mark.parametrize("sampling", [{}, *SHAPES.values()], ids=str)
def test_logprobs_are_those_of_the_unmodified_distribution(sampling):
    logits = random_logits(7, 40)
    before = logits.clone()
    rows = [row(seed, logprobs=seed % 2 == 0, **sampling) for seed in range(7)]
    for at, drawn in enumerate(sample(logits, rows)):
        wanted = logits[at].log_softmax(dim=-1)[drawn.token].item() if at % 2 == 0 else None
        assert drawn.logprob == pytest.approx(wanted, abs=1e-5)
    assert torch.equal(logits, before)


def test_logprobs_of_reads_log_likelihoods_off():
    logits = random_logits(4, 40)
    wanted = [[3, 3, 9], [], [0], [39, 1]]
    found = logprobs_of(logits, wanted)
    for own, tokens, values in zip(logits.log_softmax(dim=-1), wanted, found, strict=True):
        assert values == pytest.approx(own[tokens].tolist(), abs=1e-5)
    assert logprobs_of(logits[:1], [[]]) == [[]]
    logits[2, 5] = NAN
    assert math.isnan(logprobs_of(logits, wanted)[2][0])
