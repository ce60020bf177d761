"""Column types that mean the same on both engines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Dialect, Row, Table, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeDecorator

from loradock.registry.manifest import canonical_json

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """A time in UTC, kept as microseconds since 1970: exact, ordered, without time zone lore."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + value * _MICROSECOND


class Json(TypeDecorator[object]):
    """Canonical JSON as text, so that triggers can compare it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: object, dialect: Dialect) -> str | None:
        return None if value is None else canonical_json(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> object:
        return None if value is None else json.loads(value)


def microseconds(moment: datetime) -> int:
    """Give a moment as it is kept."""
    return (moment - _EPOCH) // _MICROSECOND


def now() -> datetime:
    """Read the catalog's clock."""
    return datetime.now(UTC)


def upsert(
    connection: Connection, table: Table, row: Mapping[str, object], change: Mapping[str, object]
) -> Row[Any]:
    """Insert a row, or change the one with its key, whatever others do meanwhile; give it."""
    engine = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = engine.insert(table).values(row)
    key = list(table.primary_key.columns)
    statement = statement.on_conflict_do_update(index_elements=key, set_=dict(change))
    return connection.execute(statement.returning(*table.columns)).one()


def insert_new(connection: Connection, table: Table, row: Mapping[str, object]) -> bool:
    """Insert a row unless there is one with its key; tell whether it was inserted."""
    engine = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = engine.insert(table).values(row).on_conflict_do_nothing()
    key = list(table.primary_key.columns)[0]
    return connection.execute(statement.returning(key)).first() is not None
