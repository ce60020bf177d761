"""A span for each call, where OpenTelemetry's API is installed (`loradock[otel]`); else nothing.

The span's context goes with the call as W3C's `traceparent`, so that the server's spans become its
children. Who collects spans, if anybody, is the application's to say.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from google.protobuf.message import Message

from loradock.client._errors import LoradockError

try:
    from opentelemetry import propagate, trace
except ImportError:
    trace = None  # type: ignore[assignment]

Metadata = tuple[tuple[str, str], ...]
_TOLD = {
    "adapter": "adapter",
    "version_number": "version",
    "version_digest": "digest",
    "alias": "alias",
    "arm": "arm",
    "base_model": "base",
}


class CallSpan:
    """One call's span, begun when it is made. Ends by `end`, or as a context manager does."""

    def __init__(self, method: str, request_id: str) -> None:
        self.metadata: Metadata = ()  # what the call has to carry
        if trace is None:
            return
        self._span = trace.get_tracer("loradock.client").start_span(
            f"loradock.{method}",
            kind=trace.SpanKind.CLIENT,
            attributes={
                "rpc.system": "grpc",
                "rpc.method": method,
                "loradock.request_id": request_id,
            },
        )
        carried: dict[str, str] = {}
        propagate.inject(carried, trace.set_span_in_context(self._span))
        self.metadata = tuple(carried.items())

    def tell(self, response: object) -> None:
        """Add who answered, if the response says so."""
        if trace is None or not self._span.is_recording() or not isinstance(response, Message):
            return
        if "answerer" not in response.DESCRIPTOR.fields_by_name:
            return
        answerer = response.answerer  # type: ignore[attr-defined]
        for field, name in _TOLD.items():
            if value := getattr(answerer, field, None):
                self._span.set_attribute(f"loradock.{name}", value)

    def end(self, error: BaseException | None = None) -> None:
        """End it. Again is harmless."""
        if trace is None or not self._span.is_recording():
            return
        if error is not None:
            reason = error.reason if isinstance(error, LoradockError) else type(error).__name__
            self._span.set_attribute("loradock.reason", reason)
            self._span.set_status(trace.StatusCode.ERROR, reason)
        self._span.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(error)
