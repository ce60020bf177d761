"""Backup beside running publishes, and restore to the same digests (R19)."""

import hashlib
import json
import shutil
import threading
from pathlib import Path

import pytest
from services import make_bucket, postgres_database
from tiny_registry import TinyRegistry, digest

from loradock.registry.backup.backup import back_up
from loradock.registry.backup.dump import Dump
from loradock.registry.backup.folder import catalogs_of
from loradock.registry.backup.restore import restore
from loradock.registry.catalog.database import Database
from loradock.registry.errors import AlreadyExists, InvalidArgument, NotFound, UnknownSchema
from loradock.registry.registry import open_registry
from loradock.registry.resources import Lineage, Metric, Version
from loradock.registry.stores import blob_key, open_store


@pytest.fixture
def places(request, engine, tmp_path):
    """Two places of one kind, a full and an empty one: SQLite and a folder, PostgreSQL and S3."""
    if engine == "sqlite":
        catalogs = [f"sqlite:///{tmp_path}/{name}.db" for name in ("first", "second")]
        yield [(url, f"file://{tmp_path}/blobs-{n}") for n, url in enumerate(catalogs)]
        return
    request.getfixturevalue("s3_credentials")
    endpoint = request.getfixturevalue("moto_endpoint")
    server = request.getfixturevalue("postgres_server")
    with postgres_database(server) as first, postgres_database(server) as second:
        yield [(first, make_bucket(endpoint)), (second, make_bucket(endpoint))]


def opened(place):
    return TinyRegistry(open_registry(*place, migrate=True))


def saved(place, folder, **options):
    database, store = Database(place[0]), open_store(place[1])
    try:
        return back_up(database, store, folder, **options)
    finally:
        database.close()
        store.close()


def brought_back(place, folder, **options):
    database, store = Database(place[0]), open_store(place[1])
    try:
        return restore(database, store, folder, **options)
    finally:
        database.close()
        store.close()


def fill(tiny):
    parent = tiny.version(seed=0)
    tiny.version(seed=1, lineage=Lineage((parent.digest,)))
    tiny.point(1)
    tiny.point(2, 1)
    tiny.roll_back(2)
    tiny.registry.versions.yank("acme", "triage", 2, reason="leaks", by="ann")
    tiny.registry.evaluations.record(
        "acme",
        suite="heldout",
        dataset_digest=digest("rows"),
        base_name="tiny",
        adapter="triage",
        version_number=1,
        metrics=[Metric("accuracy", 0.1 + 0.2, 10, None, 1.0)],
        by="eva",
    )


def seen(tiny):
    """All that callers see, and the bytes."""
    registry = tiny.registry
    versions = registry.versions.list("acme", "triage", include_yanked=True).items
    return {
        "versions": versions,
        "alias": registry.aliases.get("acme", "triage", "production"),
        "history": registry.aliases.history("acme", "triage", "production").items,
        "evaluations": registry.evaluations.list("acme").items,
        "audit": registry.audit.list("acme").items,
        "head": registry.audit.verify(),
        "bytes": [b"".join(registry.blobs.read("acme", v.delta.weights.digest)) for v in versions],
        "sequence": registry.reader.latest_sequence(),
    }


@pytest.mark.contract("R19")
def test_r19_what_was_backed_up_is_restored_to_the_same_digests(places, tmp_path):
    first = opened(places[0])
    fill(first)
    before = seen(first)
    done = saved(places[0], tmp_path / "backup")
    assert done.damaged == () and done.num_copied == done.num_blobs == 5
    again = saved(places[0], tmp_path / "backup")
    assert (again.num_copied, again.num_blobs) == (0, 5)
    assert catalogs_of(tmp_path / "backup") == [done.catalog, again.catalog]
    first.registry.close()

    restored = brought_back(places[1], tmp_path / "backup")
    assert (restored.num_rows, restored.damaged) == (again.num_rows, ())
    second = TinyRegistry(open_registry(*places[1]))
    assert seen(second) == before
    assert [told.damages for told in second.registry.integrity.verify()][-1] == ()
    assert second.version(seed=5).number == 3, "numbers and keys go on behind what was restored"
    second.point(3, before["alias"].generation)
    assert second.registry.audit.verify((before["head"].head_sequence, before["head"].head_hash))
    with pytest.raises(AlreadyExists, match="the database has a catalog already"):
        brought_back(places[1], tmp_path / "backup")
    second.registry.close()


@pytest.mark.contract("R19")
def test_r19_a_backup_beside_publishes_is_of_one_moment(places, tmp_path):
    first = opened(places[0])
    fill(first)
    stop = threading.Event()
    published: list[Version] = []

    def publish():
        while not stop.is_set():
            published.append(first.version(seed=100 + len(published)))

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        while not published:
            pass
        saved(places[0], tmp_path / "backup")
    finally:
        stop.set()
        publisher.join()
    first.registry.close()
    assert brought_back(places[1], tmp_path / "backup").damaged == ()
    second = TinyRegistry(open_registry(*places[1]))
    known = {v.number for v in second.registry.versions.list("acme", "triage", page_size=500).items}
    assert known == set(range(1, len(known) + 2)) - {2}, "consecutive, but for the yanked one"
    for told in second.registry.integrity.verify():
        assert told.damages == ()
    assert second.registry.audit.verify().breaks == ()
    second.registry.close()


@pytest.mark.contract("R19")
def test_r19_a_backup_goes_from_one_engine_to_the_other(postgres_server, tmp_path):
    embedded = (f"sqlite:///{tmp_path}/a.db", f"file://{tmp_path}/a")
    tiny = opened(embedded)
    fill(tiny)
    before = seen(tiny)
    tiny.registry.close()
    saved(embedded, tmp_path / "backup")
    with postgres_database(postgres_server) as url:
        production = (url, f"file://{tmp_path}/b")
        brought_back(production, tmp_path / "backup")
        moved = TinyRegistry(open_registry(*production))
        assert seen(moved) == before
        moved.registry.close()
        saved(production, tmp_path / "back")
    back = (f"sqlite:///{tmp_path}/c.db", f"file://{tmp_path}/c")
    brought_back(back, tmp_path / "back")
    again = TinyRegistry(open_registry(*back))
    assert seen(again) == before
    again.registry.close()


@pytest.fixture
def backup(sqlite_template, tmp_path):
    """A backup of a small embedded registry."""
    shutil.copy(sqlite_template, tmp_path / "kept.db")
    place = (f"sqlite:///{tmp_path}/kept.db", f"file://{tmp_path}/kept")
    tiny = opened(place)
    fill(tiny)
    tiny.registry.close()
    saved(place, tmp_path / "backup")
    return tmp_path / "backup"


def target(tmp_path):
    return (f"sqlite:///{tmp_path}/target.db", f"file://{tmp_path}/target")


def edited(path: Path, change):
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    change(lines)
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


@pytest.mark.contract("R19")
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda lines: lines.pop(), InvalidArgument),
        (lambda lines: lines.pop(5), InvalidArgument),
        (lambda lines: lines.append({"table": "x", "row": {}}), InvalidArgument),
        (lambda lines: lines[3]["row"].update(created_by="nobody"), InvalidArgument),
        (lambda lines: lines[0].update(schema="other"), InvalidArgument),
        (lambda lines: lines.clear(), InvalidArgument),
    ],
)
def test_r19_a_catalog_that_was_cut_or_changed_is_not_restored(backup, tmp_path, change, kind):
    (catalog,) = catalogs_of(backup)
    edited(catalog, change)
    with pytest.raises(kind):
        brought_back(target(tmp_path), backup)
    assert not (tmp_path / "target.db").exists() or not catalogs_of(tmp_path)


@pytest.mark.contract("R19")
def test_r19_bytes_that_a_backup_lost_are_asked_for_again(backup, tmp_path):
    tiny = TinyRegistry(open_registry(f"sqlite:///{tmp_path}/kept.db", f"file://{tmp_path}/kept"))
    version = tiny.registry.versions.get("acme", "triage", 1)
    tiny.registry.close()
    path = backup / blob_key(version.delta.weights.digest)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert brought_back(target(tmp_path), backup).damaged == (version.delta.weights.digest,)
    back = TinyRegistry(open_registry(*target(tmp_path)))
    assert back.registry.blobs.find_missing("acme", [version.delta.weights])
    assert back.publish(seed=0).version.digest == version.digest
    assert [told.damages for told in back.registry.integrity.verify()][-1] == ()
    back.registry.close()


@pytest.mark.contract("R19")
def test_r19_damage_in_the_store_that_is_restored_to_is_mended(backup, tmp_path):
    shutil.copytree(backup / "blobs", tmp_path / "target" / "blobs")
    for path in (tmp_path / "target" / "blobs").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            path.chmod(0o644)
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert brought_back(target(tmp_path), backup).damaged == ()
    back = TinyRegistry(open_registry(*target(tmp_path)))
    assert [told.damages for told in back.registry.integrity.verify()][-1] == ()
    back.registry.close()


@pytest.mark.contract("R19")
def test_r19_a_later_backup_mends_what_the_folder_lost(backup, tmp_path):
    """What was cut always; a flipped byte, which takes reading everything, if asked to."""
    place = (f"sqlite:///{tmp_path}/kept.db", f"file://{tmp_path}/kept")
    cut, flipped, *_ = paths = sorted(p for p in (backup / "blobs").rglob("*") if p.is_file())
    content = {path: path.read_bytes() for path in paths}
    cut.write_bytes(content[cut][:-1])
    flipped.write_bytes(content[flipped][:-1] + bytes([content[flipped][-1] ^ 1]))
    done = saved(place, backup)
    assert (done.num_copied, done.num_mended, done.damaged) == (1, 1, ())
    assert [path for path in paths if path.read_bytes() != content[path]] == [flipped]
    done = saved(place, backup, verify=True)
    assert (done.num_copied, done.num_mended, done.damaged) == (1, 1, ())
    assert flipped.read_bytes() == content[flipped]
    assert saved(place, backup, verify=True).num_copied == 0


@pytest.mark.contract("R19")
def test_r19_a_folder_takes_the_backups_of_one_catalog(backup, tmp_path):
    kept = (f"sqlite:///{tmp_path}/kept.db", f"file://{tmp_path}/kept")
    other, empty = opened(target(tmp_path)), (f"sqlite:///{tmp_path}/new.db", f"file://{tmp_path}")
    other.registry.close()
    open_registry(*empty, migrate=True).close()
    for place in (target(tmp_path), empty):
        with pytest.raises(AlreadyExists, match="has the backups of another catalog"):
            saved(place, backup)
    assert len(catalogs_of(backup)) == 1
    restored = (f"sqlite:///{tmp_path}/restored.db", f"file://{tmp_path}/restored")
    brought_back(restored, backup)
    for place in (restored, kept):
        assert saved(place, backup).catalog == catalogs_of(backup)[-1]
    saved(empty, tmp_path / "early")
    saved(kept, tmp_path / "early")


@pytest.mark.contract("R19")
def test_r19_damage_is_told_and_the_rest_is_backed_up(backup, tmp_path):
    place = (f"sqlite:///{tmp_path}/kept.db", f"file://{tmp_path}/kept")
    tiny = TinyRegistry(open_registry(*place))
    digests = [v.delta.weights.digest for v in tiny.registry.versions.list("acme", "triage").items]
    tiny.upload(b"loose")
    (tmp_path / "kept" / blob_key(digest(b"loose"))).unlink()
    (tmp_path / "kept" / blob_key(digests[0])).unlink()
    tiny.registry.close()
    assert saved(place, tmp_path / "other").damaged == (digests[0],)
    with pytest.raises(NotFound):
        brought_back(target(tmp_path), tmp_path / "nowhere")


@pytest.mark.contract("R19")
def test_r19_a_backup_of_an_earlier_schema_is_restored_and_brought_up(backup, tmp_path):
    (catalog,) = catalogs_of(backup)
    lines = [json.loads(line) for line in catalog.read_bytes().splitlines()]
    later = {"version_holds", "alias_approvals", "evaluation_items", "rollouts", "alias_splits"}
    later |= {"arm_counts", "duties"}
    kept = [line for line in lines[:-1] if line.get("table") not in later]
    kept[0]["revision"] = "0004"
    for line in kept:
        if line.get("table") == "blobs":
            del line["row"]["damaged_at"]
    content = [json.dumps(line).encode() + b"\n" for line in kept]
    total = hashlib.sha256(b"".join(content)).hexdigest()
    end = {"num_rows": len(kept) - 1, "sha256": total}
    catalog.write_bytes(b"".join(content) + json.dumps(end).encode() + b"\n")
    assert Dump(catalog).revision == "0004"
    brought_back(target(tmp_path), backup)
    back = TinyRegistry(open_registry(*target(tmp_path)))
    assert back.registry.versions.get("acme", "triage", 1).number == 1
    back.registry.close()
    lines[0]["revision"] = "9999"
    later_content = b"".join(json.dumps(line).encode() + b"\n" for line in lines[:-1])
    end = {"num_rows": len(lines) - 2, "sha256": hashlib.sha256(later_content).hexdigest()}
    catalog.write_bytes(later_content + json.dumps(end).encode() + b"\n")
    with pytest.raises(UnknownSchema):
        brought_back(target(tmp_path), backup)
