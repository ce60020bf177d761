"""Drawing the next token of many rows in one pass, and reading log-likelihoods off.

A row's draw depends on its own logits, its seed and how many tokens it has drawn: on nothing else
in the batch. Filters are thresholds on probabilities, so that tokens of equal probability are kept
or dropped together and their order never matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor

from loradock.engine.protocol import Sampling
from loradock.engine.rows import GenerateRow

LIKELY_TOKENS = 256  # top-p is first looked for among these; all are sorted only if they fall short
UNIFORM_BITS = 24  # what a float32 below 1 holds
NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for one row.

    `token` is None if the row's logits are broken: NaN or +inf among them, or all of them -inf.
    `logprob` is set only if the row asks for it, and is that of the unmodified distribution.
    """

    token: int | None
    logprob: float | None = None


def sample(logits: Tensor, rows: Sequence[GenerateRow]) -> list[Drawn]:
    """Draw one token for each row from its logits ([rows, vocabulary], float32; left unchanged)."""
    samplings = [row.work.sampling for row in rows]
    best, tokens = _best(logits)
    shaped = _where(not _is_plain(sampling) for sampling in samplings)
    if shaped:
        tokens[shaped] = _draw_shaped(logits[shaped], [rows[at] for at in shaped])
    is_sound = best.isfinite()  # a maximum is NaN where any of its values is
    logprobs = _logprobs(logits, tokens, _where(s.logprobs for s in samplings))
    return [
        Drawn(None) if token == NO_TOKEN else Drawn(token, logprobs.get(at))
        for at, token in enumerate(tokens.where(is_sound, NO_TOKEN).tolist())
    ]


def logprobs_of(logits: Tensor, wanted: Sequence[Sequence[int]]) -> list[list[float]]:
    """Give the log-likelihoods of the wanted tokens of each row of logits ([rows, vocabulary]).

    They are NaN or infinite where the logits are broken.
    """
    counts = [len(tokens) for tokens in wanted]
    at = torch.arange(len(wanted)).repeat_interleave(torch.tensor(counts)).to(logits.device)
    tokens = torch.tensor(list(chain.from_iterable(wanted)), dtype=torch.long, device=logits.device)
    values = logits[at, tokens] - logits.logsumexp(dim=-1)[at]
    read = iter(values.tolist())
    return [list(islice(read, count)) for count in counts]


def _best(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Give the largest value of each row, and where it is, [rows] both; of NaN, if there is any."""
    if logits.device.type == "cpu":  # torch's own takes ten times as long there
        tokens = torch.from_numpy(logits.numpy().argmax(axis=-1))
        return logits.gather(-1, tokens[:, None]).squeeze(-1), tokens
    best, tokens = logits.max(dim=-1)
    return best, tokens


def _where(holds: Iterable[bool]) -> list[int]:
    return [at for at, one in enumerate(holds) if one]


def _is_plain(sampling: Sampling) -> bool:
    """Whether the best token is the one to take."""
    return sampling.temperature == 0 and sampling.repetition_penalty == 1


def _logprobs(logits: Tensor, tokens: Tensor, asked: list[int]) -> dict[int, float]:
    if not asked:
        return {}
    own = logits[asked]
    values = own.gather(-1, tokens[asked, None]).squeeze(-1) - own.logsumexp(dim=-1)
    return dict(zip(asked, values.tolist(), strict=True))


def _draw_shaped(scores: Tensor, rows: Sequence[GenerateRow]) -> Tensor:
    """Give tokens ([rows]) of rows that aren't plain. Changes `scores`."""
    _penalise(scores, rows)
    tokens = scores.argmax(dim=-1)
    drawn = _where(row.work.sampling.temperature > 0 for row in rows)
    if drawn:
        warm = [rows[at] for at in drawn]
        weights = _weights(scores[drawn], [row.work.sampling for row in warm])
        tokens[drawn] = _invert(weights, warm)
    return tokens


def _penalise(scores: Tensor, rows: Sequence[GenerateRow]) -> None:
    """Push tokens down that a row has already seen, in place."""
    penalised = _where(row.work.sampling.repetition_penalty != 1 for row in rows)
    if not penalised:
        return
    at = [place for place in penalised for _ in rows[place].seen]
    seen = [token for place in penalised for token in rows[place].seen]
    index = torch.tensor([at, seen], device=scores.device)
    factors = scores.new_tensor([row.work.sampling.repetition_penalty for row in rows])[index[0]]
    values = scores[index[0], index[1]]
    scores[index[0], index[1]] = torch.where(values < 0, values * factors, values / factors)


def _weights(scores: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Give probabilities up to a factor ([rows, vocabulary]); the best token's is 1."""
    smallest = torch.finfo(scores.dtype).tiny
    temperatures = scores.new_tensor([max(s.temperature, smallest) for s in samplings])
    weights = (scores - scores.amax(dim=-1, keepdim=True)).div_(temperatures[:, None]).exp_()
    top_k = _where(s.top_k is not None and s.top_k < weights.shape[-1] for s in samplings)
    if top_k:
        weights[top_k] = _keep_top_k(weights[top_k], [samplings[at].top_k or 1 for at in top_k])
    top_p = _where(s.top_p < 1 for s in samplings)
    if top_p:
        weights[top_p] = _keep_top_p(weights[top_p], [samplings[at].top_p for at in top_p])
    return weights


def _keep_top_k(weights: Tensor, counts: Sequence[int]) -> Tensor:
    last = torch.tensor(counts, device=weights.device)[:, None] - 1
    thresholds = weights.topk(max(counts), dim=-1).values.gather(-1, last)
    return weights * (weights >= thresholds)


def _keep_top_p(weights: Tensor, shares: Sequence[float]) -> Tensor:
    wanted = _sum(weights) * weights.new_tensor(shares)  # [rows]
    likely = weights.topk(min(LIKELY_TOKENS, weights.shape[-1]), dim=-1).values
    thresholds = _threshold(likely, wanted)
    short = (_sum(likely) < wanted).nonzero().squeeze(-1)
    if len(short):
        in_order = weights[short].sort(dim=-1, descending=True).values
        thresholds[short] = _threshold(in_order, wanted[short])
    return weights * (weights >= thresholds[:, None])


def _sum(weights: Tensor) -> Tensor:
    """Add up each row in its order; `Tensor.sum` rounds one row otherwise than several."""
    return weights.cumsum(dim=-1)[:, -1]


def _threshold(in_order: Tensor, wanted: Tensor) -> Tensor:
    """Give the smallest weight ([rows]) before which `wanted` is not yet reached."""
    before = in_order.cumsum(dim=-1) - in_order
    num_kept = (before < wanted[:, None]).sum(dim=-1).clamp(min=1)
    return in_order.gather(-1, num_kept[:, None] - 1).squeeze(-1)


def _invert(weights: Tensor, rows: Sequence[GenerateRow]) -> Tensor:
    """Draw from the distributions by the inverse of their cumulative functions."""
    cumulative = weights.cumsum(dim=-1)
    uniforms = weights.new_tensor([_uniform(row.seed, row.num_sampled) for row in rows])
    targets = uniforms[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, targets, right=True).clamp(max=weights.shape[-1] - 1)
    # A parallel sum rounds in no fixed order, and could end a search on a token of no weight.
    is_kept = weights.gather(-1, found) > 0
    return found.where(is_kept, weights.argmax(dim=-1, keepdim=True)).squeeze(-1)


def _uniform(seed: int, counter: int) -> float:
    """Give the counter-th number in [0, 1) of a seed's sequence."""
    digest = hashlib.blake2b(f"{seed}:{counter}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> (64 - UNIFORM_BITS)) / (1 << UNIFORM_BITS)
