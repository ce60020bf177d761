"""What is down is told as down, soon, and nothing else is lost."""

import os
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_proxy import FaultProxy
from services import postgres_database
from tiny_registry import TinyRegistry, digest

from loradock.registry.catalog import postgresql
from loradock.registry.catalog.database import Database
from loradock.registry.errors import CatalogUnavailable, StoreUnavailable
from loradock.registry.names import parse_reference
from loradock.registry.registry import open_registry
from loradock.registry.stores import open_store


@pytest.fixture
def deaf_port():
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port():
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _within(seconds, kind, act):
    begun = time.monotonic()
    with pytest.raises(kind):
        act()
    assert time.monotonic() - begun < seconds


def test_no_catalog_is_unavailable_at_once(closed_port, blob_url):
    url = f"postgresql://x@127.0.0.1:{closed_port}/x"
    _within(5, CatalogUnavailable, lambda: open_registry(url, blob_url))


def test_a_catalog_that_can_not_be_connected_as_asked_is_unavailable(closed_port, blob_url):
    """psycopg calls it a programming error; but no statement of ours is wrong."""
    url = f"postgresql://x@127.0.0.1:{closed_port}/x?no_such_option=1"
    _within(5, CatalogUnavailable, lambda: open_registry(url, blob_url))


@pytest.mark.parametrize("way", ["read", "snapshot"])
def test_a_catalog_that_another_process_keeps_is_unavailable(tmp_path, monkeypatch, way):
    monkeypatch.setattr("loradock.registry.catalog.database._BUSY_TIMEOUT_MS", 50)
    database = Database(f"sqlite:///{tmp_path}/catalog.db")
    with sqlite3.connect(tmp_path / "catalog.db", isolation_level=None) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CatalogUnavailable), getattr(database, way)() as connection:
            connection.exec_driver_sql("SELECT * FROM t")
    other.close()
    database.close()


def test_a_writer_gives_up_before_its_caller_does(tmp_path, monkeypatch):
    monkeypatch.setattr("loradock.registry.catalog.database._BUSY_TIMEOUT_MS", 100)
    monkeypatch.setattr("loradock.registry.catalog.database._GIVE_UP_S", 0.15)
    database = Database(f"sqlite:///{tmp_path}/catalog.db")
    with sqlite3.connect(tmp_path / "catalog.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CatalogUnavailable, match="in the way [12] times"):
            database.write(lambda connection: None)
    other.close()
    database.close()


@pytest.fixture
def hanging(postgres_template, postgres_server, blob_url, monkeypatch):
    """A catalog that has been used, and the proxy before it."""
    monkeypatch.setattr(postgresql, "PATIENCE_S", 0.5)
    with (
        postgres_database(postgres_server, postgres_template) as url,
        FaultProxy.of_database(url) as (proxy, url_through_it),
    ):
        registry = open_registry(url_through_it, blob_url)
        registry.reader.latest_sequence()
        yield registry, proxy
        registry.close()


def test_a_catalog_that_hangs_keeps_no_thread_and_no_connection(hanging):
    registry, proxy = hanging
    with ThreadPoolExecutor(4) as threads:
        proxy.hang()
        try:
            calls = [threads.submit(registry.reader.latest_sequence) for _ in range(4)]
            for call in calls:
                with pytest.raises(CatalogUnavailable):
                    call.result(20)
        finally:
            proxy.pass_on()
    assert registry.reader.latest_sequence() == 0


def test_a_snapshot_may_take_its_time(hanging):
    registry, _ = hanging
    database = registry.versions._database
    with database.snapshot() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(1)")
    with pytest.raises(CatalogUnavailable, match="no answer"), database.read() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(1)")


def test_a_silent_catalog_is_unavailable_soon(deaf_port, blob_url):
    url = f"postgresql://x@127.0.0.1:{deaf_port}/x"
    _within(10, CatalogUnavailable, lambda: open_registry(url, blob_url))


def test_a_catalog_that_comes_back_is_used_again(postgres_template, postgres_server, blob_url):
    import psycopg

    with postgres_database(postgres_server, postgres_template) as url:
        registry = open_registry(url, blob_url)
        tiny = TinyRegistry(registry)
        tiny.publish()
        name = url.split("/")[3].split("?")[0]
        kill = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        )
        with psycopg.connect(postgres_server, autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
            admin.execute(kill)
            with pytest.raises(CatalogUnavailable):
                registry.reader.latest_sequence()
            with pytest.raises(CatalogUnavailable):
                tiny.point(1)
            admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
        tiny.point(1)
        assert registry.reader.resolve("acme", parse_reference("triage")).generation == 1
        registry.close()


def test_a_file_that_is_no_catalog_is_unavailable(tmp_path, blob_url):
    (tmp_path / "catalog.db").write_bytes(b"not a database" * 100)
    with pytest.raises(CatalogUnavailable):
        open_registry(f"sqlite:///{tmp_path}/catalog.db", blob_url)
    with pytest.raises(CatalogUnavailable):
        open_registry(f"sqlite:///{tmp_path}", blob_url)


def test_a_failed_write_leaves_nothing_and_callbacks_are_not_called(lite):
    database = lite.registry.versions._database
    called = []
    lite.registry.on_commit(lambda: called.append(1))

    def work(c):
        from loradock.registry.catalog.journal import record_change

        record_change(c, "adapter", "acme", "x", "x")
        raise RuntimeError("half way")

    before = lite.registry.reader.latest_sequence()
    with pytest.raises(RuntimeError):
        database.write(work)
    assert lite.registry.reader.latest_sequence() == before
    assert not called
    lite.publish()
    assert called


def test_a_listener_that_fails_does_not_undo_the_answer(lite, caplog):
    lite.registry.on_commit(lambda: 1 / 0)
    assert lite.publish().created
    assert "on_commit" in caplog.text


def test_no_store_is_unavailable_soon(closed_port, deaf_port, s3_credentials, monkeypatch):
    url = "s3://bucket?endpoint_url=http://127.0.0.1:{}&region=us-east-1"
    store = open_store(url.format(closed_port))
    _within(15, StoreUnavailable, lambda: store.size(digest("x")))
    store.close()


def test_a_folder_that_can_not_be_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable):
        open_store(f"file://{tmp_path}/file/blobs")


def test_database_closes_what_it_opened(lite, tmp_path):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(5):
        database = Database(f"sqlite:///{tmp_path}/lite.db")
        with database.read():
            pass
        database.close()
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after <= before + 1
