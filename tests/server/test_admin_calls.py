"""What the admin service does when its caller leaves, and whom it lets move aliases."""

import asyncio
import threading
import time
from typing import Any

import pytest

from loradock.registry.garbage import Garbage, GarbageKind
from loradock.registry.registry import open_registry
from loradock.server.errors import PermissionDenied
from loradock.server.services.admin_service import AdminService
from loradock.server.services.call import Call, enter_call
from loradock.server.services.principal import Principal, Role
from loradock.server.threads import Threads
from loradock.v1 import admin_service_pb2 as wire

PARENT = "projects/acme"


@pytest.fixture
async def service(tmp_path):
    place = f"sqlite:///{tmp_path}/catalog.db", f"file://{tmp_path}/blobs"
    registry, threads = open_registry(*place, migrate=True), Threads("catalog", 2)
    doctor: Any = None
    yield AdminService(registry, threads, doctor)
    await threads.close()
    registry.close()


def enter(*roles):
    principal = Principal("acme", "ann", frozenset(roles))
    enter_call(Call("/method", "id", principal, time.monotonic() + 10))


async def test_r10_a_collection_whose_caller_leaves_ends_as_soon_as_it_can(service, monkeypatch):
    is_taking, may_go_on, ends = threading.Event(), threading.Event(), []

    def collect(*args, **options):
        try:
            is_taking.set()
            assert may_go_on.wait(10)
            yield Garbage(GarbageKind.BLOB, "sha256:0", 1)
        finally:
            ends.append("audited")

    async def call():
        enter(Role.OPERATE)
        request = wire.CollectGarbageRequest(parent=PARENT)
        async for _ in service.CollectGarbage(request, None):
            pass

    monkeypatch.setattr(service._registry.garbage, "collect", collect)
    calling = asyncio.create_task(call())
    await asyncio.to_thread(is_taking.wait, 10)
    calling.cancel()
    await asyncio.sleep(0.1)
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert ends == ["audited"]


async def given(*messages):
    for message in messages:
        yield message


@pytest.mark.contract("X1")
async def test_x1_a_bundle_moves_aliases_only_for_who_may_move_them(service):
    header = wire.ImportBundleHeader(parent=PARENT, with_aliases=True)
    enter(Role.OPERATE)
    with pytest.raises(PermissionDenied):
        await service.ImportBundle(given(wire.ImportBundleRequest(header=header)), None)
