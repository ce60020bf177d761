"""Migrations: up, down, up; models and migrations agree; a foreign schema is refused."""

import dataclasses
import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy import text
from tiny_evaluations import record
from tiny_registry import TinyRegistry

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.schema import (
    check_schema,
    differences,
    downgrade,
    found_schema,
    known_revisions,
    known_schema,
    upgrade,
)
from loradock.registry.errors import InvalidArgument, UnknownSchema
from loradock.registry.limits import Limits
from loradock.registry.policy import Demands
from loradock.registry.registry import Registry, open_registry
from loradock.registry.resources import ItemScores, Metric
from loradock.registry.stores.folder import FolderBlobStore


@pytest.fixture
def empty_url(engine, request, tmp_path):
    if engine == "sqlite":
        return f"sqlite:///{tmp_path}/deep/er/catalog.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def database(empty_url):
    opened = Database(empty_url)
    yield opened
    opened.close()


@pytest.mark.contract("R15")
def test_r15_up_down_up_and_the_models_agree(database, tmp_path):
    for _ in range(2):
        upgrade(database)
        _fill(database, tmp_path)
        assert found_schema(database) == known_schema()
        assert differences(database) == []
        downgrade(database, "base")
        assert found_schema(database) is None
    upgrade(database)
    upgrade(database)
    check_schema(database)


@pytest.mark.contract("R15")
@pytest.mark.parametrize("revision", known_revisions()[:-1])
def test_r15_a_step_down_and_up_again_keeps_what_was_there_before(database, tmp_path, revision):
    upgrade(database)
    tiny = _fill(database, tmp_path)
    before = _content(tiny)
    downgrade(database, revision)
    assert found_schema(database) == revision
    upgrade(database)
    assert differences(database) == []
    assert _content(tiny) == before
    assert tiny.point(1, 1).generation == 2


def _content(tiny):
    registry = tiny.registry
    return [
        dataclasses.replace(registry.versions.get("acme", "triage", 1), hold=None),
        registry.aliases.history("acme", "triage", "production").items,
        registry.evaluations.list("acme").items,
        registry.audit.list("acme").items,
    ]


def _fill(database, tmp_path):
    tiny = TinyRegistry(Registry(database, FolderBlobStore(tmp_path / "blobs"), Limits()))
    tiny.publish()
    tiny.point(1)
    record(tiny, 1)
    key = ("acme", "triage", "production")
    tiny.registry.policies.set(*key, Demands(), expected_revision=0, by="ann")
    tiny.registry.versions.hold("acme", "triage", 1, reason="evidence", by="ann")
    tiny.registry.approvals.approve(*key, 1, by="bob")
    measured = (Metric("accuracy", 0.5, 2, None, None),)
    items = ItemScores(("1", "2"), {"accuracy": (0.0, 1.0)})
    record(tiny, 1, metrics=measured, items=items)
    return tiny


@pytest.mark.contract("R15")
def test_r15_a_server_refuses_a_schema_it_does_not_know(database, database_url, blob_url):
    other = Database(database_url)
    other.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    other.close()
    for migrate in (False, True):
        with pytest.raises(UnknownSchema) as caught:
            open_registry(database_url, blob_url, migrate=migrate)
        assert caught.value.found == "9999"


@pytest.mark.contract("R15")
def test_r15_an_empty_catalog_is_refused_unless_it_may_be_migrated(tmp_path):
    url, blobs = f"sqlite:///{tmp_path}/catalog.db", f"file://{tmp_path}/blobs"
    with pytest.raises(UnknownSchema) as caught:
        open_registry(url, blobs)
    assert caught.value.found is None
    open_registry(url, blobs, migrate=True).close()
    open_registry(url, blobs).close()
    mode = sqlite3.connect(tmp_path / "catalog.db")
    assert mode.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    mode.close()


@pytest.mark.contract("R15")
def test_r15_processes_that_start_together_migrate_once(empty_url, blob_url):
    code = (
        "import sys; from loradock.registry.registry import open_registry; "
        "open_registry(*sys.argv[1:], migrate=True).close()"
    )
    command = [sys.executable, "-c", code, empty_url, blob_url]
    env = {"PYTHONPATH": ":".join(sys.path)}
    children = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE) for _ in range(3)]
    for child in children:
        _, said = child.communicate()
        assert child.returncode == 0, said.decode()
    open_registry(empty_url, blob_url).close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://x/y", "nonsense"])
def test_a_url_that_is_none_is_told(url, blob_url):
    with pytest.raises(InvalidArgument):
        open_registry(url, blob_url)


def test_sqlite_is_set_up_as_it_must_be(lite):
    with lite.registry.versions._database.read() as c:
        found = [
            c.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        ]
    assert found == ["wal", 1, 1, 10000]
