"""What a caller asks of the model, read and checked; what it is answered, written."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from loradock.engine.protocol import Priority
from loradock.registry.errors import InvalidArgument
from loradock.registry.names import Reference, check_name, check_text, parse_reference
from loradock.server.answering.answer import Answered, Wanted
from loradock.server.answering.progress import Progress
from loradock.server.answering.prompts import Asked, Turn
from loradock.server.identity import Identity
from loradock.server.services import names
from loradock.server.services.call import Call
from loradock.server.services.convert_registry import base_digests
from loradock.server.services.principal import Role
from loradock.v1 import inference_service_pb2 as wire

MAX_KEY_CHARS = 256
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_CONTINUATIONS = 1024
_ROLES = ("system", "user", "assistant")
_PRIORITIES: Mapping[int, Priority] = {
    wire.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    wire.PRIORITY_HIGH: Priority.HIGH,
    wire.PRIORITY_NORMAL: Priority.NORMAL,
    wire.PRIORITY_LOW: Priority.LOW,
}
_FINISHES = {"stop": wire.FINISH_REASON_STOP, "length": wire.FINISH_REASON_LENGTH}


@dataclass(frozen=True, slots=True)
class Target:
    """Who is to answer; no reference asks for the base."""

    project: str
    reference: Reference | None
    sticky_key: str = ""


def read_target(message: wire.Target, call: Call) -> Target:
    """Read who is to answer; the caller must be allowed to ask it."""
    project = message.project or call.principal.project
    which = message.WhichOneof("answerer")
    reference = parse_reference(message.adapter) if which == "adapter" else None
    if reference is not None and reference.project is not None:
        project = reference.project
    check_name("project", project)
    call.principal.require(Role.INFER, project)
    if which is None or (which == "base" and not message.base):
        raise InvalidArgument("target", "name an adapter, or ask for the base with base = true")
    check_text("target.sticky_key", message.sticky_key, MAX_KEY_CHARS)
    return Target(project, reference, message.sticky_key)


def repeat_key(request: Message, call: Call) -> bytes:
    """Make what calls have in common that ask the same under the same id, and no others."""
    asked = hashlib.sha256(f"{call.method}\0{call.request_id}\0".encode())
    asked.update(request.SerializeToString(deterministic=True))
    return asked.digest()


def read_priority(value: wire.Priority.ValueType, call: Call) -> Priority:
    """Read who goes first; to go before others takes a role."""
    if value not in _PRIORITIES:
        raise InvalidArgument("priority", f"{value} is no priority")
    priority = _PRIORITIES[value]
    if priority is Priority.HIGH:
        call.principal.require(Role.OPERATE)
    return priority


def read_prompt(message: wire.Prompt, max_bytes: int) -> Asked:
    """Read what is to be answered."""
    which = message.WhichOneof("content")
    if which == "raw":
        asked = Asked(raw=message.raw)
    elif which == "text":
        asked = Asked(turns=(Turn("user", message.text),))
    elif which == "chat":
        asked = Asked(turns=tuple(Turn(m.role, m.content) for m in message.chat.messages))
    else:
        raise InvalidArgument("prompt", "give a chat, a text or a raw text")
    _check_prompt(asked, max_bytes)
    return asked


def _check_prompt(asked: Asked, max_bytes: int) -> None:
    size = len((asked.raw or "").encode()) + sum(len(t.content.encode()) for t in asked.turns)
    if size > max_bytes:
        raise InvalidArgument("prompt", f"has {size} bytes; max_text_bytes is {max_bytes}")
    if asked.raw == "":
        raise InvalidArgument("prompt.raw", "is empty")
    for turn in asked.turns:
        if turn.role not in _ROLES:
            raise InvalidArgument("prompt.chat", f"{turn.role!r:.40} is none of {_ROLES}")
    if asked.raw is None and not any(turn.role == "user" for turn in asked.turns):
        raise InvalidArgument("prompt.chat", "has no user message")


def read_sampling(message: wire.Sampling) -> Wanted:
    """Read how tokens are to be drawn; what is absent stays absent."""
    wanted = Wanted(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        temperature=message.temperature if message.HasField("temperature") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        repetition_penalty=(
            message.repetition_penalty if message.HasField("repetition_penalty") else None
        ),
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
        logprobs=message.logprobs,
    )
    _check_sampling(wanted)
    return wanted


def _check_sampling(wanted: Wanted) -> None:
    _in_range("max_tokens", wanted.max_tokens, 1, math.inf)
    _in_range("temperature", wanted.temperature, 0, 10)
    _in_range("top_k", wanted.top_k, 0, math.inf)
    _in_range("top_p", wanted.top_p, 1e-6, 1)
    _in_range("repetition_penalty", wanted.repetition_penalty, 0.01, 10)
    if len(wanted.stop) > MAX_STOPS:
        raise InvalidArgument("sampling.stop", f"has more than {MAX_STOPS} strings")
    if not all(0 < len(stop) <= MAX_STOP_CHARS for stop in wanted.stop):
        raise InvalidArgument("sampling.stop", f"strings have 1 to {MAX_STOP_CHARS} characters")


def _in_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        bound = f"at least {low}" if high == math.inf else f"in [{low}, {high}]"
        raise InvalidArgument(f"sampling.{name}", f"must be {bound}, not {value}")


def read_continuations(field: str, texts: Sequence[str], max_bytes: int) -> tuple[str, ...]:
    """Read continuations or labels."""
    size = sum(len(text.encode()) for text in texts)
    if size > max_bytes:
        raise InvalidArgument(field, f"have {size} bytes; max_text_bytes is {max_bytes}")
    if len(texts) > MAX_CONTINUATIONS:
        raise InvalidArgument(field, f"has {len(texts)} entries; {MAX_CONTINUATIONS} is the limit")
    if not all(texts):
        raise InvalidArgument(field, "has an empty entry")
    if len(set(texts)) != len(texts):
        raise InvalidArgument(field, "has an entry twice")
    return tuple(texts)


def answerer(answered: Answered, identity: Identity, call: Call) -> wire.Answerer:
    """Write who answered: filled from the lease, so from what really served."""
    message = wire.Answerer(
        base_digests=base_digests(identity.base_digests),
        base_model=names.base_name(identity.base.name),
        engine_profile=identity.base.profile,
        request_id=call.request_id,
        server_id=identity.server_id,
    )
    if answered.version is not None:
        message.adapter = answered.version.adapter
        message.version_number = answered.version.number
        message.version_digest = answered.version.digest
        message.alias = answered.alias or ""
        message.generation = answered.generation or 0
        message.arm = "" if answered.arm is None else answered.arm.value
    return message


def timings(progress: Progress, call: Call) -> wire.Timings:
    """Write how long it took."""
    return wire.Timings(
        adapter_wait_seconds=progress.adapter_wait_s,
        first_token_seconds=progress.first_token_s,
        total_seconds=call.elapsed_s,
    )


def usage(progress: Progress) -> wire.Usage:
    """Write how many tokens it took."""
    return wire.Usage(
        prompt_tokens=progress.num_prompt_tokens,
        cached_tokens=progress.num_cached_tokens,
        output_tokens=progress.num_output_tokens,
    )


def finish_reason(finish: str) -> wire.FinishReason.ValueType:
    """Write why an answer ended."""
    return _FINISHES[finish]
