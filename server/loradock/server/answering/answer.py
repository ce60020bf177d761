"""How a request is answered: its reference is resolved once, a lease is taken, a row is run.

Knows the engine by its protocol only, and nothing of the wire.
"""

from __future__ import annotations

import hashlib
import math
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    aclosing,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass, field, replace
from typing import TypeVar

from loradock.engine import protocol
from loradock.engine.text import TextStream, Tokenizer
from loradock.registry.names import Reference
from loradock.registry.resources import Decoding, Profile, Version
from loradock.registry.split import Arm
from loradock.server.aliases.arm_traffic import ArmTraffic
from loradock.server.aliases.live import Chosen, Live, LiveSplit
from loradock.server.answering.admission import Admission
from loradock.server.answering.bridge import Bridge
from loradock.server.answering.progress import Progress
from loradock.server.answering.repeats import Repeats
from loradock.server.errors import WrongBase
from loradock.server.identity import Identity
from loradock.server.residency.place import key_of
from loradock.server.residency.residencies import Lease, Residencies
from loradock.server.services.call import Call
from loradock.server.telemetry import spans
from loradock.server.telemetry.metrics import Metrics

N = TypeVar("N", int, float)

SHARE_OF_DEADLINE = 0.9  # that may go by in waiting for memory; the rest is to say so
FLUSH_TOKENS = 8
FLUSH_S = 0.05
NO_PROFILE = Profile()


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a request wants tokens to be drawn; None leaves it to the profile, then the server."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """Who answers: a version under lease, or the base."""

    version: Version | None = None
    alias: str | None = None
    generation: int | None = None
    arm: Arm | None = None  # of the alias that was asked
    split: LiveSplit | None = None  # of that alias
    lease: Lease | None = None

    @property
    def digest(self) -> str | None:
        """The version's; none for the base."""
        return None if self.version is None else self.version.digest

    @property
    def profile(self) -> Profile:
        """How the answerer is asked."""
        return NO_PROFILE if self.version is None else self.version.profile


@dataclass(slots=True)
class Piece:
    """Text that is final, with the tokens that came along."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def add(self, other: Piece) -> None:
        """Append the next piece."""
        self.text += other.text
        self.token_ids += other.token_ids
        self.logprobs += other.logprobs

    def take(self, event: protocol.RowEvent, text: str) -> None:
        """Add what one step brought."""
        self.text += text
        self.token_ids += event.tokens
        self.logprobs += event.logprobs


class Answering:
    """Answers requests with one engine. Belongs to the event loop's thread."""

    def __init__(
        self,
        identity: Identity,
        live: Live,
        residencies: Residencies,
        bridge: Bridge,
        admission: Admission,
        tokenizer: Tokenizer,
        *,
        default_max_tokens: int,
        metrics: Metrics,
        arm_traffic: ArmTraffic,
        repeats_s: float,
    ) -> None:
        """Answer a request that is repeated within `repeats_s` by the same version."""
        self._identity = identity
        self._live = live
        self._residencies = residencies
        self._bridge = bridge
        self._admission = admission
        self._tokenizer = tokenizer
        self._default_max_tokens = default_max_tokens
        self._metrics = metrics
        self._arm_traffic = arm_traffic
        self._repeats = Repeats(max_age_s=repeats_s)

    async def resolve(
        self, project: str, reference: Reference | None, call: Call, sticky_key: str = ""
    ) -> Answered:
        """Say who answers; the one time that a reference is looked at.

        Where an alias is split the key chooses the arm, and without one the request's id. A
        request that was answered before is answered by the same version, wherever its alias is.
        """
        if reference is None:
            call.is_of_base = True
            return Answered()
        call.facts["reference"] = str(reference)
        first = self._repeats.first(call)
        if first is not None:
            version = await self._live.version(project, reference.adapter, first.version.digest)
            chosen = replace(first, version=version)  # as it is now: it may have been yanked
        else:
            chosen = await self._live.resolve(project, reference, sticky_key or call.request_id)
        self._note(call, chosen)
        self.check_base(chosen.version)
        return Answered(chosen.version, chosen.alias, chosen.generation, chosen.arm, chosen.split)

    @asynccontextmanager
    async def admitted(
        self, project: str, reference: Reference | None, call: Call, sticky_key: str = ""
    ) -> AsyncIterator[tuple[Answered, Progress]]:
        """Resolve, and hold what was resolved until the request ends."""
        with spans.span("resolve"):
            answered = await self.resolve(project, reference, call, sticky_key)
        progress = Progress()
        try:
            with (
                self._admission.request(call.principal.project, call.priority),
                self._arm_traffic.count(answered, progress, call),
                self._kept(answered, call),
            ):
                call.stage = "load"
                async with self.leased(answered, progress, call) as leased:
                    call.stage = "prompt"
                    yield leased, progress
        finally:
            progress.tell(call)
            spans.tell_stages(call, progress)
            self._metrics.answer_ended(call, progress)

    @asynccontextmanager
    async def leased(
        self, answered: Answered, progress: Progress, call: Call
    ) -> AsyncIterator[Answered]:
        """Hold the version that answers; the base needs no hold."""
        if answered.version is None:
            yield answered
            return
        version = answered.version
        known = self._residencies.version(*key_of(version))
        progress.was_resident = known is not None
        room_wait_s = call.remaining_s * SHARE_OF_DEADLINE
        async with self._residencies.lease(version, room_wait_s=room_wait_s) as lease:
            progress.adapter_wait_s = lease.waited_s
            yield replace(answered, lease=lease)

    def _kept(self, answered: Answered, call: Call) -> AbstractContextManager[None]:
        """Let the same request have the same answerer; what no alias was asked for has it anyway.

        Without the split: of that, a repetition is no further sample.
        """
        if answered.version is None or answered.alias is None:
            return nullcontext()
        chosen = Chosen(answered.version, answered.alias, answered.generation, answered.arm)
        return self._repeats.kept(call, chosen)

    def shadowing(
        self, answered: Answered, progress: Progress, call: Call
    ) -> AbstractAsyncContextManager[Answered]:
        """Hold the candidate of a split that answered through its incumbent."""
        assert answered.split is not None
        return self.leased(replace(answered, version=answered.split.candidate), progress, call)

    def _note(self, call: Call, chosen: Chosen) -> None:
        call.facts |= {
            "adapter": chosen.version.adapter,
            "version": chosen.version.number,
            "digest": chosen.version.digest,
            "alias": chosen.alias,
            "generation": chosen.generation,
            "arm": None if chosen.arm is None else chosen.arm.value,
        }

    def check_base(self, version: Version) -> None:
        """Refuse a version that was made for another base."""
        if version.base.digests != self._identity.base_digests:
            name = f"{version.adapter}@{version.number}"
            raise WrongBase(name, version.base.name, self._identity.base.name)

    async def generate(
        self,
        answered: Answered,
        progress: Progress,
        prompt: tuple[int, ...],
        wanted: Wanted,
        call: Call,
    ) -> AsyncGenerator[Piece]:
        """Give an answer piece by piece."""
        progress.num_prompt_tokens = len(prompt)
        stream = TextStream(self._tokenizer, (*wanted.stop, *answered.profile.decoding.stop))
        work = protocol.Generate(
            row=_row_of(call),
            prompt=prompt,
            sampling=self._sampling(wanted, answered.profile.decoding, call.request_id),
            adapter=answered.digest,
            salt=call.principal.project,
            deadline=call.deadline,
            priority=call.priority,
            facts=call.log_facts,
        )
        piece, flushed_at = Piece(), 0.0
        async with aclosing(self._events(work, answered, progress, call)) as events:
            async for event in events:
                progress.num_output_tokens += len(event.tokens)
                piece.take(event, stream.push(event.tokens))
                if stream.is_stopped:
                    progress.finish = "stop"
                    break
                if event.finish is not None:
                    piece.text += stream.flush()
                    progress.finish = "stop" if stream.is_stopped else event.finish.value
                elif _is_due(piece, flushed_at):
                    yield piece
                    piece, flushed_at = Piece(), time.monotonic()
        if piece.text or piece.token_ids:
            yield piece

    async def score(
        self,
        answered: Answered,
        progress: Progress,
        prompt: tuple[int, ...],
        continuations: Sequence[tuple[int, ...]],
        call: Call,
    ) -> Sequence[tuple[float, ...]]:
        """Give each continuation's log-likelihoods, a token each."""
        progress.num_prompt_tokens = len(prompt)
        work = protocol.Score(
            row=_row_of(call),
            prompt=prompt,
            continuations=tuple(continuations),
            adapter=answered.digest,
            salt=call.principal.project,
            deadline=call.deadline,
            priority=call.priority,
            facts=call.log_facts,
        )
        scores: Sequence[tuple[float, ...]] = ()
        async with aclosing(self._events(work, answered, progress, call)) as events:
            async for event in events:
                scores = event.scores or scores
        return scores

    async def _events(
        self, work: protocol.Work, answered: Answered, progress: Progress, call: Call
    ) -> AsyncGenerator[protocol.RowEvent]:
        progress.submitted_at, call.stage = time.monotonic(), "queue"
        # A shadow takes no place that a caller could be refused for.
        place = nullcontext() if answered.arm is Arm.SHADOW else self._admission.work(work)
        with place, self._bridge.row(work, call.interrupt) as row:
            if answered.lease is not None:
                answered.lease.rows.append(row.ended)
            async for event in row.events():
                call.stage = "batch"
                progress.take(event, call)
                if answered.lease is not None:
                    answered.lease.count(len(event.tokens))
                yield event

    def _sampling(self, wanted: Wanted, profile: Decoding, request_id: str) -> protocol.Sampling:
        """Let the request go before the profile, and that before the server."""
        top_k = _first(wanted.top_k, profile.top_k, 0)
        return protocol.Sampling(
            max_tokens=_first(wanted.max_tokens, profile.max_tokens, self._default_max_tokens),
            temperature=_first(wanted.temperature, profile.temperature, 0.0),
            top_k=top_k or None,
            top_p=_first(wanted.top_p, profile.top_p, 1.0),
            repetition_penalty=_first(wanted.repetition_penalty, profile.repetition_penalty, 1.0),
            seed=_seed_of(request_id) if wanted.seed is None else wanted.seed,
            logprobs=wanted.logprobs,
        )


def shares(logprobs: Sequence[float]) -> list[float]:
    """Turn log-likelihoods into shares that sum to one."""
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    total = sum(weights)
    return [weight / total for weight in weights]


def _first(*values: N | None) -> N:
    return next(value for value in values if value is not None)


def _row_of(call: Call) -> str:
    """Name a row so that the engine's log lines say which request it is of."""
    return f"{call.request_id}#{uuid.uuid4().hex}"


def _seed_of(request_id: str) -> int:
    """Derive the seed from the request's id, so that the same request draws the same tokens."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:7])


def _is_due(piece: Piece, flushed_at: float) -> bool:
    if not piece.token_ids:
        return False
    return len(piece.token_ids) >= FLUSH_TOKENS or time.monotonic() - flushed_at >= FLUSH_S
