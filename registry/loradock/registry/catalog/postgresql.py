"""Connections to PostgreSQL, and how long each of its answers is waited for."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import Connection, Dialect, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import ConnectionPoolEntry

if TYPE_CHECKING:
    from psycopg.abc import PQGen

T = TypeVar("T")

LOOK_S = 0.1
PATIENCE_S = 35.0  # for a server that says nothing: longer than it lets any statement take itself


class PatientConnection(psycopg.Connection[TupleRow]):
    """A connection that is given up when the other side is silent for too long.

    The kernel finds out that a host is gone. This is for one that takes what it is sent and does
    not answer, as a stopped process or a stuck proxy: it would hold its thread for as long.
    """

    patience_s: float | None = None  # its own, where not all have the same

    def wait(self, gen: PQGen[T], interval: float = LOOK_S, timeout: float | None = None) -> T:
        """Wait as psycopg does, but not for ever."""
        limit = {} if timeout is None else {"timeout": timeout}  # which psycopg 3.2 does not know
        return super().wait(self._impatient(gen), interval, **limit)

    def _impatient(self, gen: PQGen[T]) -> PQGen[T]:
        patience_s = PATIENCE_S if self.patience_s is None else self.patience_s
        heard_at = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard_at = time.monotonic()
                elif time.monotonic() - heard_at > patience_s:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer for {patience_s:g} seconds")
                wanted = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result


def postgresql_engine(url: URL) -> Engine:
    """Make an engine whose every wait has an end."""
    defaults = {
        "connect_timeout": "3",
        "tcp_user_timeout": "10000",
        "keepalives_idle": "10",  # a host that is gone is found out while we wait for its answer
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "options": "-c lock_timeout=20s -c statement_timeout=30s",
        "application_name": "loradock",
    }
    engine = create_engine(
        url.update_query_dict({**defaults, **url.query}),
        pool_size=8,
        max_overflow=8,
        pool_timeout=30,
        pool_pre_ping=True,
    )

    @event.listens_for(engine, "do_connect")
    def connect(
        _dialect: Dialect, _record: ConnectionPoolEntry, where: list[str], how: dict[str, Any]
    ) -> PatientConnection:
        return PatientConnection.connect(*where, **how)

    return engine


@contextmanager
def unhurried(connection: Connection) -> Iterator[None]:
    """Let the statements of a transaction take as long as they take."""
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    driver = connection.connection.driver_connection
    assert isinstance(driver, PatientConnection)
    driver.patience_s = math.inf
    try:
        yield
    finally:
        driver.patience_s = None
