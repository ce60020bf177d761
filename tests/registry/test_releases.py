"""A schema change is expand-then-contract: releases one apart run side by side (R19)."""

import threading

import pytest
from services import postgres_database
from sqlalchemy import MetaData, delete, insert
from tiny_registry import TinyRegistry

from loradock.registry.backup.dump import Dump, write_dump
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.schema import known_revisions, upgrade
from loradock.registry.manifest import canonical_json
from loradock.registry.registry import open_registry
from loradock.registry.resources import Lineage

REVISIONS = known_revisions()
STEPS = list(zip(REVISIONS, REVISIONS[1:], strict=False))


@pytest.fixture
def empty_url(request, engine, tmp_path):
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
    else:
        with postgres_database(request.getfixturevalue("postgres_server")) as url:
            yield url


def tables_of(database):
    """What the database itself says of its tables."""
    found = MetaData()
    with database.read() as c:
        found.reflect(c)
    return found.tables


@pytest.mark.contract("R19")
@pytest.mark.parametrize(("before", "after"), STEPS)
def test_r19_each_migration_only_adds_what_the_release_before_may_leave_out(
    empty_url, before, after
):
    """So inserts and selects of the release before go on to work, column by column."""
    database = Database(empty_url)
    upgrade(database, before)
    old = tables_of(database)
    upgrade(database, after)
    new = tables_of(database)
    for name, table in old.items():
        assert name in new, f"{after} takes the table {name} away"
        for column in table.columns:
            kept = new[name].columns.get(column.name)
            assert kept is not None, f"{after} takes {name}.{column.name} away"
            assert str(kept.type) == str(column.type)
            assert kept.nullable >= column.nullable, f"{after} demands {name}.{column.name}"
        for column in new[name].columns:
            if column.name not in table.columns:
                may_be_left_out = column.nullable or column.server_default is not None
                assert may_be_left_out, f"{after} demands the new {name}.{column.name}"
    database.close()


def as_the_release_before_writes(table, rows):
    """Leave out what its schema lacks, and write JSON as the text that it is kept as."""
    known = [{name: row[name] for name in row if name in table.columns} for row in rows]
    plain = (dict, list)
    return [
        {
            name: canonical_json(value).decode() if isinstance(value, plain) else value
            for name, value in row.items()
        }
        for row in known
    ]


@pytest.mark.contract("R19")
def test_r19_rows_as_the_release_before_writes_them_are_read_by_this_one(
    tiny, database_url, empty_url, tmp_path
):
    """All that a registry wrote, but for what the schema before the latest did not have."""
    first = tiny.version(seed=0)
    tiny.version(seed=1, lineage=Lineage((first.digest,)))
    tiny.point(1)
    tiny.point(2, 1)
    database = Database(database_url)
    with database.snapshot() as c, (tmp_path / "dump").open("wb") as file:
        write_dump(c, file, REVISIONS[-1])
    database.close()
    target = Database(empty_url)
    upgrade(target, REVISIONS[-2])
    old = tables_of(target)
    upgrade(target)

    def work(c):
        c.execute(delete(old["counters"]))
        for name, rows in Dump(tmp_path / "dump").batches():
            if name in old:
                c.execute(insert(old[name]), as_the_release_before_writes(old[name], rows))

    target.write(work)
    target.close()
    read = TinyRegistry(open_registry(empty_url, f"file://{tmp_path}/blobs"))
    for number in (1, 2):
        kept = read.registry.versions.get("acme", "triage", number)
        assert kept == tiny.registry.versions.get("acme", "triage", number)
    history = read.registry.aliases.history("acme", "triage", "production").items
    assert history == tiny.registry.aliases.history("acme", "triage", "production").items
    assert read.registry.audit.verify() == tiny.registry.audit.verify()
    read.registry.close()


@pytest.mark.contract("R19")
def test_r19_a_running_release_goes_on_while_the_next_one_migrates(database_url, blob_url):
    """The next release's migration adds a table and a column underneath running publishes."""
    tiny = TinyRegistry(open_registry(database_url, blob_url))
    tiny.version(seed=0)
    stop, failures = threading.Event(), []

    def publish():
        seed = 1
        while not stop.is_set():
            try:
                tiny.version(seed=seed)
            except Exception as error:  # told below
                failures.append(error)
            seed += 1

    publisher = threading.Thread(target=publish)
    publisher.start()
    next_release = Database(database_url)
    next_release.write(
        lambda c: [
            c.exec_driver_sql("ALTER TABLE versions ADD COLUMN sponsor TEXT"),
            c.exec_driver_sql("CREATE TABLE sponsors (id INTEGER PRIMARY KEY, name TEXT)"),
            c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"),
        ]
    )
    count = len(tiny.registry.versions.list("acme", "triage", page_size=500).items)
    while len(tiny.registry.versions.list("acme", "triage", page_size=500).items) < count + 2:
        pass
    stop.set()
    publisher.join()
    assert failures == []
    tiny.point(1)
    assert tiny.registry.aliases.get("acme", "triage", "production").version_number == 1
    next_release.close()
    tiny.registry.close()
