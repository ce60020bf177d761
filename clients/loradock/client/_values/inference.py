"""What the model answers, and who answered."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from loradock.client._values.registry import BaseDigests


@dataclass(frozen=True, slots=True)
class Answerer:
    """Exactly who answered. Where the base did, the fields up to `generation` are empty or None."""

    adapter: str
    version_number: int | None
    version_digest: str
    alias: str  # empty for a reference by number or digest
    generation: int | None  # of the alias
    base_digests: BaseDigests
    base_model: str  # "smollm2-135m-instruct"
    engine_profile: str  # "cpu/float32"
    request_id: str
    server_id: str
    arm: str = ""  # of the alias: "incumbent" or "candidate"


@dataclass(frozen=True, slots=True)
class Timings:
    """Of one request, in seconds."""

    adapter_wait_s: float
    first_token_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted tokens; `cached_tokens` of the prompt were found in the prefix cache."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class FinishReason(enum.Enum):
    """Why an answer ended."""

    UNSPECIFIED = "unspecified"
    STOP = "stop"  # the model ended it, or a stop string
    LENGTH = "length"  # max_tokens was reached


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole answer."""

    text: str
    answerer: Answerer
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]  # beside token_ids, if asked for


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of an answer. It is final: nothing of it is taken back."""

    text: str
    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LabelProbability:
    """One label's share, normalised over the set."""

    label: str
    probability: float
    logprob: float  # summed over the label's tokens and the terminator


@dataclass(frozen=True, slots=True)
class Classification:
    """The best of a set of labels, and all of them, the best first."""

    label: str
    probabilities: tuple[LabelProbability, ...]
    answerer: Answerer
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Score:
    """One continuation's log-likelihood."""

    logprob: float
    token_logprobs: tuple[float, ...]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-likelihoods in the order of the continuations."""

    scores: tuple[Score, ...]
    answerer: Answerer
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class TokenCount:
    """A prompt's length with what the templates add."""

    num_tokens: int
    context_length_tokens: int
    answerer: Answerer
