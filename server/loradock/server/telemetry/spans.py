"""Spans of OpenTelemetry, where its API is installed and something collects them; else nothing.

A request's own stages in the engine are told afterwards, from when they began and ended, so that
nothing is done for them while its row runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loradock.server.answering.progress import Progress
from loradock.server.errors import StartRefused
from loradock.server.services.call import Call

try:
    from opentelemetry import propagate, trace
except ImportError:  # the extra `otel` is not installed
    trace = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from opentelemetry.trace import Span

NAME = "loradock.server"
INSTALL = "install loradock[otel] to send traces"
# Of a call's facts, those that its span tells, under these names.
_ATTRIBUTES = {
    "adapter": "loradock.adapter",
    "version": "loradock.version",
    "digest": "loradock.digest",
    "alias": "loradock.alias",
    "arm": "loradock.arm",
    "base": "loradock.base",
    "base_weights": "loradock.base_weights",
    "request_id": "loradock.request_id",
    "status": "loradock.reason",
    "prompt_tokens": "loradock.prompt_tokens",
    "cached_tokens": "loradock.cached_tokens",
    "output_tokens": "loradock.output_tokens",
}


def send_to(endpoint: str) -> None:
    """Send this process's spans over OTLP, in plain text to `http://…`. Once a process."""
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise StartRefused(f"traces_endpoint: {INSTALL}") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "loradock"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    trace.set_tracer_provider(provider)


@contextmanager
def span(name: str, **attributes: str | int | float) -> Iterator[None]:
    """Tell a stage: what is begun inside is its child."""
    if trace is None:
        yield
        return
    with trace.get_tracer(NAME).start_as_current_span(
        name, attributes=attributes, record_exception=False
    ):
        yield


@contextmanager
def span_of_call(method: str, metadata: Mapping[str, str]) -> Iterator[dict[str, object]]:
    """Tell a call, as the child of its caller's span; at its end it has what the facts say."""
    facts: dict[str, object] = {}
    if trace is None:
        yield facts
        return
    service, _, name = method.strip("/").rpartition("/")
    with trace.get_tracer(NAME).start_as_current_span(
        method.strip("/"),
        context=propagate.extract(metadata),
        kind=trace.SpanKind.SERVER,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        if current.is_recording():
            facts["trace_id"] = trace.format_trace_id(current.get_span_context().trace_id)
        try:
            yield facts
        finally:
            if current.is_recording():
                _finish(current, facts)


def _finish(current: Span, facts: Mapping[str, object]) -> None:
    for fact, attribute in _ATTRIBUTES.items():
        if (value := facts.get(fact)) is not None:
            current.set_attribute(attribute, value)  # type: ignore[arg-type]
    if facts.get("status") not in (None, "OK"):
        current.set_status(trace.StatusCode.ERROR, str(facts["status"]))


def tell_stages(call: Call, progress: Progress) -> None:
    """Tell when an answer queued, was begun and was made; to be called when it has ended."""
    if trace is None or progress.submitted_at is None:
        return
    if not trace.get_current_span().is_recording():
        return
    admitted = progress.submitted_at + progress.queued_s
    ended = time.monotonic()
    first = progress.first_token_at or ended
    stages = [("queue", progress.submitted_at, min(admitted, first)), ("prefill", admitted, first)]
    if progress.first_token_at and progress.last_token_at:
        stages.append(("decode", first, progress.last_token_at))
        if call.method.endswith("/StreamGenerate"):
            stages.append(("stream", first, ended))
    to_ns = time.time_ns() - time.monotonic_ns()
    for name, begin, end in stages:
        at = int(begin * 1e9) + to_ns
        stage = trace.get_tracer(NAME).start_span(name, start_time=at)
        stage.end(max(int(end * 1e9) + to_ns, at))
