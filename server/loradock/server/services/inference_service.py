"""InferenceService: answers through a version, or through the base if it is asked for by name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial

from loradock.registry.errors import InvalidArgument
from loradock.server.answering.answer import Answered, Answering, Piece, Wanted, shares
from loradock.server.answering.progress import Progress
from loradock.server.answering.prompts import Asked, Prompts
from loradock.server.answering.shadows import Shadows, num_alike
from loradock.server.identity import Identity
from loradock.server.services import convert_inference as convert
from loradock.server.services.call import Call, current_call
from loradock.v1 import inference_service_pb2 as wire
from loradock.v1 import inference_service_pb2_grpc as grpc_wire

Prompted = wire.GenerateRequest | wire.StreamGenerateRequest
Request = Prompted | wire.ScoreRequest | wire.ClassifyRequest


class InferenceService(grpc_wire.InferenceServiceServicer):
    """Decodes, asks, encodes."""

    def __init__(
        self,
        identity: Identity,
        answering: Answering,
        shadows: Shadows,
        prompts: Prompts,
        *,
        max_text_bytes: int,
    ) -> None:
        self._identity = identity
        self._answering = answering
        self._shadows = shadows
        self._prompts = prompts
        self._max_text_bytes = max_text_bytes

    async def Generate(
        self, request: wire.GenerateRequest, context: object
    ) -> wire.GenerateResponse:
        """Give the whole answer at once."""
        call = current_call()
        target = convert.read_target(request.target, call)
        ask = self._read(request)
        whole = Piece()
        async with (
            self._admitted(target, request, call) as (answered, progress),
            aclosing(await self._pieces(ask, answered, progress, call)) as pieces,
        ):
            async for piece in pieces:
                whole.add(piece)
        self._shadows.offer(answered, call, partial(self._regenerate, ask, whole))
        return wire.GenerateResponse(
            answerer=convert.answerer(answered, self._identity, call),
            text=whole.text,
            finish_reason=convert.finish_reason(progress.finish),
            usage=convert.usage(progress),
            timings=convert.timings(progress, call),
            token_ids=whole.token_ids,
            token_logprobs=whole.logprobs,
        )

    async def StreamGenerate(
        self, request: wire.StreamGenerateRequest, context: object
    ) -> AsyncIterator[wire.StreamGenerateResponse]:
        """Give the head, text as it comes, then the tail."""
        call = current_call()
        target = convert.read_target(request.target, call)
        ask = self._read(request)
        whole = Piece()
        async with self._admitted(target, request, call) as (answered, progress):
            async with aclosing(await self._pieces(ask, answered, progress, call)) as pieces:
                answerer = convert.answerer(answered, self._identity, call)
                yield wire.StreamGenerateResponse(head=wire.StreamHead(answerer=answerer))
                async for piece in pieces:
                    whole.add(piece)
                    yield wire.StreamGenerateResponse(delta=_delta(piece))
            self._shadows.offer(answered, call, partial(self._regenerate, ask, whole))
            yield wire.StreamGenerateResponse(tail=_tail(progress, call))

    def _admitted(
        self, target: convert.Target, request: Request, call: Call
    ) -> AbstractAsyncContextManager[tuple[Answered, Progress]]:
        call.priority = convert.read_priority(request.priority, call)
        call.repeat_key = convert.repeat_key(request, call)
        return self._answering.admitted(target.project, target.reference, call, target.sticky_key)

    def _read(self, request: Prompted) -> tuple[Asked, Wanted]:
        """Read what is asked, before anything is brought in for it."""
        asked = convert.read_prompt(request.prompt, self._max_text_bytes)
        return asked, convert.read_sampling(request.sampling)

    async def _pieces(
        self, ask: tuple[Asked, Wanted], answered: Answered, progress: Progress, call: Call
    ) -> AsyncGenerator[Piece]:
        asked, wanted = ask
        prompt = await self._prompts.tokens(asked, answered.profile)
        return self._answering.generate(answered, progress, prompt, wanted, call)

    async def _regenerate(
        self,
        ask: tuple[Asked, Wanted],
        given: Piece,
        answered: Answered,
        progress: Progress,
        call: Call,
    ) -> int | None:
        """Generate as a shadow; give after how many tokens it differs from what was given."""
        whole = Piece()
        async with aclosing(await self._pieces(ask, answered, progress, call)) as pieces:
            async for piece in pieces:
                whole.add(piece)
        same = whole.text == given.text
        return None if same else num_alike(given.token_ids, whole.token_ids)

    async def _rescore(
        self,
        ask: tuple[Asked, Sequence[str], bool],
        best: int,
        answered: Answered,
        progress: Progress,
        call: Call,
    ) -> int | None:
        """Score as a shadow; where another continuation is the best, they differ from the start."""
        asked, texts, end = ask
        prompt, tokens = await self._prompts.continuations(asked, answered.profile, texts, end=end)
        scores = await self._answering.score(answered, progress, prompt, tokens, call)
        return None if _best(scores) == best else 0

    async def Score(self, request: wire.ScoreRequest, context: object) -> wire.ScoreResponse:
        """Give the log-likelihood of each continuation."""
        call = current_call()
        target = convert.read_target(request.target, call)
        asked = convert.read_prompt(request.prompt, self._max_text_bytes)
        texts = convert.read_continuations(
            "continuations", request.continuations, self._max_text_bytes
        )
        if not texts:
            raise InvalidArgument("continuations", "give at least one")
        async with self._admitted(target, request, call) as (answered, progress):
            prompt, tokens = await self._prompts.continuations(
                asked, answered.profile, texts, end=False
            )
            scores = await self._answering.score(answered, progress, prompt, tokens, call)
        again = partial(self._rescore, (asked, texts, False), _best(scores))
        self._shadows.offer(answered, call, again)
        return wire.ScoreResponse(
            answerer=convert.answerer(answered, self._identity, call),
            scores=[
                wire.ScoredContinuation(
                    logprob=sum(score), token_logprobs=score, num_tokens=len(score)
                )
                for score in scores
            ],
            usage=convert.usage(progress),
            timings=convert.timings(progress, call),
        )

    async def Classify(
        self, request: wire.ClassifyRequest, context: object
    ) -> wire.ClassifyResponse:
        """Give the best of a set of labels: always one of them."""
        call = current_call()
        target = convert.read_target(request.target, call)
        asked = convert.read_prompt(request.prompt, self._max_text_bytes)
        given = convert.read_continuations("labels", request.labels, self._max_text_bytes)
        async with self._admitted(target, request, call) as (answered, progress):
            labels = given or answered.profile.labels
            if not labels:
                raise InvalidArgument("labels", "give labels: the answerer has none of its own")
            prompt, tokens = await self._prompts.continuations(
                asked, answered.profile, labels, end=True
            )
            scores = await self._answering.score(answered, progress, prompt, tokens, call)
        ranked = _ranked(labels, [sum(score) for score in scores])
        self._shadows.offer(
            answered, call, partial(self._rescore, (asked, labels, True), _best(scores))
        )
        return wire.ClassifyResponse(
            answerer=convert.answerer(answered, self._identity, call),
            label=ranked[0].label,
            probabilities=ranked,
            usage=convert.usage(progress),
            timings=convert.timings(progress, call),
        )

    async def CountTokens(
        self, request: wire.CountTokensRequest, context: object
    ) -> wire.CountTokensResponse:
        """Count a prompt's tokens with what the templates add. Needs no place in the batch."""
        call = current_call()
        target = convert.read_target(request.target, call)
        asked = convert.read_prompt(request.prompt, self._max_text_bytes)
        answered = await self._answering.resolve(
            target.project, target.reference, call, target.sticky_key
        )
        prompt = await self._prompts.tokens(asked, answered.profile)
        return wire.CountTokensResponse(
            answerer=convert.answerer(answered, self._identity, call),
            num_tokens=len(prompt),
            context_length_tokens=self._identity.base.context_length,
        )


def _delta(piece: Piece) -> wire.StreamDelta:
    return wire.StreamDelta(
        text=piece.text, token_ids=piece.token_ids, token_logprobs=piece.logprobs
    )


def _tail(progress: Progress, call: Call) -> wire.StreamTail:
    return wire.StreamTail(
        finish_reason=convert.finish_reason(progress.finish),
        usage=convert.usage(progress),
        timings=convert.timings(progress, call),
    )


def _best(scores: Sequence[Sequence[float]]) -> int:
    """Give the place of the likeliest continuation."""
    return max(range(len(scores)), key=lambda place: sum(scores[place]))


def _ranked(labels: tuple[str, ...], logprobs: list[float]) -> list[wire.LabelProbability]:
    ranked = sorted(zip(labels, shares(logprobs), logprobs, strict=True), key=lambda r: -r[2])
    return [
        wire.LabelProbability(label=label, probability=share, logprob=logprob)
        for label, share, logprob in ranked
    ]
