"""What gRPC reports becomes one typed error, chosen by the server's reason."""

import asyncio
from datetime import datetime, timedelta, timezone
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
    from loradock.server.services.status import INTERNAL, TABLE

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


def test_a_connection_lost_while_sending_is_unavailable_whatever_the_library_calls_it(scripted):
    error = failure(scripted, grpc.StatusCode.INTERNAL, "Internal error from Core")
    assert type(error) is Unavailable and "connection broke" in str(error)


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


WEST = timezone(timedelta(hours=-12))
HALF = "\ud83d"  # of an emoji: a lone surrogate


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda c: c.aliases.set("a", "p", 2**40, etag=""), "version_number"),
        (lambda c: c.aliases.set("a", "p", 1, etag="", wait_s=1e30), "seconds"),
        (lambda c: c.aliases.at("a", "p", datetime.max.replace(tzinfo=WEST)), "time"),
        (lambda c: c.aliases.set("a", "p", 1, etag="", request_id="\u00e9"), "request_id"),
        (lambda c: c.stream("hi", base=True, request_id=HALF), "request_id"),
        (lambda c: list(c.evaluations.list(number=-(2**40))), "version_number"),
        (lambda c: list(c.adapters.list(page_size=2**31)), "page_size"),
        (lambda c: c.adapters.get(HALF), "name"),
        (lambda c: c.adapters.update("a", tags=[HALF]), "tags"),
        (lambda c: c.generate(HALF, base=True), "prompt.text"),
        (lambda c: c.stream([{"role": "user", "content": HALF}], base=True), "prompt.content"),
        (lambda c: c.generate("hi", base=True, stop=HALF), "sampling.stop"),
        (lambda c: c.generate("hi", base=True, temperature=10**400), "sampling.temperature"),
        (lambda c: c.score("hi", ["a", HALF], base=True), "continuations"),
        (lambda c: c.lineage(dataset=HALF), "dataset_digest"),
        (lambda c: c.lineage("a", max_depth=2**40), "max_depth"),
        (lambda c: c.server.override("a", "p", to=HALF, reason="r"), "version_digest"),
        (lambda c: c.versions.resolve(f"a@{'9' * 5000}"), None),
    ],
)
def test_what_no_field_can_hold_is_an_invalid_request(scripted, ask, field):
    with Client(scripted.address) as client, pytest.raises(InvalidRequest) as raised:
        ask(client)
    assert field is None or raised.value.metadata == {"field": field}
    assert field is None or field in str(raised.value)


@pytest.mark.parametrize("limit_s", [0, -1, float("nan")])
@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.adapters.get("a"),
        lambda c: c.generate("hi", base=True),
        lambda c: c.stream("hi", base=True).result(),
        lambda c: c.aliases.set("a", "p", 1, etag="", wait_s=30),
        lambda c: list(c.admin.verify()),
    ],
)
def test_no_time_at_all_is_over_at_once(scripted, ask, limit_s):
    with Client(scripted.address, timeout_s=limit_s) as client, pytest.raises(DeadlineExceeded):
        ask(client)
    assert not scripted.calls


def test_no_time_for_one_call_is_not_the_clients_time(scripted):
    with Client(scripted.address, timeout_s=5) as client:
        with pytest.raises(DeadlineExceeded):
            client.generate("hi", base=True, timeout_s=0)
        with pytest.raises(DeadlineExceeded):
            client.stream("hi", base=True, timeout_s=0)
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


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "ipv4:127.0.0.1:1,127.0.0.1:65536"])
def test_port_that_there_can_not_be_is_an_invalid_request_and_not_another_port(address):
    with pytest.raises(InvalidRequest, match="there is no port (99999|65536)") as raised:
        Client(address)
    assert raised.value.metadata["field"] == "address"
    for right in ("127.0.0.1:65535", "[::1]:7431", "unix:/run/loradock:99999"):
        Client(right).close()


@pytest.mark.parametrize("field", ["max_tokens", "top_k"])
def test_number_that_the_wire_can_not_hold_is_an_invalid_request(field):
    too_large: dict[str, Any] = {field: 2**31}
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest) as raised:
        client.generate("hi", base=True, **too_large)
    assert raised.value.metadata["field"] == f"sampling.{field}"
