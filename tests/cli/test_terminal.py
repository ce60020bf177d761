"""What a person sees: tables, bars and questions on a terminal, and nothing of that off it."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from scripted_server import ScriptedServer

from loradock.cli.main import run
from loradock.v1 import alias_service_pb2 as alias_wire
from loradock.v1 import inference_service_pb2 as inference_wire
from loradock.v1 import registry_service_pb2 as wire
from loradock.v1 import resources_pb2
from loradock.v1 import rollout_service_pb2 as rollout_wire
from loradock.v1 import server_service_pb2 as server_wire

LORADOCK = Path(sys.executable).parent / "loradock"
ADAPTERS = wire.ListAdaptersResponse(
    adapters=[
        resources_pb2.Adapter(name=f"projects/default/adapters/{name}", description="d " * 60)
        for name in ("support-triage", "order-extract")
    ]
)
ALIAS = alias_wire.GetAliasResponse(
    alias=resources_pb2.Alias(
        name="projects/default/adapters/a/aliases/p", version_number=2, etag="5"
    )
)


@pytest.fixture
def terminal(scripted):
    """Run a command on a terminal of its own; give what it showed and its exit code."""

    def run_there(*words, typed="", **environment):
        outer, inner = pty.openpty()
        os.write(outer, typed.encode())
        with subprocess.Popen(
            [LORADOCK, "--address", scripted.address, *words],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "80"} | environment,
        ) as process:
            os.close(inner)
            shown = _all_of(outer)
            code = process.wait(timeout=30)
        os.close(outer)
        return shown, code

    return run_there


def _all_of(descriptor):
    shown = b""
    while True:
        try:
            piece = os.read(descriptor, 4096)
        except OSError:  # the other end is closed
            return shown.decode()
        if not piece:
            return shown.decode()
        shown += piece


def test_tables_on_a_terminal(terminal, scripted):
    scripted.answer("ListAdapters", ADAPTERS)
    shown, code = terminal("adapter", "list")
    assert code == 0
    assert "\x1b[1m" in shown  # a bold header
    assert "support-triage" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert all(len(line) <= 80 for line in plain.splitlines())


def test_no_color(terminal, scripted):
    scripted.answer("ListAdapters", ADAPTERS)
    shown, _ = terminal("adapter", "list", NO_COLOR="1")
    assert "\x1b[3" not in shown


@pytest.mark.contract("C5")
def test_c5_plain_off_a_terminal(capfd, scripted):
    scripted.answer("ListAdapters", ADAPTERS)
    assert run(["--address", scripted.address, "adapter", "list"]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert out.splitlines()[1].startswith("support-triage")


@pytest.mark.parametrize(("typed", "code", "deleted"), [("y\n", 0, 1), ("n\n", 1, 0)])
def test_what_destroys_asks_on_a_terminal(terminal, scripted, typed, code, deleted):
    scripted.answer("GetAlias", ALIAS)
    shown, ended = terminal("alias", "delete", "a:p", typed=typed)
    assert "Delete the alias a:p, which points to @2?" in shown
    assert ended == code
    assert len(scripted.received("DeleteAlias")) == deleted


def test_a_server_that_is_drained_to_end_is_told_as_drained(capfd, scripted):
    scripted.answer("GetServer", server_wire.GetServerResponse())
    scripted.answer("DrainServer", server_wire.DrainServerResponse())
    assert run(["--address", scripted.address, "server", "drain", "--exit", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["drained"]


@pytest.mark.contract("C5")
def test_c5_nothing_is_asked_off_a_terminal(capfd, scripted):
    scripted.answer("GetAlias", ALIAS)
    assert run(["--address", scripted.address, "alias", "delete", "a:p"]) == 2
    assert "--yes" in capfd.readouterr().err
    assert not scripted.received("DeleteAlias")
    scripted.answer("GetAlias", ALIAS)
    assert run(["--address", scripted.address, "alias", "delete", "a:p", "--yes"]) == 0
    (call,) = scripted.received("DeleteAlias")
    assert alias_wire.DeleteAliasRequest.FromString(call.requests[0]).etag == "5"


def test_uploads_show_a_bar_on_a_terminal(terminal, scripted, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x" * 1000)
    shown, code = terminal("adapter", "push", "a", str(tmp_path), "--base", "b")
    assert code == 0
    assert "adapter_model.safetensors" in shown and "1.0/1.0 kB" in shown


def generating(started):
    def answer(request, context):
        head = inference_wire.StreamHead(answerer=inference_wire.Answerer(adapter="a"))
        yield inference_wire.StreamGenerateResponse(head=head).SerializeToString()
        word = inference_wire.StreamDelta(text="word ")
        delta = inference_wire.StreamGenerateResponse(delta=word).SerializeToString()
        yield delta
        started.set()
        while context.is_active():
            yield delta

    return answer


@pytest.mark.contract("C5")
def test_c5_interrupted_is_130(scripted):
    scripted.answer("StreamGenerate", generating(scripted.ended))
    command = [LORADOCK, "--address", scripted.address, "generate", "--adapter", "a", "hi"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            assert scripted.ended.wait(20)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in told


def test_a_closed_pipe_is_no_drama(scripted):
    scripted.answer("StreamGenerate", generating(scripted.ended))
    line = f"{LORADOCK} --address {scripted.address} generate --adapter a hi | head -c 10"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == "word word "
    assert "Traceback" not in done.stderr


def looks(*seen):
    """Answer what a server has done so far, once each, and then refuse."""
    for steps, tokens, hits in seen:
        place = server_wire.Residency(
            version="projects/default/adapters/a/versions/2",
            state=server_wire.RESIDENCY_STATE_RESIDENT,
            num_hits=hits,
            num_output_tokens=tokens // 2,
            num_leases=3,
        )
        yield server_wire.GetServerResponse(
            server=server_wire.Server(server_id="one", residencies=[place]),
            engine_use=server_wire.EngineUse(
                num_steps=steps, num_step_tokens=tokens, num_blocks=64, num_used_blocks=5
            ),
            degraded=["the catalog does not answer"],
        )
    yield ScriptedServer.refuse(grpc.StatusCode.PERMISSION_DENIED)


TOP = ("server", "top", "--interval", "0.1")


def test_top_is_shown_again_and_again_on_a_terminal(terminal, scripted):
    scripted.answer("GetServer", *looks((0, 0, 0), (10, 80, 4), (10, 80, 4)))
    shown, code = terminal(*TOP)
    assert code == 4
    assert shown.count("REQUESTS/S") >= 2
    assert "0 steps/s, 0 tokens/s" in shown, "it was idle at last"
    assert "5 of 64 blocks used" in shown and "the catalog does not answer" in shown


@pytest.mark.contract("C5")
def test_c5_top_is_a_document_a_line_or_one(capfd, scripted):
    scripted.answer("GetServer", *looks((5, 50, 1), (15, 130, 5), (15, 130, 5)))
    assert run(["--address", scripted.address, *TOP, "--json"]) == 4
    busy, idle = map(json.loads, capfd.readouterr().out.splitlines())
    (version,) = busy["versions"]
    did = (busy["steps_per_s"], busy["tokens_per_s"], *list(version.values())[-2:])
    assert [count * busy["seconds"] for count in did] == pytest.approx([10, 80, 4, 40])
    assert (idle["steps_per_s"], idle["versions"][0]["tokens_per_s"]) == (0, 0)
    scripted.answer("GetServer", *looks((0, 0, 0), (1, 1, 0)))
    assert run(["--address", scripted.address, *TOP, "--json", "--once"]) == 0
    assert json.loads(capfd.readouterr().out)["status"]["engine_use"]["num_steps"] == 1


@pytest.mark.contract("C5")
def test_c5_top_ends_by_itself_off_a_terminal(capfd, scripted):
    scripted.answer("GetServer", *looks((0, 0, 0), (1, 1, 0)))
    assert run(["--address", scripted.address, *TOP]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert out.splitlines()[-1].split()[:2] == ["a@2", "resident"]
    assert len(scripted.received("GetServer")) == 2


def test_rollout_is_watched_to_its_end(terminal, scripted):
    running = rollout_wire.Rollout(
        name="projects/default/adapters/a/aliases/p/rollout",
        state=rollout_wire.ROLLOUT_STATE_RUNNING,
        incumbent_number=1,
        candidate_number=2,
        stages=[rollout_wire.RolloutStage(weight_basis_points=share) for share in (100, 10_000)],
        arms=[rollout_wire.ArmReport(arm="candidate", num_calls=200, num_errors=1)],
    )
    ended = rollout_wire.Rollout()
    ended.CopyFrom(running)
    ended.state = rollout_wire.ROLLOUT_STATE_PROMOTED
    answers = (rollout_wire.GetRolloutResponse(rollout=each) for each in (running, ended))
    scripted.answer("GetRollout", *answers)
    shown, code = terminal("rollout", "status", "a:p", "--watch")
    assert code == 0
    assert "[1 %]  100 %" in shown
    assert "1 (0.5%)" in shown
    assert "promoted" in shown
