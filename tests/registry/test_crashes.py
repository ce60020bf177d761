"""SIGKILL at every named step: what is seen afterwards is whole, and the next run completes it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crashing import count_calls, start_rollout, step_rollout
from services import make_bucket
from tiny_registry import TinyRegistry, digest

from loradock.registry.integrity import DamageKind
from loradock.registry.registry import open_registry
from loradock.registry.resources import VersionState

ROOT = Path(__file__).parents[2]
PUBLISH = [  # and which time: weights, config and manifest each go through the blobs' steps
    *(("upload.verified", 1), ("blob.held", 1), ("blob.put", 1), ("upload.recorded", 1)),
    *(("blob.put", 2), ("upload.recorded", 2), ("publish.admitted", 1)),
    *(("publish.manifest_staged", 1), ("blob.held", 3), ("blob.put", 3)),
    *(("publish.manifest_put", 1), ("publish.written", 1), ("publish.committed", 1)),
]
MOVE = [("alias.written", 1), ("alias.committed", 1)]
ROLLOUT = [("rollout.written", 1), ("rollout.committed", 1)]
COLLECT = [("gc.forgotten", 1), ("gc.bytes_gone", 1), ("gc.bytes_gone", 2), ("gc.reclaimed", 1)]


@pytest.fixture(scope="module")
def crasher():
    """A process that does a job and dies at a step; tell how it ended."""
    command = [sys.executable, str(ROOT / "tests" / "crashing.py")]
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdin and process.stdout
        jobs, endings = process.stdin, process.stdout

        def crash(**job):
            print(json.dumps(job), file=jobs, flush=True)
            return int(endings.readline())

        yield crash
        jobs.close()


@pytest.fixture(params=["folder", pytest.param("moto", marks=pytest.mark.prove)])
def store(request):
    return request.param


@pytest.fixture
def place(request, store, database_url, blob_url):
    """Where a registry is, on each engine and (in the full-size proof) with each store."""
    if store == "moto":
        request.getfixturevalue("s3_credentials")
        blob_url = make_bucket(request.getfixturevalue("moto_endpoint"))
    env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {"database_url": database_url, "blob_url": blob_url, "env": env}


@pytest.fixture
def killed(crasher, place):
    """Crash a job at a step; then open the registry again."""
    opened = []

    def kill(do, step, occurrence):
        ended = crasher(do=do, step=step, occurrence=occurrence, **place)
        assert ended == -signal.SIGKILL, f"{step} was never reached {occurrence} times"
        registry = open_registry(place["database_url"], place["blob_url"])
        opened.append(registry)
        return TinyRegistry(registry)

    yield kill
    for registry in opened:
        registry.close()


@pytest.fixture
def prepared(place):
    """A registry with one version, before the crash."""
    registry = open_registry(place["database_url"], place["blob_url"])
    yield TinyRegistry(registry)
    registry.close()


def whole(tiny):
    """Read every version's bytes; give their digests."""
    found = set()
    listed = tiny.registry.versions.list("acme", "triage", include_yanked=True)
    for version in listed.items:
        assert version.state is VersionState.READY
        for part in (version.digest, version.delta.weights.digest, version.delta.config.digest):
            assert digest(b"".join(tiny.registry.blobs.read("acme", part))) == part
            found.add(part)
    return found


def nothing_is_left_over(tiny):
    """Collect, and find the store to hold what versions need, no more; tell how much went."""
    taken = list(tiny.registry.garbage.collect("acme", grace_s=0.0, by="op"))
    store = tiny.registry.versions._store
    assert {found.digest for found in store.list()} == whole(tiny)
    assert list(tiny.registry.garbage.collect("acme", grace_s=0.0, by="op")) == []
    assert sound(tiny)
    return len(taken)


def sound(tiny):
    """Whether neither bytes nor the audit log are damaged."""
    damages = [d.kind for told in tiny.registry.integrity.verify() for d in told.damages]
    broken = tiny.registry.audit.verify().breaks
    return not broken and not {DamageKind.CORRUPT, DamageKind.MISSING} & set(damages)


@pytest.mark.contract("R4")
@pytest.mark.parametrize(("step", "occurrence"), PUBLISH)
def test_r4_a_publish_killed_at_any_step_is_there_or_not_and_can_be_repeated(
    prepared, killed, step, occurrence, record_property
):
    prepared.publish(seed=0)
    tiny = killed("publish", step, occurrence)
    assert sound(tiny)
    numbers = [v.number for v in tiny.registry.versions.list("acme", "triage").items]
    assert numbers == ([2, 1] if step == "publish.committed" else [1])
    whole(tiny)
    again = tiny.publish(seed=1)
    assert (again.version.number, again.created) == (2, numbers == [1])
    record_property("left over after the repetition", nothing_is_left_over(tiny))


@pytest.mark.contract("R4")
@pytest.mark.parametrize(("step", "occurrence"), PUBLISH[1:-1:2])
def test_r4_what_a_killed_publish_left_over_is_collected(
    prepared, killed, step, occurrence, record_property
):
    prepared.publish(seed=0)
    tiny = killed("publish", step, occurrence)
    record_property("things collected", nothing_is_left_over(tiny))
    assert tiny.publish(seed=1).version.number == 2


@pytest.mark.contract("R4")
@pytest.mark.parametrize(("engine", "store"), [("sqlite", "moto")], indirect=True)
@pytest.mark.parametrize(("step", "occurrence"), [("blob.held", 1), ("blob.put", 3)])
def test_r4_what_a_killed_publish_left_in_s3_is_collected(prepared, killed, step, occurrence):
    prepared.publish(seed=0)
    tiny = killed("publish", step, occurrence)
    nothing_is_left_over(tiny)
    assert tiny.publish(seed=1).version.number == 2


@pytest.mark.contract("R6")
@pytest.mark.parametrize(("step", "occurrence"), MOVE)
@pytest.mark.parametrize("do", ["move", "roll_back"])
def test_r6_an_alias_killed_in_its_move_has_moved_or_not(
    prepared, killed, do, step, occurrence, record_property
):
    prepared.publish(seed=0)
    prepared.publish(seed=1)
    prepared.point(1)
    if do == "roll_back":
        prepared.point(2, 1)
    before = 1 if do == "move" else 2
    tiny = killed(do, step, occurrence)
    alias = tiny.registry.aliases.get("acme", "triage", "production")
    assert alias.generation == before + (step == "alias.committed")
    record_property("moved", alias.generation - before)
    history = tiny.registry.aliases.history("acme", "triage", "production").items
    assert [move.generation for move in history] == list(range(alias.generation, 0, -1))
    assert tiny.point(3 - alias.version_number, alias.generation).generation == len(history) + 1
    assert sound(tiny)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("step", "occurrence"), ROLLOUT)
@pytest.mark.parametrize("num_done", range(4), ids=["start", "advance", "promote", "abort"])
def test_rollout_killed_at_any_step_has_done_it_or_not_and_another_process_goes_on(
    prepared, killed, num_done, step, occurrence
):
    """Killed in its first, second or third step, or in an abort after the first."""
    prepared.publish(seed=0)
    prepared.publish(seed=1)
    prepared.point(1)
    if num_done:
        start_rollout(prepared)
    if num_done == 2:
        step_rollout(prepared)
    do = ("start_rollout", "step_rollout", "step_rollout", "abort_rollout")[num_done]
    before = prepared.registry.aliases.get("acme", "triage", "production").generation
    tiny = killed(do, step, occurrence)
    alias = tiny.registry.aliases.get("acme", "triage", "production")
    assert alias.generation == before + (step == "rollout.committed")
    rollouts = tiny.registry.rollouts
    if not rollouts.going_on() and num_done in (0, 3) and alias.split is None:
        assert (num_done, step) in {(0, "rollout.written"), (3, "rollout.committed")}
        start_rollout(tiny, alias.generation)
    other = rollouts.duty("another", lasts_s=60.0)
    give_up_at = time.monotonic() + 10
    while not other.take():
        assert time.monotonic() < give_up_at, "the claim of the killed process never lapsed"
        time.sleep(0.05)
    while going_on := rollouts.going_on():
        count_calls(tiny)
        rollouts.step(going_on[0], other)
    done = tiny.registry.aliases.get("acme", "triage", "production")
    assert (done.version_number, done.split) == (2, None)
    history = tiny.registry.aliases.history("acme", "triage", "production").items
    assert [move.generation for move in history] == list(range(done.generation, 0, -1))
    assert sound(tiny)


@pytest.mark.contract("R9")
@pytest.mark.contract("R10")
@pytest.mark.parametrize(("step", "occurrence"), COLLECT)
def test_r10_a_collection_killed_at_any_step_loses_nothing_and_is_finished(
    prepared, killed, step, occurrence, record_property
):
    prepared.publish(seed=0)
    for number in range(3):
        prepared.upload(b"loose %d" % number)
    prepared.point(1)
    tiny = killed("collect", step, occurrence)
    assert sound(tiny)
    whole(tiny)
    refs = [prepared.upload(b"loose %d" % number) for number in range(3)]
    assert tiny.registry.blobs.find_missing("acme", refs) == []
    for ref in refs:
        assert digest(b"".join(tiny.registry.blobs.read("acme", ref.digest))) == ref.digest
    record_property("things collected by the next run", nothing_is_left_over(tiny))


def test_every_step_that_is_named_is_crashed_at():
    source = "".join(path.read_text() for path in (ROOT / "registry").rglob("*.py"))
    named = set(re.findall(r'\breached\("([^"]+)"\)', source))
    assert named == {step for step, _ in (*PUBLISH, *MOVE, *ROLLOUT, *COLLECT)}
