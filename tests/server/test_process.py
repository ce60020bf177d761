"""`loradock serve` as a process: ready line, drain, refusals; stock clients."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from served import inference, reason_of, running, target_of
from tiny_gguf import make_tiny_gguf

from loradock.cli.main import run as main
from loradock.client import AsyncClient, PreconditionFailed
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.schema import known_revisions, upgrade
from loradock.server import app
from loradock.server.app import start_server
from loradock.server.config import Config
from loradock.server.errors import StartRefused
from loradock.server.listen import refuse_taken_port
from loradock.v1 import inference_service_pb2_grpc

LORADOCK = [sys.executable, "-c", "from loradock.cli.main import main; main()"]


@contextmanager
def process(base, folder, *flags):
    ready = folder / "ready.json"
    command = [
        *(*LORADOCK, "serve"),
        *("--model", str(base), "--model-name", "tiny", "--dtype", "float32", "--threads", "1"),
        *("--port", "0", "--data-dir", str(folder / "data"), "--ready-file", str(ready)),
        *flags,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout and server.stderr
            line = server.stdout.readline()
            assert line.startswith("loradock is serving tiny on 127.0.0.1:"), server.stderr.read()
            yield server, json.loads(ready.read_text())["address"]
        finally:
            server.kill()


@pytest.mark.contract("S14")
def test_s14_sigterm_lets_running_requests_finish_and_exits_with_0(tiny_base, tmp_path):
    with (
        process(tiny_base, tmp_path) as (server, address),
        grpc.insecure_channel(address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        request = inference.StreamGenerateRequest(
            target=target_of(None),
            prompt=inference.Prompt(text="hello"),
            sampling=inference.Sampling(max_tokens=900),
        )
        watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        streams = [stub.StreamGenerate(request, timeout=30) for _ in range(4)]
        heads = [next(stream) for stream in streams]
        server.send_signal(signal.SIGTERM)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        refused = refusal_of(lambda: stub.Generate(inference.GenerateRequest(), timeout=5))
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        for head, stream in zip(heads, streams, strict=True):
            events = list(stream)
            assert head.head.answerer.base_model
            assert events[-1].tail.usage.output_tokens > 0
        assert server.wait(timeout=20) == 0
        lines = [json.loads(line) for line in server.stderr if line.startswith("{")]
    answered = [line for line in lines if line["message"] == "answered"]
    assert {"request_id", "status", "seconds", "base_weights"} <= set(answered[0])


def refusal_of(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


async def test_draining_refuses_with_a_reason(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path) as served:
        stream = served.stream(None, max_tokens=900)
        await anext(aiter(stream))
        stopping = asyncio.create_task(served.server.stop())
        while not served.server.gate.is_draining:
            await asyncio.sleep(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.ask(None)
        assert reason_of(caught.value) == "DRAINING"
        assert [event async for event in stream][-1].tail.usage.output_tokens > 0
        await stopping


async def test_stopping_twice_is_stopping_once(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path) as served:
        await asyncio.gather(served.server.stop(), served.server.stop())
        await served.server.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_taken_port_is_told_before_anything_is_begun(host, tmp_path):
    said: list[str] = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = Config(model=str(tmp_path), data_dir=tmp_path / "data", host=host, port=port)
        with pytest.raises(StartRefused, match=f"can't listen on {host}:{port}: .*--port"):
            await start_server(config, said.append)
    assert not said
    assert not (tmp_path / "data").exists()
    await refuse_taken_port(host, port)


async def test_what_cant_start_leaves_nothing_behind(tiny_base, tmp_path, monkeypatch):
    async def miss_it(host, port):
        pass

    monkeypatch.setattr(app, "refuse_taken_port", miss_it)  # as if it was taken only later
    before = set(threading.enumerate())
    async with running(tiny_base, tmp_path) as served:
        port = int(served.server.address.rpartition(":")[2])
        with pytest.raises(StartRefused, match="can't listen"):
            async with running(tiny_base, tmp_path / "other", port=port):
                pass
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not [name for name in left if name.startswith(("loradock", "engine"))]


def test_starting_off_a_terminal_draws_nothing(tiny_base, tmp_path):
    file = make_tiny_gguf(tmp_path / "tiny.gguf", tiny_base)
    with process(file, tmp_path) as (server, _):
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0
        said = server.stderr.read()
    assert "loading" in said
    assert "%|" not in said
    assert "\r" not in said


def test_registering_off_a_terminal_lets_no_library_draw(tmp_path):
    """As the one does that fetches a base: its bars are tqdm's."""
    code = (
        "import sys; from loradock.cli.main import run; run(sys.argv[1:]); "
        "from tqdm.auto import tqdm; list(tqdm(range(3)))"
    )
    words = ("base", "register", str(tmp_path / "nowhere"), "--name", "x")
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert "nowhere" in run.stderr
    assert "%|" not in run.stderr


def test_no_ready_file_is_left_of_a_server_that_was_killed(tiny_base, tmp_path):
    with process(tiny_base, tmp_path):
        pass
    ready, data = tmp_path / "ready.json", tmp_path / "data"
    assert ready.exists()
    words = ("serve", "--model", tmp_path, "--data-dir", data, "--ready-file", ready)
    assert main([str(word) for word in words]) == 2
    assert not ready.exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("backup", "out"), 3, "there is no catalog in"),
        (("backup", "out", "--database-url", "postgresql://127.0.0.1:1/x"), 8, "does not answer"),
        (("migrate", "--database-url", "postgresql://127.0.0.1:1/x"), 8, "does not answer"),
        (("migrate",), 3, "there is no catalog in"),
    ],
)
def test_commands_of_a_host_say_what_is_not_there(words, code, said, tmp_path, capsys):
    assert main([*words, "--data-dir", str(tmp_path / "data")]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "data" / "catalog.db").exists()


def test_migrate_says_what_there_was(tmp_path, capsys):
    database = Database(f"sqlite:///{tmp_path}/catalog.db")
    words = ["migrate", "--data-dir", str(tmp_path)]
    url = ["migrate", "--database-url", f"sqlite:///{tmp_path}/typo.db"]
    upgrade(database, known_revisions()[-2])
    database.close()
    told = []
    for command in (words, words, url):
        assert main(command) == 0
        told.append(capsys.readouterr().out)
    this, before = known_revisions()[-1], known_revisions()[-2]
    assert told == [
        f"The catalog's schema is this release's, {this}; it was {before}.\n",
        f"The catalog's schema is this release's, {this}, and was so before.\n",
        f"The catalog's schema is this release's, {this}. "
        "The database was empty: this catalog is new.\n",
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--host", "0.0.0.0", "--model", "x"), "--token-file"),
        (("--model", "x", "--roles", "registery"), "roles"),
        (("--model", "x", "--ready-file", "/no/where/ready"), "there is no folder /no/where"),
        (("--model", "./typo", "--port", "0"), "there is no folder and no GGUF file ./typo"),
        ((), "--model"),
    ],
)
def test_refusals_to_start_are_sentences(flags, said, tmp_path):
    run = subprocess.run(
        [*LORADOCK, "serve", "--data-dir", str(tmp_path), *flags],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert not any(tmp_path.iterdir()), "no catalog is begun"


def test_an_interrupt_ends_a_server_that_still_loads_its_base(tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "model.safetensors").unlink()
    os.mkfifo(base / "model.safetensors")  # nobody writes it: whoever reads it never comes back
    words = ("--model", str(base), "--port", "0", "--data-dir", str(tmp_path / "data"))
    with subprocess.Popen(
        [*LORADOCK, "serve", *words], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr and any("loading" in line for line in server.stderr)
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=20) == -signal.SIGINT
        finally:
            server.kill()


@pytest.mark.contract("C7")
async def test_c7_stock_clients_see_services_and_health(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path) as served:
        address = served.server.address
        names = await asyncio.to_thread(services_by_reflection, address)
        ours = {"RegistryService", "AliasService", "EvaluationService", "InferenceService"}
        assert {f"loradock.v1.{name}" for name in ours} <= names
        health = health_pb2_grpc.HealthStub(served.channel)
        for name in ("", *(n for n in names if n.startswith("loradock."))):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, name


def services_by_reflection(address):
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        names = set(database.get_services())
        found = database.FindFileContainingSymbol("loradock.v1.InferenceService")
        assert found.package == "loradock.v1"
    return names


async def test_another_base_of_the_same_name_is_refused(tiny_base, other_tiny_base, tmp_path):
    async with running(tiny_base, tmp_path):
        pass
    with pytest.raises(StartRefused, match="--model-name"):
        async with running(other_tiny_base, tmp_path):
            pass


async def test_the_same_base_by_another_name_is_refused_by_the_name_it_has(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path):
        pass
    with pytest.raises(StartRefused, match="by another name, 'tiny'.*--model-name tiny$"):
        async with running(tiny_base, tmp_path, model_name="other"):
            pass


async def test_registry_alone_needs_no_model(tmp_path):
    async with running("", tmp_path, roles="registry", model="") as served:
        from loradock.v1 import registry_service_pb2

        request = registry_service_pb2.ListAdaptersRequest(parent="projects/default")
        await served.registry.ListAdapters(request, timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.look()
        assert reason_of(caught.value) == "NO_ENGINE"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.ask(None)
        assert reason_of(caught.value) == "NO_ENGINE"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.channel.unary_unary("no path", bytes, bytes)(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_what_has_no_registry_says_so_to_whoever_asks_for_one(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path):  # which makes the base known
        pass
    async with (
        running(tiny_base, tmp_path, roles="inference") as served,
        AsyncClient(served.server.address) as client,
    ):
        assert (await client.generate("hello", base=True, max_tokens=2)).text
        for ask in (
            lambda: client.adapters.get("triage"),
            lambda: client.admin.diagnose(),
            lambda: anext(client.admin.verify()),
        ):
            with pytest.raises(PreconditionFailed, match="has no registry") as caught:
                await ask()
            assert caught.value.reason == "NO_REGISTRY"


async def test_token_opens_the_door_and_nothing_else_does(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path, token="right") as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.ask(None)
        assert reason_of(caught.value) == "UNAUTHENTICATED"
        await served.ask(None, metadata=(("authorization", "Bearer right"),))
        health = health_pb2_grpc.HealthStub(served.channel)
        await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
