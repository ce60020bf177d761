"""Who may say what an alias demands, and who may override it: over a real channel, by role."""

from contextlib import asynccontextmanager

import grpc
import pytest
from served import reason_of
from tiny_registry import TinyRegistry

from loradock.registry.registry import open_registry
from loradock.server.aliases.follow_wait import FollowWait
from loradock.server.gate import Gate
from loradock.server.listen import Listener
from loradock.server.services.alias_service import AliasService
from loradock.server.services.interceptors import CallInterceptor
from loradock.server.services.principal import Authenticator, Principal, Role
from loradock.server.telemetry.metrics import Metrics
from loradock.server.threads import Threads
from loradock.v1 import alias_service_pb2 as wire
from loradock.v1 import alias_service_pb2_grpc as grpc_wire

ALIAS = "projects/acme/adapters/triage/aliases/production"
POLICY = wire.AliasPolicy(name=f"{ALIAS}/policy", suites=[wire.SuiteDemand(suite="held-out")])


class Roles(Authenticator):
    """Tells who calls by the roles that the call's own metadata names."""

    def __init__(self):
        super().__init__(None, "acme")

    def principal(self, metadata):
        names = metadata.get("roles", "").split()
        return Principal("acme", "ann", frozenset(Role(name) for name in names))


@pytest.fixture
def tiny(tmp_path):
    registry = open_registry(
        f"sqlite:///{tmp_path}/catalog.db", f"file://{tmp_path}/blobs", migrate=True
    )
    yield TinyRegistry(registry)
    registry.close()


@asynccontextmanager
async def serving(tiny):
    threads = Threads("catalog", 2)
    service = AliasService(tiny.registry, threads, FollowWait(tiny.registry, threads))
    interceptor = CallInterceptor(
        Roles(),
        Gate(),
        max_deadline_s=10,
        max_message_bytes=1 << 20,
        facts={},
        metrics=Metrics(max_versions=1),
    )
    listener = Listener(interceptor, max_message_bytes=1 << 20)

    def register(server):
        grpc_wire.add_AliasServiceServicer_to_server(service, server)

    services = {"loradock.v1.AliasService": register}
    address = await listener.open("127.0.0.1", 0, services, with_reflection=False)
    async with grpc.aio.insecure_channel(address) as channel:
        yield grpc_wire.AliasServiceStub(channel)
    await listener.close(0)
    await threads.close()


def as_(*roles):
    return {"metadata": (("roles", " ".join(roles)),), "timeout": 10}


async def code_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code()


@pytest.mark.contract("R8")
async def test_r8_an_override_needs_its_own_role(tiny):
    tiny.publish()
    tiny.publish(seed=1)
    async with serving(tiny) as stub:
        request = wire.SetAliasPolicyRequest(policy=POLICY)
        denied = grpc.StatusCode.PERMISSION_DENIED
        assert await code_of(stub.SetAliasPolicy(request, **as_("promote"))) is denied
        await stub.SetAliasPolicy(request, **as_("operate"))
        move = wire.SetAliasRequest(name=ALIAS, version_number=1, reason="now")
        failed = grpc.StatusCode.FAILED_PRECONDITION
        assert await code_of(stub.SetAlias(move, **as_("promote"))) is failed
        move.override_policy = True
        assert await code_of(stub.SetAlias(move, **as_("promote"))) is denied
        assert await code_of(stub.SetAlias(move, **as_("operate"))) is denied
        moved = await stub.SetAlias(move, **as_("promote", "operate"))
        assert moved.alias.version_number == 1
        back = wire.RollbackAliasRequest(name=ALIAS, etag="1", override_policy=True, reason="now")
        assert await code_of(stub.RollbackAlias(back, **as_("promote"))) is denied


@pytest.mark.contract("R8")
async def test_r8_a_protected_alias_needs_the_role_that_sets_policies(tiny):
    tiny.publish()
    tiny.publish(seed=1)
    async with serving(tiny) as stub:
        protected = wire.AliasPolicy(name=POLICY.name, protected=True)
        await stub.SetAliasPolicy(wire.SetAliasPolicyRequest(policy=protected), **as_("operate"))
        move = wire.SetAliasRequest(name=ALIAS, version_number=1)
        back = wire.RollbackAliasRequest(name=ALIAS, etag="2")
        delete = wire.DeleteAliasRequest(name=ALIAS, etag="3")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SetAlias(move, **as_("promote"))
        assert reason_of(refused.value) == "ALIAS_PROTECTED"
        await stub.SetAlias(move, **as_("promote", "operate"))
        move = wire.SetAliasRequest(name=ALIAS, version_number=2, etag="1")
        await stub.SetAlias(move, **as_("promote", "operate"))
        denied = grpc.StatusCode.PERMISSION_DENIED
        assert await code_of(stub.RollbackAlias(back, **as_("promote"))) is denied
        await stub.RollbackAlias(back, **as_("promote", "operate"))
        assert await code_of(stub.DeleteAlias(delete, **as_("promote"))) is denied
        await stub.DeleteAlias(delete, **as_("promote", "operate"))


async def test_a_policy_that_does_not_say_which_way_is_better_is_refused(tiny):
    tiny.publish()
    async with serving(tiny) as stub:
        demand = wire.SuiteDemand(suite="s", metrics=[wire.MetricDemand(metric="m")])
        policy = wire.AliasPolicy(name=f"{ALIAS}/policy", suites=[demand])
        request = wire.SetAliasPolicyRequest(policy=policy)
        code = await code_of(stub.SetAliasPolicy(request, **as_("operate")))
        assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_reading_a_policy_needs_the_view(tiny):
    tiny.publish()
    async with serving(tiny) as stub:
        get = wire.GetAliasPolicyRequest(name=POLICY.name)
        assert await code_of(stub.GetAliasPolicy(get, **as_())) is grpc.StatusCode.PERMISSION_DENIED
        assert await code_of(stub.GetAliasPolicy(get, **as_("view"))) is grpc.StatusCode.NOT_FOUND
        check = wire.CheckAliasPolicyRequest(name=POLICY.name, version_number=1)
        assert (await stub.CheckAliasPolicy(check, **as_("view"))).passed
