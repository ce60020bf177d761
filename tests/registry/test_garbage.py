"""Garbage collection: takes what nothing refers to, and never what something does (R10)."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from services import make_bucket
from sqlalchemy import text
from tiny_registry import TinyRegistry, digest

from loradock.registry.errors import (
    Immutable,
    InvalidArgument,
    NotAdmitted,
    NotFound,
    StillReferenced,
    StoreUnavailable,
)
from loradock.registry.garbage import Garbage, GarbageKind
from loradock.registry.registry import open_registry
from loradock.registry.resources import BlobRef, Lineage, VersionState

LONG = 3600.0
SHORT = 0.05  # about as long as a publish takes: holds do end too soon, now and then


def collect(tiny, grace_s=0.0, dry_run=False):
    return list(tiny.registry.garbage.collect("acme", grace_s=grace_s, dry_run=dry_run, by="op"))


def kept_versions(tiny, project="acme"):
    versions = tiny.registry.versions
    for adapter in tiny.registry.adapters.list(project).items:
        listed = versions.list(project, adapter.name, include_yanked=True, page_size=1000)
        yield from listed.items


def assert_whole(tiny, project="acme"):
    """Read every byte of every version that is not deleted."""
    digests = set()
    for version in kept_versions(tiny, project):
        delta = version.delta
        for wanted in (version.digest, delta.weights.digest, delta.config.digest):
            content = b"".join(tiny.registry.blobs.read(project, wanted))
            assert digest(content) == wanted
            digests.add(wanted)
    return digests


def stored(tiny):
    return {found.digest for found in tiny.registry.versions._store.list()}


@pytest.fixture(params=["folder", "moto"])
def anywhere(request, database_url, blob_url):
    """A tiny registry on each engine, with blobs in each store."""
    if request.param == "moto":
        request.getfixturevalue("s3_credentials")
        blob_url = make_bucket(request.getfixturevalue("moto_endpoint"))
    registry = open_registry(database_url, blob_url)
    yield TinyRegistry(registry)
    registry.close()


@pytest.mark.contract("R10")
def test_r10_takes_what_nothing_refers_to_and_says_so_beforehand(anywhere):
    version = anywhere.version()
    other = anywhere.version(seed=1)
    loose = anywhere.upload(b"never published")
    anywhere.registry.versions.delete("acme", "triage", 2, by="ann")
    assert collect(anywhere, LONG, dry_run=True) == collect(anywhere, LONG) == []
    foreseen = collect(anywhere, dry_run=True)
    assert assert_whole(anywhere) | {loose.digest, other.digest} <= stored(anywhere)
    assert collect(anywhere) == foreseen
    gone = {garbage.name: garbage.size_bytes for garbage in foreseen}
    manifest = len(anywhere.registry.versions.manifest(other))
    weights = other.delta.weights
    sizes = {weights.digest: weights.size_bytes, loose.digest: 15, other.digest: manifest}
    assert gone == sizes
    assert stored(anywhere) == assert_whole(anywhere)
    assert anywhere.registry.blobs.find_missing("acme", [loose]) == [loose]
    assert collect(anywhere) == []
    assert version.delta.config == other.delta.config  # so it stayed
    assert anywhere.publish(seed=1).version.number == 3


@pytest.mark.contract("R10")
def test_r10_a_run_is_audited_and_a_dry_one_changes_nothing(lite):
    lite.upload(b"x" * 10)
    before = lite.registry.audit.list("acme").items
    collect(lite, dry_run=True)
    assert lite.registry.audit.list("acme").items == before
    collect(lite)
    event = lite.registry.audit.list("acme").items[0]
    assert (event.action, event.subject) == ("gc.collect", "op")
    assert event.details == {"count": "1", "size_bytes": "10"}
    lite.upload(b"x" * 10)
    lite.upload(b"y" * 10)
    broken_off = lite.registry.garbage.collect("acme", grace_s=0.0, by="op")
    next(broken_off)
    broken_off.close()
    assert lite.registry.audit.list("acme").items[0].details["count"] == "1"


@pytest.mark.contract("R10")
def test_r10_what_was_asked_for_or_sent_lately_is_held(lite):
    old = lite.upload(b"old")
    held = lite.upload(b"asked for again")
    _age(lite, old, held)
    assert lite.registry.blobs.find_missing("acme", [held]) == []
    TinyRegistry(lite.registry, "rival").registry.blobs.find_missing("rival", [old])
    assert [garbage.name for garbage in collect(lite, LONG)] == [old.digest]
    _age(lite, held)
    lite.upload(b"asked for again")
    assert collect(lite, LONG) == []


def _age(tiny, *refs):
    """Let some blobs have been there for long."""
    names = ", ".join(f"'{ref.digest}'" for ref in refs)
    statement = f"UPDATE blobs SET held_at = 1, created_at = 1 WHERE digest IN ({names})"
    tiny.registry.versions._database.write(lambda c: c.execute(text(statement)))


@pytest.mark.contract("R10")
def test_r10_a_claim_to_what_only_others_have_lapses(tiny):
    rival = TinyRegistry(tiny.registry, "rival")
    version = tiny.version()
    weights = b"".join(tiny.registry.blobs.read("acme", version.delta.weights.digest))
    rival.upload(weights)
    claim = Garbage(GarbageKind.POSSESSION, f"rival/{version.delta.weights.digest}", 0)
    assert collect(tiny, LONG) == []
    assert collect(tiny, dry_run=True) == collect(tiny) == [claim]
    with pytest.raises(NotFound):
        tiny.registry.blobs.read("rival", version.delta.weights.digest)
    assert_whole(tiny)


@pytest.mark.contract("R4")
@pytest.mark.contract("R10")
def test_r10_reclaims_uploads_that_never_ended_and_bytes_without_a_row(lite, tmp_path):
    blobs = tmp_path / "lite-blobs"
    ref = BlobRef(digest(b"orphan"), 6)
    path = blobs / "blobs" / "sha256" / ref.digest[7:9] / ref.digest[7:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"orphan")
    (blobs / "blobs" / "sha256" / "notes.txt").write_text("a stranger's")
    (blobs / "staging" / "upload-broken").write_bytes(b"half")
    wanted = [
        Garbage(GarbageKind.ORPHAN, ref.digest, 6),
        Garbage(GarbageKind.UNFINISHED, "staging/upload-broken", 4),
    ]
    assert collect(lite, LONG) == []
    assert collect(lite, dry_run=True) == wanted
    assert collect(lite) == wanted
    assert not path.exists() and list((blobs / "staging").iterdir()) == []
    assert (blobs / "blobs" / "sha256" / "notes.txt").exists()


@pytest.mark.contract("R10")
def test_r10_reclaims_multipart_uploads_that_never_ended(sqlite_template, tmp_path, s3_url):
    shutil.copy(sqlite_template, tmp_path / "catalog.db")
    registry = open_registry(f"sqlite:///{tmp_path}/catalog.db", s3_url)
    tiny = TinyRegistry(registry)
    store: Any = registry.versions._store
    key = store._key(digest(b"huge"))
    store._client.create_multipart_upload(Bucket=store._bucket, Key=key)
    (left,) = store.leftovers(datetime.now(UTC))
    assert list(store.leftovers(left.modified_at)) == []  # moto's is always of 2010
    assert [g.kind for g in collect(tiny, dry_run=True)] == [GarbageKind.UNFINISHED]
    assert [g.kind for g in collect(tiny)] == [GarbageKind.UNFINISHED]
    assert list(store.leftovers(datetime.now(UTC))) == []
    store.discard(left)  # again is harmless
    registry.close()


BEGIN_AND_DIE = """
import os, signal, sys
from pathlib import Path
from loradock.registry.registry import open_registry
from loradock.registry.resources import BlobRef
registry = open_registry(sys.argv[1], sys.argv[2], spool=Path(sys.argv[3]))
writer = registry.blobs.writer("acme", BlobRef(sys.argv[4], 9)).__enter__()
writer.write(b"half")
manifest = registry.versions._store.spool.temporary("manifest")
manifest.write(b"{}")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.contract("R4")
@pytest.mark.contract("R10")
def test_r4_what_a_killed_process_left_on_its_disk_and_in_s3_is_reclaimed(
    sqlite_template, tmp_path, s3_url
):
    """By any process of the host that has the same folder for uploads."""
    shutil.copy(sqlite_template, tmp_path / "catalog.db")
    place = (f"sqlite:///{tmp_path}/catalog.db", s3_url)
    ref = BlobRef(digest(b"half"), 9)
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", BEGIN_AND_DIE, *place, str(tmp_path / "uploads"), ref.digest]
    assert subprocess.run(command, env=env).returncode == -signal.SIGKILL
    registry = open_registry(*place, spool=tmp_path / "uploads")
    store: Any = registry.versions._store
    store._client.put_object(Bucket=store._bucket, Key=f"{store._prefix}probe/killed", Body=b"x")
    tiny = TinyRegistry(registry)
    assert collect(tiny, LONG) == []
    assert registry.blobs.committed("acme", [ref]) == {ref.digest: 4}
    wanted = collect(tiny, dry_run=True)
    assert [garbage.name.split(".")[0] for garbage in wanted] == [
        "staging/manifest",
        f"staging/uploads/acme/{ref.digest[7:]}",
        "probe/killed",
    ]
    assert collect(tiny) == wanted and collect(tiny) == []
    assert registry.blobs.committed("acme", [ref]) == {}
    registry.close()


@pytest.mark.parametrize("grace_s", [-1.0, float("nan"), 1e12])
def test_a_grace_that_is_none_is_refused_before_anything_is_taken(lite, grace_s):
    loose = lite.upload(b"loose")
    with pytest.raises(InvalidArgument):
        lite.registry.garbage.collect("acme", grace_s=grace_s, by="op")
    assert lite.registry.blobs.find_missing("acme", [loose]) == []


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 2), st.integers(0, 5)),
        st.tuples(st.just("child"), st.integers(0, 2), st.integers(0, 5)),
        st.tuples(st.just("delete"), st.integers(0, 2), st.integers(1, 6)),
        st.tuples(st.just("yank"), st.integers(0, 2), st.integers(1, 6)),
        st.tuples(st.just("upload"), st.integers(0, 99), st.just(0)),
        st.tuples(st.just("orphan"), st.integers(0, 99), st.just(0)),
    ),
    min_size=2,
    max_size=12,
)


@pytest.mark.contract("R10")
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(before=OPERATIONS, beside=OPERATIONS)
def test_r10_over_random_graphs_no_reachable_blob_goes(lite, before, beside):
    """And a dry run foretells the run, where nothing else happens."""
    for operation in before:
        _operate(lite, *operation)
    foreseen = collect(lite, dry_run=True)
    assert collect(lite) == foreseen
    assert stored(lite) == assert_whole(lite)

    with ThreadPoolExecutor(1) as pool:  # and with publishes going on beside it
        others = pool.submit(lambda: [_operate(lite, *operation) for operation in beside])
        while not others.done():
            collect(lite, SHORT)
        others.result()
    assert_whole(lite)
    collect(lite)
    assert stored(lite) == assert_whole(lite)


def _operate(tiny, what, i, j):
    adapter = f"adapter-{i}"
    if what == "publish":
        _publish(tiny, adapter, j)
    elif what == "child":
        _publish(tiny, adapter, j, _parents(tiny))
    elif what == "upload":
        _upload(tiny, b"loose %d" % i)
    elif what == "orphan":
        store = tiny.registry.versions._store
        file = store.spool.folder / f"orphan-{i}"
        file.write_bytes(b"orphan %d" % i)
        with suppress(StoreUnavailable):  # a collector without grace may take the file
            store.put(digest(b"orphan %d" % i), file)
    else:
        _move(tiny, what, adapter, j)


def _parents(tiny):
    ready = [v for v in kept_versions(tiny) if v.state is VersionState.READY]
    return Lineage(parents=tuple(v.digest for v in ready[:1]))


def _move(tiny, what, adapter, number):
    versions = tiny.registry.versions
    with suppress(NotFound, Immutable, StillReferenced):
        if what == "delete":
            versions.delete("acme", adapter, number, by="ann")
        else:
            versions.yank("acme", adapter, number, reason="", by="ann")


def _upload(tiny, content):
    """Send bytes as a client does that is told to send them again."""
    for _ in range(200):
        try:
            return tiny.upload(content)
        except StoreUnavailable:
            continue
    raise AssertionError("never got through")


def _publish(tiny, adapter, seed, lineage=None):
    """Publish as a client does: what was collected between upload and publish is sent again."""
    for _ in range(200):
        try:
            return tiny.publish(adapter, seed, lineage=lineage or Lineage())
        except (NotFound, StoreUnavailable):
            continue
        except NotAdmitted as error:
            assert {problem.code for problem in error.problems} == {"PARENT_UNKNOWN"}
            lineage = None  # deleted meanwhile
    raise AssertionError("never got through")


@pytest.mark.contract("R10")
def test_r10_publishers_and_collectors_side_by_side_lose_nothing(anywhere):
    done = threading.Event()

    def collector():
        while not done.is_set():
            collect(anywhere, SHORT)

    def publisher(i):
        return [_publish(anywhere, f"adapter-{i}", seed).version for seed in range(3)]

    with ThreadPoolExecutor(6) as pool:
        collectors = [pool.submit(collector) for _ in range(2)]
        try:
            published = [v for made in pool.map(publisher, range(3)) for v in made]
        finally:
            done.set()
        for ended in collectors:
            ended.result()
    assert len(published) == 9
    assert {v.digest for v in published} <= assert_whole(anywhere)
    collect(anywhere)
    assert stored(anywhere) == assert_whole(anywhere)


@pytest.mark.contract("R10")
def test_r10_an_upload_that_was_collected_too_soon_is_told_to_come_again(lite):
    """The hold was shorter than the upload took: nothing is claimed that isn't there."""
    from loradock.registry import steps

    content = b"slow"
    ref = BlobRef(digest(content), len(content))

    def sweep(step):
        if step == "blob.put":
            assert [garbage.name for garbage in collect(lite)] == [ref.digest]

    steps.on_step = sweep
    try:
        with pytest.raises(StoreUnavailable, match="send it again"):
            lite.upload(content)
    finally:
        steps.on_step = None
    assert lite.registry.blobs.find_missing("acme", [ref]) == [ref]
    assert lite.upload(content) == ref
    assert (
        hashlib.sha256(b"".join(lite.registry.blobs.read("acme", ref.digest))).hexdigest()
        == (ref.digest[7:])
    )


@pytest.mark.contract("R10")
def test_r10_a_manifest_that_was_collected_too_soon_is_put_again(lite):
    from loradock.registry import steps

    delta = lite.delta()
    swept: list[Garbage] = []

    def sweep(step):
        if step == "publish.manifest_put" and not swept:
            swept.extend(collect(lite))
            lite.delta()  # the client's own bytes are sent again; the manifest is the registry's

    steps.on_step = sweep
    try:
        version = lite.publish(delta=delta).version
    finally:
        steps.on_step = None
    assert version.digest in {garbage.name for garbage in swept}
    assert_whole(lite)
