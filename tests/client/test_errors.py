"""What gRPC reports becomes one typed error, chosen by the server's reason."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from loradock.client import (
    AsyncClient,
    BaseModelMismatch,
    Client,
    ClientClosed,
    DeadlineExceeded,
    InvalidRequest,
    LoradockError,
    MessageTooLarge,
    NotAdmitted,
    NotFound,
    Problem,
    ResourceExhausted,
    ServerError,
    Unavailable,
)
from loradock.client._wire.errors import ERROR_BY_REASON


def failure(scripted, *args):
    scripted.answer("GetAdapter", scripted.refuse(*args))
    with Client(scripted.address) as client, pytest.raises(LoradockError) as raised:
        client.adapters.get("x")
    return raised.value


@pytest.mark.parametrize("reason", ERROR_BY_REASON)
def test_c1_reason_chooses_the_class(scripted, reason):
    error = failure(
        scripted, grpc.StatusCode.UNKNOWN, "why", scripted.error_info(reason, kind="adapter")
    )
    assert type(error) is ERROR_BY_REASON[reason]
    assert error.reason == reason
    assert error.metadata["kind"] == "adapter"
    assert str(error) == f"why [{reason}]"


def test_c1_every_reason_of_the_server_has_its_class():
    from loradock.server.status import INTERNAL, TABLE

    sent = {row.reason for row in TABLE.values()} | {INTERNAL.reason}
    assert sent <= set(ERROR_BY_REASON)


def test_details_are_read(scripted):
    violation = error_details_pb2.PreconditionFailure.Violation(
        type="NO_MODULE", subject="a.b", description="maps to no module"
    )
    error = failure(
        scripted,
        grpc.StatusCode.FAILED_PRECONDITION,
        "not admitted",
        scripted.error_info("NOT_ADMITTED", request_id="r-1"),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500000000)),
        error_details_pb2.PreconditionFailure(violations=[violation]),
        error_details_pb2.BadRequest(
            field_violations=[{"field": "f", "description": "d", "reason": "R"}]
        ),
    )
    assert isinstance(error, NotAdmitted) and not isinstance(error, BaseModelMismatch)
    assert error.problems == (
        Problem("a.b", "NO_MODULE", "maps to no module"),
        Problem("f", "R", "d"),
    )
    assert error.retry_after_s == 1.5
    assert error.request_id == "r-1"


def test_unknown_reason_falls_back_to_the_code(scripted):
    error = failure(scripted, grpc.StatusCode.NOT_FOUND, "gone", scripted.error_info("BRAND_NEW"))
    assert type(error) is NotFound and error.reason == "BRAND_NEW"


def test_no_details_at_all(scripted):
    error = failure(scripted, grpc.StatusCode.INTERNAL, "boom")
    assert type(error) is ServerError
    assert error.reason == "INTERNAL"
    assert error.request_id == scripted.calls[0].metadata["x-request-id"]


def test_details_that_are_no_status_do_no_harm(scripted):
    def answer(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    scripted.answer("GetAdapter", answer)
    with Client(scripted.address) as client, pytest.raises(NotFound, match="gone"):
        client.adapters.get("x")


def test_c6_message_too_large_to_send_names_the_limit(scripted):
    with (
        Client(scripted.address, max_message_bytes=2048) as client,
        pytest.raises(MessageTooLarge) as raised,
    ):
        client.generate("x" * 5000, base=True)
    assert raised.value.metadata["limit_bytes"] == "2048"
    assert "2048" in str(raised.value) and "shorter prompt" in str(raised.value)
    assert isinstance(raised.value, ResourceExhausted)
    assert not scripted.calls


def test_nobody_there_is_unavailable():
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable):
        client.adapters.get("x")


def test_deadline(scripted):
    def answer(request, context):
        scripted.ended.wait(10)
        return b""

    scripted.answer("GetAdapter", answer)
    with Client(scripted.address, timeout_s=0.2) as client, pytest.raises(DeadlineExceeded):
        client.adapters.get("x")
    scripted.ended.set()


@pytest.mark.parametrize(
    "arguments", [{}, {"adapter": "a", "base": True}, {"adapter": "a@x"}, {"adapter": ":b"}]
)
def test_c1_s3_who_answers_is_said_before_any_call(scripted, arguments):
    with Client(scripted.address) as client:
        for ask in (client.generate, client.stream, client.classify, client.count_tokens):
            with pytest.raises(InvalidRequest):
                ask("hi", **arguments)
    assert not scripted.calls


def test_invalid_request_is_a_value_error():
    assert issubclass(InvalidRequest, ValueError)


def test_closed_client_says_so(scripted):
    client = Client(scripted.address)
    client.close()
    client.close()
    for ask in (client.generate, client.stream):
        with pytest.raises(ClientClosed):
            ask("hi", base=True)


async def test_async_errors_are_the_same(scripted):
    scripted.answer(
        "GetAdapter",
        scripted.refuse(grpc.StatusCode.NOT_FOUND, "no", scripted.error_info("NOT_FOUND")),
    )
    async with AsyncClient(scripted.address) as client:
        with pytest.raises(NotFound):
            await client.adapters.get("x")


async def test_cancelling_a_task_is_no_error_of_ours(scripted):
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer(request, context):
        loop.call_soon_threadsafe(started.set)
        scripted.ended.wait(10)
        return b""

    scripted.answer("GetAdapter", answer)
    async with AsyncClient(scripted.address) as client:
        task = asyncio.create_task(client.adapters.get("x"))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    scripted.ended.set()


def test_token_goes_beside_each_call(scripted):
    tokens = iter(["one", "two"])
    with Client(scripted.address, token=lambda: next(tokens)) as client:
        client.adapters.get("x")
        client.adapters.get("x")
    sent = [call.metadata["authorization"] for call in scripted.calls]
    assert sent == ["Bearer one", "Bearer two"]


def test_token_does_not_leave_the_host_in_plain_text():
    with pytest.raises(InvalidRequest, match="plain text"):
        Client("registry.example:7431", token="secret")
    Client("registry.example:7431", token="secret", insecure=True).close()
    Client("registry.example:7431", token="secret", tls=True).close()
    for local in ("127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/loradock"):
        Client(local, token="secret").close()


@pytest.mark.parametrize("field", ["max_tokens", "top_k"])
def test_number_that_the_wire_can_not_hold_is_an_invalid_request(field):
    too_large: dict[str, Any] = {field: 2**31}
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest) as raised:
        client.generate("hi", base=True, **too_large)
    assert raised.value.metadata["field"] == f"sampling.{field}"
