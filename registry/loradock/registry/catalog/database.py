"""Transactions on SQLite and PostgreSQL.

A write is a function of a connection: it runs in a transaction of its own, and, if another writer
was in the way, again in a fresh one. Whatever the driver raises leaves here as a RegistryError.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.engine import URL

from loradock.registry.catalog.postgresql import postgresql_engine, unhurried
from loradock.registry.errors import CatalogUnavailable, DiskFull, Immutable, InvalidArgument

T = TypeVar("T")
Work = Callable[[Connection], T]

_ATTEMPTS = 6
_BUSY_TIMEOUT_MS = 10_000
_GIVE_UP_S = 20.0  # on other writers: before most callers would
_IMMUTABLE = "loradock:immutable "  # what the triggers' messages begin with
_RETRYABLE_STATES = {"40001", "40P01"}  # serialization failure, deadlock
_DISK_FULL = "53100"
_WRITE = "loradock_write"
_log = logging.getLogger(__name__)


class Database:
    """One catalog's connections. Safe to share between threads, not across a fork."""

    def __init__(self, url: str) -> None:
        parsed = read_url(url)
        self._sqlite = parsed.get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(parsed) if self._sqlite else postgresql_engine(parsed)
        self.path = Path(parsed.database or "") if self._sqlite else None
        self._writing = self.engine.execution_options(**{_WRITE: True})
        # SQLite's own wait for the writer's place is unfair; within a process we queue up first.
        self._turn = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call after each committed write that others may care for."""
        self._callbacks.append(callback)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Lend a connection to read with."""
        with _busy_is_unavailable(), _translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Lend a connection that sees one moment, for as long as it reads."""
        with _busy_is_unavailable(), _translated(), self.engine.connect() as connection:
            if self._sqlite:  # which does so anyway
                yield connection
                return
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with unhurried(connection):
                yield connection

    def write(self, work: Work[T], *, nudge: bool = True) -> T:
        """Do the work in a transaction, all of it or nothing."""
        result = self._attempt(lambda: self._transact(work))
        if nudge:
            self._nudge()
        return result

    def rehearse(self, work: Work[T]) -> T:
        """Do the work, tell what came of it, and leave everything as it was."""

        def undone(connection: Connection) -> T:
            savepoint = connection.begin_nested()
            result = work(connection)
            savepoint.rollback()
            return result

        return self._attempt(lambda: self._transact(undone))

    def use_write_ahead_log(self) -> None:
        """Let a SQLite file's readers and its writer not wait for each other."""
        with _translated():
            connection = self.engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA journal_mode=WAL").close()
            except sqlite3.DatabaseError as error:
                raise CatalogUnavailable(f"the catalog does not answer: {error}") from error
            finally:
                connection.close()

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    def _transact(self, work: Work[T]) -> T:
        with self._my_turn() if self._sqlite else nullcontext(), self._writing.begin() as c:
            return work(c)

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=_GIVE_UP_S):
            raise CatalogUnavailable("too many writers wait before this one")
        try:
            yield
        finally:
            self._turn.release()

    def _attempt(self, transact: Callable[[], T]) -> T:
        give_up_at = time.monotonic() + _GIVE_UP_S
        for attempt in range(_ATTEMPTS):
            try:
                with _translated():
                    return transact()
            except _Retry as retry:
                last, num_tries = retry, attempt + 1
                if time.monotonic() >= give_up_at:
                    break
                time.sleep(random.uniform(0, 0.02 * 2**attempt))
        if isinstance(last.error, exc.IntegrityError):
            raise last.error  # a bug, not weather
        raise CatalogUnavailable(f"other writers were in the way {num_tries} times") from last.error

    def _nudge(self) -> None:
        for callback in self._callbacks:
            try:
                callback()
            except Exception:  # the write is done; a listener's bug must not undo the answer
                _log.exception("on_commit callback failed")


class _Retry(Exception):
    """Another writer was in the way; a fresh transaction may succeed."""

    def __init__(self, error: exc.DBAPIError) -> None:
        self.error = error
        super().__init__(str(error))


def read_url(url: str) -> URL:
    """`sqlite:////path/file.db` or `postgresql://…`, which means psycopg 3."""
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        raise InvalidArgument("database_url", "is not a database URL") from None
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise InvalidArgument("database_url", "is neither sqlite:////path/file.db nor postgresql://…")


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, pool_size=8, max_overflow=24, pool_timeout=30)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in (
            f"busy_timeout={_BUSY_TIMEOUT_MS}",
            "foreign_keys=ON",
            "synchronous=NORMAL",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A read that turned into a write could fail although the busy timeout is set.
        writes = connection.get_execution_options().get(_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextmanager
def _busy_is_unavailable() -> Iterator[None]:
    """Tell a reader so: it is not tried again here, for it may have read a part already."""
    try:
        yield
    except _Retry as busy:
        raise CatalogUnavailable(f"the catalog is busy: {busy}") from busy


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as error:
        raise _translate(error) from error
    except (exc.TimeoutError, exc.DisconnectionError) as error:
        raise CatalogUnavailable(f"no connection to the catalog: {error}") from error


def _translate(error: exc.DBAPIError) -> Exception:
    message = str(error.orig)
    if _IMMUTABLE in message:
        return Immutable(message.split(_IMMUTABLE, 1)[1].splitlines()[0])
    if isinstance(error, exc.IntegrityError) or _is_conflict(error, message):
        return _Retry(error)
    if _is_full(error):
        return DiskFull("the catalog", message.strip())
    if isinstance(error, exc.ProgrammingError | exc.DataError) and error.statement is not None:
        return error  # a bug, not weather: a statement of ours is wrong, not the connection
    return CatalogUnavailable(f"the catalog does not answer: {message.strip()}")


def _is_full(error: exc.DBAPIError) -> bool:
    """Whether the disk, or a quota on it, is at its end."""
    state = getattr(error.orig, "sqlstate", None)
    return state == _DISK_FULL or getattr(error.orig, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


def _is_conflict(error: exc.DBAPIError, message: str) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return state in _RETRYABLE_STATES or "database is locked" in message
