"""C1 and C6: how errors leave, over a real channel, through every interceptor."""

import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from loradock.engine import errors as engine
from loradock.engine.protocol import Failure
from loradock.registry import errors as registry
from loradock.registry.policy import GateCheck
from loradock.server import errors as server
from loradock.server.gate import Gate
from loradock.server.listen import Listener
from loradock.server.services.interceptors import CallInterceptor
from loradock.server.services.principal import Authenticator
from loradock.server.services.status import DOMAIN, INTERNAL, TABLE
from loradock.server.telemetry.metrics import Metrics
from loradock.v1 import alias_service_pb2 as wire
from loradock.v1 import alias_service_pb2_grpc as grpc_wire
from loradock.v1 import resources_pb2

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
DIGEST = "sha256:" + "0" * 64
SAMPLES = [
    registry.InvalidName("adapter", "No", "1 to 63 of a-z"),
    registry.InvalidArgument("reason", "is needed"),
    registry.NotFound("adapter", "triage"),
    registry.AlreadyExists("adapter", "triage"),
    registry.StaleGeneration("production", 3, 4),
    registry.Immutable("triage@1"),
    registry.VersionYanked("triage@1", "leaks"),
    registry.StillReferenced("triage@1", ["alias production"]),
    registry.NothingToRollBack("production"),
    registry.AliasProtected("production"),
    registry.EvalGateFailed(
        "triage@1", "triage:production", [GateCheck("s", "m", "MISSING", "was never measured")]
    ),
    registry.RequestReused("abc"),
    registry.RolloutRunning("triage:production", "triage@2"),
    registry.RolloutEnded("triage:production", "aborted", "errors"),
    registry.NotAdmitted([registry.Problem("a.weight", "SHAPE", "is wrong")] * 200),
    registry.BaseMismatch([registry.Problem("base", "WEIGHTS", "differ")]),
    registry.DigestMismatch(DIGEST, DIGEST),
    registry.UploadTooLarge("blob", 10, 5),
    registry.UploadOffset(9, 4),
    registry.DiskFull("the catalog", "no space left on device"),
    registry.CatalogUnavailable("down"),
    registry.UnknownSchema(None, "0001"),
    registry.StoreUnavailable("down"),
    engine.TooLong(300, 20, 256),
    engine.EngineError("boom"),
    engine.EngineStopped("it failed"),
    server.EngineFailed(Failure.NOT_FINITE),
    server.Unauthenticated(),
    server.PermissionDenied("promote"),
    server.MessageTooLarge("request", 10, 5, "send less"),
    server.ChunkTooLarge(10, 5),
    server.StaleEtag("triage", "3", "4"),
    server.Draining(),
    server.QueueFull(9, 9),
    server.WrongBase("triage@1", "a", "b"),
    server.AdapterTooLarge(10, 1),
    server.AdapterPinned("sha256:1"),
    server.AdapterMemoryFull(9, 1, 5),
    server.AdapterLoadFailed(DIGEST, "store is down", 2.0),
    server.NotResidentHere(DIGEST),
    server.NoEngine(),
    server.NoRegistry(),
    server.CatalogAnswers("production"),
    server.SlowReader(8),
    server.DeadlineExceeded("queue"),
    server.Cancelled(),
]
RAISED = {str(i): error for i, error in enumerate([*SAMPLES, KeyError("password=hunter2")])}


class Raiser(grpc_wire.AliasServiceServicer):  # one method is enough
    async def GetAlias(self, request, context):
        if request.name.startswith("size"):
            size = int(request.name.removeprefix("size "))
            return wire.GetAliasResponse(alias=resources_pb2.Alias(name="x" * size))
        raise RAISED[request.name]


@asynccontextmanager
async def raiser(max_message_bytes=4 << 20, token=None):
    interceptor = CallInterceptor(
        Authenticator(token, "default"),
        Gate(),
        max_deadline_s=10,
        max_message_bytes=max_message_bytes,
        facts={},
        metrics=Metrics(max_versions=1),
    )
    listener = Listener(interceptor, max_message_bytes=max_message_bytes)
    services = {
        "loradock.v1.AliasService": lambda s: grpc_wire.add_AliasServiceServicer_to_server(
            Raiser(),  # type: ignore[abstract]
            s,
        )
    }
    address = await listener.open("127.0.0.1", 0, services, with_reflection=True)
    async with grpc.aio.insecure_channel(address) as channel:
        yield grpc_wire.AliasServiceStub(channel)
    await listener.close(0)


async def failure_of(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def details_of(error) -> dict[str, list[Any]]:
    status = rpc_status.from_call(error)
    found: dict[str, list[Any]] = {}
    for packed in status.details:
        kind = packed.type_url.rpartition(".")[2]
        message = getattr(error_details_pb2, kind)()
        packed.Unpack(message)
        found.setdefault(kind, []).append(message)
    return found


def info_of(error) -> error_details_pb2.ErrorInfo:
    (info,) = details_of(error)["ErrorInfo"]
    return info


@pytest.mark.contract("C1")
async def test_c1_every_reason_arrives_with_its_details():
    assert {type(error) for error in SAMPLES} == set(TABLE), "a sample for each row of the table"
    async with raiser() as stub:
        for name, sample in RAISED.items():
            row = TABLE.get(type(sample), INTERNAL)
            metadata = (("x-request-id", f"request-{name}"),)
            call = stub.GetAlias(wire.GetAliasRequest(name=name), metadata=metadata, timeout=10)
            error = await failure_of(call)
            assert error.code() is row.code, sample
            info = info_of(error)
            assert (info.reason, info.domain) == (row.reason, DOMAIN)
            assert info.metadata["request_id"] == f"request-{name}"
            assert {name.partition("=")[0] for name in row.metadata} <= set(info.metadata)
            assert dict(error.trailing_metadata())["x-request-id"] == f"request-{name}"
            retry_after_s = getattr(sample, "retry_after_s", row.retry_after_s)
            assert ("RetryInfo" in details_of(error)) is (retry_after_s is not None)


@pytest.mark.contract("C1")
async def test_c1_nothing_from_inside_leaves_with_an_unexpected_error(caplog):
    async with raiser() as stub:
        call = stub.GetAlias(wire.GetAliasRequest(name=str(len(SAMPLES))), timeout=10)
        error = await failure_of(call)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(rpc_status.from_call(error))
    assert info_of(error).reason == "INTERNAL"


@pytest.mark.contract("C1")
async def test_c1_more_problems_than_fit_are_counted():
    name = next(k for k, v in RAISED.items() if type(v) is registry.NotAdmitted)
    async with raiser() as stub:
        error = await failure_of(stub.GetAlias(wire.GetAliasRequest(name=name), timeout=10))
    (failure,) = details_of(error)["PreconditionFailure"]
    left_out = int(info_of(error).metadata["num_problems_left_out"])
    assert len(failure.violations) + left_out == 200
    assert failure.violations[0].type == "SHAPE"


@pytest.mark.contract("C1")
def test_c1_documented_reasons_are_those_of_the_table():
    rows = {row.reason: row.code.name for row in [*TABLE.values(), INTERNAL]}
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", PAGE.read_text(), re.M))
    assert documented == rows


@pytest.mark.contract("C6")
async def test_c6_message_over_the_limit_is_refused_with_the_limit_and_a_way_out():
    async with raiser(max_message_bytes=4096) as stub:
        too_large = wire.GetAliasRequest(name="x" * 5000)
        error = await failure_of(stub.GetAlias(too_large, timeout=10))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert info_of(error).reason == "MESSAGE_TOO_LARGE"
        assert info_of(error).metadata["limit_bytes"] == "4096"
        assert "UploadBlob" in str(error.details())

        error = await failure_of(stub.GetAlias(wire.GetAliasRequest(name="size 5000"), timeout=10))
        assert info_of(error).metadata["what"] == "response"
        assert "page_size" in str(error.details())

        beyond_grpc = wire.GetAliasRequest(name="x" * 50_000)
        error = await failure_of(stub.GetAlias(beyond_grpc, timeout=10))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(4 * 4096) in str(error.details())


@pytest.mark.contract("C1")
async def test_c1_garbage_is_an_invalid_argument():
    async with raiser() as stub:
        channel_call = stub.GetAlias
        channel_call._request_serializer = lambda request: b"\xff\xff\xff"
        error = await failure_of(channel_call(wire.GetAliasRequest(), timeout=10))
    assert info_of(error).reason == "INVALID_FIELD"


@pytest.mark.contract("C1")
async def test_c1_token_is_asked_for_and_compared():
    async with raiser(token="right") as stub:
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "right"),)):
            call = stub.GetAlias(wire.GetAliasRequest(name="size 1"), metadata=metadata, timeout=10)
            error = await failure_of(call)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert info_of(error).reason == "UNAUTHENTICATED"
        metadata = (("authorization", "Bearer right"),)
        await stub.GetAlias(wire.GetAliasRequest(name="size 1"), metadata=metadata, timeout=10)
