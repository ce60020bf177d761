"""An answer as it comes: its head, its chunks, its tail; cancelled, broken, read to the end."""

import threading
from typing import Any

import grpc
import pytest

from loradock.client import (
    AsyncClient,
    Cancelled,
    Client,
    FinishReason,
    LoradockError,
    NotFound,
    ServerError,
    TextChunk,
    Unavailable,
)
from loradock.v1 import inference_service_pb2 as wire


def event(**kind: Any):
    return wire.StreamGenerateResponse(**kind)


HEAD = event(head={"answerer": {"adapter": "triage", "version_number": 2, "alias": "production"}})
DELTAS = [
    event(delta={"text": "bill", "token_ids": [1], "token_logprobs": [-0.5]}),
    event(delta={"text": "ing", "token_ids": [2, 3], "token_logprobs": [-0.25, -1.0]}),
]
TAIL = event(
    tail={
        "finish_reason": wire.FINISH_REASON_STOP,
        "usage": {"prompt_tokens": 5, "output_tokens": 3},
        "timings": {"total_seconds": 0.5},
    }
)


def test_chunks_then_the_whole(scripted):
    scripted.answer("StreamGenerate", [HEAD, *DELTAS, TAIL])
    with Client(scripted.address) as client, client.stream("hi", adapter="triage") as stream:
        assert stream.answerer.version_number == 2
        assert list(stream) == [
            TextChunk("bill", (1,), (-0.5,)),
            TextChunk("ing", (2, 3), (-0.25, -1.0)),
        ]
        answer = stream.generation
    assert (answer.text, answer.token_ids) == ("billing", (1, 2, 3))
    assert answer.finish_reason is FinishReason.STOP
    assert answer.answerer.alias == "production"
    assert answer.timings.total_s == 0.5


def test_without_a_with(scripted):
    scripted.answer("StreamGenerate", [HEAD, *DELTAS, TAIL])
    with Client(scripted.address) as client:
        assert "".join(c.text for c in client.stream("hi", adapter="triage")) == "billing"


def test_result_reads_on(scripted):
    scripted.answer("StreamGenerate", [HEAD, *DELTAS, TAIL])
    with Client(scripted.address) as client:
        stream = client.stream("hi", adapter="triage")
        with pytest.raises(LoradockError, match="first chunk"):
            _ = stream.answerer
        assert next(stream).text == "bill"
        with pytest.raises(LoradockError, match="isn't read"):
            _ = stream.generation
        assert stream.result().text == "billing"
        assert stream.result() == stream.generation
        assert list(stream) == []


def test_refusal_comes_on_entry(scripted):
    scripted.answer(
        "StreamGenerate",
        scripted.refuse(grpc.StatusCode.NOT_FOUND, "no", scripted.error_info("NOT_FOUND")),
    )
    with (
        Client(scripted.address) as client,
        pytest.raises(NotFound),
        client.stream("hi", adapter="no"),
    ):
        pass


def broken_off(scripted, *events):
    def answer(request, context):
        yield from (e.SerializeToString() for e in events)
        scripted.refuse(grpc.StatusCode.UNAVAILABLE, "gone", scripted.error_info("DRAINING"))(
            request, context
        )

    return answer


@pytest.mark.contract("C3")
def test_c3_what_was_delivered_is_not_asked_again(scripted):
    scripted.answer("StreamGenerate", broken_off(scripted, HEAD, DELTAS[0]))
    with (
        Client(scripted.address) as client,
        client.stream("hi", base=True) as stream,
        pytest.raises(Unavailable),
    ):
        list(stream)
    assert len(scripted.received("StreamGenerate")) == 1


@pytest.mark.contract("C3")
def test_c3_a_stream_that_never_began_is_asked_again(scripted):
    lost = scripted.refuse(grpc.StatusCode.UNAVAILABLE, "gone", scripted.error_info("DRAINING"))
    scripted.answer("StreamGenerate", lost, [HEAD, *DELTAS, TAIL])
    with Client(scripted.address) as client:
        assert client.stream("hi", base=True).result().text == "billing"


def endless(scripted):
    def answer(request, context):
        try:
            yield HEAD.SerializeToString()
            while True:
                yield DELTAS[0].SerializeToString()
        finally:
            scripted.ended.set()

    return answer


def test_leaving_early_cancels(scripted):
    scripted.answer("StreamGenerate", endless(scripted))
    with Client(scripted.address) as client, client.stream("hi", base=True) as stream:
        next(stream)
    assert scripted.ended.wait(10)


def test_cancel_from_another_thread(scripted):
    scripted.answer("StreamGenerate", endless(scripted))
    with Client(scripted.address) as client, client.stream("hi", base=True) as stream:
        next(stream)
        canceller = threading.Thread(target=stream.cancel)
        canceller.start()
        with pytest.raises(Cancelled):
            list(stream)
        canceller.join()
    assert scripted.ended.wait(10)


@pytest.mark.parametrize("events", [[], [HEAD], [HEAD, *DELTAS], DELTAS])
def test_a_stream_without_head_or_tail_is_broken(scripted, events):
    scripted.answer("StreamGenerate", events)
    with Client(scripted.address) as client, pytest.raises(ServerError, match="head or tail"):
        client.stream("hi", base=True).result()


async def test_async_stream(scripted):
    scripted.answer("StreamGenerate", [HEAD, *DELTAS, TAIL])
    async with (
        AsyncClient(scripted.address) as client,
        client.stream("hi", adapter="triage") as stream,
    ):
        assert stream.answerer.adapter == "triage"
        assert [chunk.text async for chunk in stream] == ["bill", "ing"]
        assert (await stream.result()).text == "billing"


async def test_async_cancel(scripted):
    scripted.answer("StreamGenerate", endless(scripted))
    async with (
        AsyncClient(scripted.address) as client,
        client.stream("hi", base=True) as stream,
    ):
        await anext(stream)
        stream.cancel()
        with pytest.raises(Cancelled):
            async for _ in stream:
                pass
    assert scripted.ended.wait(10)
