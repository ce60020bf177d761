# Generated from _async/stream.py by scripts/generate_sync_client.py. Do not edit.
"""An answer as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

import grpc

from loradock.client._errors import Cancelled, LoradockError, ServerError
from loradock.client._spans import CallSpan
from loradock.client._values.inference import Answerer, Generation, TextChunk
from loradock.client._wire.errors import error_of
from loradock.client._wire.inference import answerer_of, chunk_of, stitched
from loradock.v1 import inference_service_pb2 as wire


class Call(Protocol):
    """A running call."""

    def __iter__(self) -> Iterator[wire.StreamGenerateResponse]:
        """Give what comes."""
        ...

    def cancel(self) -> bool:
        """Stop it."""
        ...


class TextStream:
    """An iterator over an answer's chunks, and a context manager that cancels what is not read.

    On entry, or with the first chunk, `answerer` is known. Once all chunks are read, `generation`
    is the whole answer. One reader; `cancel` may come from anywhere.
    """

    def __init__(self, call: Call, request_id: str, span: CallSpan) -> None:
        self._call = call
        self._span = span
        self._events = call.__iter__()
        self._request_id = request_id
        self._answerer: Answerer | None = None
        self._chunks: list[TextChunk] = []
        self._tail: wire.StreamTail | None = None
        self._is_cancelled = False

    def __enter__(self) -> Self:
        self._read_head()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tail is None:
            self.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TextChunk:
        self._read_head()
        event = self._next_event() if self._tail is None else None
        if event is None:
            raise StopIteration
        if event.WhichOneof("event") == "tail":
            self._tail = event.tail
            self._next_event()  # the status that follows
            raise StopIteration
        chunk = chunk_of(event.delta)
        self._chunks.append(chunk)
        return chunk

    @property
    def answerer(self) -> Answerer:
        """Exactly who answers."""
        if self._answerer is None:
            raise LoradockError("who answers is known on entry or with the first chunk")
        return self._answerer

    @property
    def generation(self) -> Generation:
        """The whole answer, once all chunks are read."""
        if self._tail is None:
            raise LoradockError("the answer isn't read to its end; `result()` does so")
        return stitched(self.answerer, self._chunks, self._tail)

    def result(self) -> Generation:
        """Read on to the end, and give the whole answer."""
        for _ in self:
            pass
        return self.generation

    def cancel(self) -> None:
        """Stop the answer; the server frees its row within one step."""
        self._is_cancelled = True
        self._call.cancel()
        self._span.end(self._cancelled())

    def _read_head(self) -> None:
        if self._answerer is not None:
            return
        event = self._next_event()
        if event is None or event.WhichOneof("event") != "head":
            raise self._broken()
        self._answerer = answerer_of(event.head.answerer)
        self._span.tell(event.head)

    def _next_event(self) -> wire.StreamGenerateResponse | None:
        if self._is_cancelled:
            raise self._cancelled()
        try:
            event = self._events.__next__()
        except StopIteration:
            if self._answerer is None or self._tail is None:
                raise self._broken() from None
            self._span.end()
            return None
        except grpc.RpcError as failure:
            if self._is_cancelled:
                raise self._cancelled() from None
            error = error_of(failure, self._request_id)
            self._span.end(error)
            raise error from None
        return event

    def _cancelled(self) -> Cancelled:
        return Cancelled(
            "the stream was cancelled", reason="CANCELLED", request_id=self._request_id
        )

    def _broken(self) -> ServerError:
        error = ServerError(
            "the stream ended without its head or tail",
            reason="INTERNAL",
            request_id=self._request_id,
        )
        self._span.end(error)
        return error
