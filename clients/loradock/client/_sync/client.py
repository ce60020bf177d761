# Generated from _async/client.py by scripts/generate_sync_client.py. Do not edit.
"""The client: inference at the top, the registry and the servers in groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import grpc

from loradock.client._channel import (
    ALSO_TO_THE_UNHEALTHY,
    DEFAULT_ADDRESS,
    DEFAULT_MAX_MESSAGE_BYTES,
    REGISTRY,
    TLS,
    WHOLE_SERVER,
    ChannelOptions,
    Token,
    channel_credentials,
    channel_options,
    check_address,
)
from loradock.client._spans import CallSpan
from loradock.client._sync.adapters import Adapters
from loradock.client._sync.admin import Admin
from loradock.client._sync.aliases import Aliases
from loradock.client._sync.bases import Bases
from loradock.client._sync.calls import Calls, request_id_of
from loradock.client._sync.evaluations import Evaluations
from loradock.client._sync.policies import Policies
from loradock.client._sync.rollouts import Rollouts
from loradock.client._sync.servers import Servers
from loradock.client._sync.stream import TextStream
from loradock.client._sync.versions import Versions
from loradock.client._values.evaluation import Affected, LineageGraph
from loradock.client._values.inference import Classification, Generation, Scores, TokenCount
from loradock.client._wire.built import built
from loradock.client._wire.evaluation import affected_of, lineage_graph_of
from loradock.client._wire.inference import (
    Priority,
    Prompt,
    classification_of,
    generation_of,
    priority_value,
    prompt_message,
    sampling_message,
    scores_of,
    target_message,
    token_count_of,
)
from loradock.client._wire.lineage import affected_request, lineage_request
from loradock.v1 import inference_service_pb2 as wire
from loradock.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from loradock.v1.inference_service_pb2_grpc import InferenceServiceStub


class Client:
    """A connection to Loradock. Safe to share between threads: three channels, reused by all calls.

    Inference goes to servers that are ready, the registry's calls to those that are not drained,
    and those of `server` to any.

        with Client("127.0.0.1:7431") as client:
            answer = client.generate("Where is my parcel?", adapter="support-triage")
            print(answer.text, answer.answerer.version_number)

    Every call has a deadline (`timeout_s`, or one that suits the method) and a request id. Calls
    that change nothing if they are sent twice are sent again when nobody answered.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        project: str = "default",
        token: Token | None = None,
        timeout_s: float | None = None,
        tls: TLS | bool = False,
        insecure: bool = False,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        check_address(address)
        credentials = channel_credentials(address, tls=tls, token=token, insecure=insecure)

        def calls_with(options: ChannelOptions, to_any: Calls | None = None) -> Calls:
            channel = (
                grpc.insecure_channel(address, options)
                if credentials is None
                else grpc.secure_channel(address, credentials, options)
            )
            return Calls(channel, project=project, token=token, timeout_s=timeout_s, to_any=to_any)

        options = channel_options(max_message_bytes, tls, REGISTRY)
        self._steering = calls_with([*options, ALSO_TO_THE_UNHEALTHY])
        calls = self._registry = calls_with(options, self._steering)
        self._calls = calls_with(channel_options(max_message_bytes, tls, WHOLE_SERVER))
        self._inference = InferenceServiceStub(self._calls.channel)
        self._lineage = EvaluationServiceStub(calls.channel)
        self.bases = Bases(calls)
        self.adapters = Adapters(calls)
        self.versions = Versions(calls)
        self.aliases = Aliases(calls)
        self.policies = Policies(calls)
        self.rollouts = Rollouts(calls)
        self.evaluations = Evaluations(calls)
        self.server = Servers(self._steering)
        self.admin = Admin(calls, self._steering)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channels; what runs is cancelled."""
        for calls in (self._calls, self._registry, self._steering):
            calls.close()

    def generate(
        self,
        prompt: Prompt,
        *,
        adapter: str | None = None,
        base: bool = False,
        raw: bool = False,
        sticky_key: str = "",
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        logprobs: bool = False,
        priority: Priority = "normal",
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Generation:
        """Answer a prompt: a text, or a list of {"role", "content"} messages.

        Say who answers: `adapter`, a reference like "support-triage:staging", or `base=True`. What
        is None comes from the version's profile, then from the server. `raw` bypasses templates.
        While a rollout shares the alias's requests out, a `sticky_key` always has the same side.
        Where requests wait, those of `priority` "high" (which takes a role) go first, "low" last.
        The same again under the same `request_id` has the same answer for a while (docs/errors.md).
        """
        request = built(
            wire.GenerateRequest,
            target=target_message(adapter, base, self._calls.project, sticky_key),
            prompt=prompt_message(prompt, raw),
            sampling=sampling_message(
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                repetition_penalty=repetition_penalty,
                seed=seed,
                stop=stop,
                logprobs=logprobs,
            ),
            priority=priority_value(priority),
        )
        response = self._calls.unary(
            self._inference.Generate, request, timeout_s=timeout_s, request_id=request_id
        )
        return generation_of(response)

    def stream(
        self,
        prompt: Prompt,
        *,
        adapter: str | None = None,
        base: bool = False,
        raw: bool = False,
        sticky_key: str = "",
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        logprobs: bool = False,
        priority: Priority = "normal",
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> TextStream:
        """Answer a prompt as `generate` does, piece by piece."""
        self._calls.check_open()
        request = built(
            wire.StreamGenerateRequest,
            target=target_message(adapter, base, self._calls.project, sticky_key),
            prompt=prompt_message(prompt, raw),
            sampling=sampling_message(
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                repetition_penalty=repetition_penalty,
                seed=seed,
                stop=stop,
                logprobs=logprobs,
            ),
            priority=priority_value(priority),
        )
        request_id = request_id_of(request_id)
        deadline = self._calls.deadline_s("StreamGenerate", timeout_s)
        span = CallSpan("StreamGenerate", request_id)
        metadata = self._calls.metadata(request_id) + span.metadata
        call = self._inference.StreamGenerate(request, timeout=deadline, metadata=metadata)
        return TextStream(call, request_id, span)

    def classify(
        self,
        prompt: Prompt,
        *,
        adapter: str | None = None,
        base: bool = False,
        raw: bool = False,
        sticky_key: str = "",
        labels: Sequence[str] = (),
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> Classification:
        """Give the best of a set of labels, the version's own unless others are given."""
        request = built(
            wire.ClassifyRequest,
            target=target_message(adapter, base, self._calls.project, sticky_key),
            prompt=prompt_message(prompt, raw),
            labels=labels,
            priority=priority_value(priority),
        )
        return classification_of(
            self._calls.unary(self._inference.Classify, request, timeout_s=timeout_s)
        )

    def score(
        self,
        prompt: Prompt,
        continuations: Sequence[str],
        *,
        adapter: str | None = None,
        base: bool = False,
        raw: bool = False,
        sticky_key: str = "",
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> Scores:
        """Give the log-likelihood of each continuation."""
        request = built(
            wire.ScoreRequest,
            target=target_message(adapter, base, self._calls.project, sticky_key),
            prompt=prompt_message(prompt, raw),
            continuations=continuations,
            priority=priority_value(priority),
        )
        return scores_of(self._calls.unary(self._inference.Score, request, timeout_s=timeout_s))

    def count_tokens(
        self,
        prompt: Prompt,
        *,
        adapter: str | None = None,
        base: bool = False,
        raw: bool = False,
        sticky_key: str = "",
        timeout_s: float | None = None,
    ) -> TokenCount:
        """Count a prompt's tokens, with what the templates add."""
        request = built(
            wire.CountTokensRequest,
            target=target_message(adapter, base, self._calls.project, sticky_key),
            prompt=prompt_message(prompt, raw),
        )
        return token_count_of(
            self._calls.unary(self._inference.CountTokens, request, timeout_s=timeout_s)
        )

    def lineage(
        self,
        reference: str | None = None,
        *,
        dataset: str | None = None,
        base: str | None = None,
        direction: Literal["upstream", "downstream"] = "upstream",
        max_depth: int = 0,
    ) -> LineageGraph:
        """Walk from a version, a dataset or a base to what it came from or what came of it."""
        request = lineage_request(
            reference, dataset, base, direction, max_depth, self._calls.project
        )
        return lineage_graph_of(self._registry.unary(self._lineage.GetLineage, request))

    def affected(
        self,
        reference: str | None = None,
        *,
        dataset: str | None = None,
        base: str | None = None,
    ) -> Affected:
        """Tell what came of a version, a dataset or a base, and where that answers now."""
        request = affected_request(reference, dataset, base, self._calls.project)
        return affected_of(self._registry.unary(self._lineage.ListAffected, request))
