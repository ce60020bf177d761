"""Prompts and answers, to and from messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from loradock.client._errors import InvalidRequest
from loradock.client._names import parse_reference, part_after
from loradock.client._values import inference as values
from loradock.client._wire.built import built
from loradock.client._wire.registry import base_digests_of
from loradock.client._wire.scalars import enum_of
from loradock.v1 import inference_service_pb2 as wire

Prompt = str | Sequence[Mapping[str, str]]
Priority = Literal["high", "normal", "low"]

_PRIORITIES: Mapping[str, wire.Priority.ValueType] = {
    "high": wire.PRIORITY_HIGH,
    "normal": wire.PRIORITY_NORMAL,
    "low": wire.PRIORITY_LOW,
}


def target_message(
    adapter: str | None, base: bool, project: str, sticky_key: str = ""
) -> wire.Target:
    """Say who shall answer: an adapter or the base, never neither and never both."""
    if adapter is not None and base:
        raise _invalid("adapter", "give either adapter=… or base=True, not both")
    if base:
        return built(wire.Target, project=project, base=True)
    if adapter is None:
        raise _invalid("adapter", "say who answers: adapter='name', or base=True for the bare base")
    reference = parse_reference(adapter, project)
    return built(
        wire.Target, project=reference.project, adapter=reference.text, sticky_key=sticky_key
    )


def prompt_message(prompt: Prompt, raw: bool = False) -> wire.Prompt:
    """Write a prompt: text, or a list of {"role", "content"} messages."""
    if isinstance(prompt, str):
        return built(wire.Prompt, raw=prompt) if raw else built(wire.Prompt, text=prompt)
    if raw:
        raise _invalid("prompt", "raw=True takes a text, not messages")
    return built(wire.Prompt, chat=built(wire.Chat, messages=[_message(turn) for turn in prompt]))


def _message(turn: Mapping[str, str]) -> wire.Message:
    if set(turn) != {"role", "content"}:
        raise _invalid("prompt", 'a message is {"role": …, "content": …}')
    return built(wire.Message, role=turn["role"], content=turn["content"])


def priority_value(priority: Priority) -> wire.Priority.ValueType:
    """Write who goes first."""
    if priority not in _PRIORITIES:
        raise _invalid("priority", f"{priority!r} is none of {', '.join(_PRIORITIES)}")
    return _PRIORITIES[priority]


def sampling_message(
    *,
    max_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    repetition_penalty: float | None,
    seed: int | None,
    stop: str | Sequence[str],
    logprobs: bool,
) -> wire.Sampling:
    """Write how tokens are drawn; None leaves it to the version's profile."""
    if seed is not None and not 0 <= seed < 2**64:
        raise _invalid("seed", "a seed is a number from 0 to 2**64 - 1")
    for field, value in (("max_tokens", max_tokens), ("top_k", top_k)):
        if value is not None and not -(2**31) <= value < 2**31:
            raise _invalid(f"sampling.{field}", f"sampling.{field}: {value} is out of range")
    return built(
        wire.Sampling,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=[stop] if isinstance(stop, str) else stop,
        logprobs=logprobs,
    )


def _invalid(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, reason="INVALID_FIELD", metadata={"field": field})


def answerer_of(message: wire.Answerer) -> values.Answerer:
    """Read who answered."""
    return values.Answerer(
        adapter=part_after(message.adapter, "adapters") or message.adapter,
        version_number=message.version_number or None,
        version_digest=message.version_digest,
        alias=part_after(message.alias, "aliases") or message.alias,
        generation=message.generation or None,
        base_digests=base_digests_of(message.base_digests),
        base_model=part_after(message.base_model, "baseModels") or message.base_model,
        engine_profile=message.engine_profile,
        request_id=message.request_id,
        server_id=message.server_id,
        arm=message.arm,
    )


def usage_of(message: wire.Usage) -> values.Usage:
    """Read counted tokens."""
    return values.Usage(message.prompt_tokens, message.cached_tokens, message.output_tokens)


def timings_of(message: wire.Timings) -> values.Timings:
    """Read the times of a request."""
    return values.Timings(
        message.adapter_wait_seconds, message.first_token_seconds, message.total_seconds
    )


def finish_reason_of(number: int) -> values.FinishReason:
    """Read why an answer ended."""
    return enum_of(values.FinishReason, wire.FinishReason, number, "FINISH_REASON_")


def generation_of(message: wire.GenerateResponse) -> values.Generation:
    """Read a whole answer."""
    return values.Generation(
        text=message.text,
        answerer=answerer_of(message.answerer),
        finish_reason=finish_reason_of(message.finish_reason),
        usage=usage_of(message.usage),
        timings=timings_of(message.timings),
        token_ids=tuple(message.token_ids),
        token_logprobs=tuple(message.token_logprobs),
    )


def chunk_of(message: wire.StreamDelta) -> values.TextChunk:
    """Read a piece of an answer."""
    return values.TextChunk(message.text, tuple(message.token_ids), tuple(message.token_logprobs))


def stitched(
    answerer: values.Answerer, chunks: Sequence[values.TextChunk], tail: wire.StreamTail
) -> values.Generation:
    """Put a streamed answer together."""
    return values.Generation(
        text="".join(chunk.text for chunk in chunks),
        answerer=answerer,
        finish_reason=finish_reason_of(tail.finish_reason),
        usage=usage_of(tail.usage),
        timings=timings_of(tail.timings),
        token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
        token_logprobs=tuple(value for chunk in chunks for value in chunk.token_logprobs),
    )


def classification_of(message: wire.ClassifyResponse) -> values.Classification:
    """Read the best of a set of labels."""
    return values.Classification(
        label=message.label,
        probabilities=tuple(
            values.LabelProbability(p.label, p.probability, p.logprob)
            for p in message.probabilities
        ),
        answerer=answerer_of(message.answerer),
        usage=usage_of(message.usage),
        timings=timings_of(message.timings),
    )


def scores_of(message: wire.ScoreResponse) -> values.Scores:
    """Read log-likelihoods."""
    return values.Scores(
        scores=tuple(
            values.Score(s.logprob, tuple(s.token_logprobs), s.num_tokens) for s in message.scores
        ),
        answerer=answerer_of(message.answerer),
        usage=usage_of(message.usage),
        timings=timings_of(message.timings),
    )


def token_count_of(message: wire.CountTokensResponse) -> values.TokenCount:
    """Read a prompt's length."""
    return values.TokenCount(
        message.num_tokens, message.context_length_tokens, answerer_of(message.answerer)
    )
