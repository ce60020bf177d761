"""A catalog as lines of JSON: every row of one moment, for either engine.

The first line says of which schema the rows are, the last one how many they are and what the lines
before hash to: so a dump that was cut or edited is told from a whole one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Column, Connection, Table, select

from loradock.registry.catalog.tables import metadata
from loradock.registry.catalog.types import Moment, microseconds
from loradock.registry.errors import InvalidArgument
from loradock.registry.stores.disk import disk_errors

SCHEMA = "loradock.backup.v1"
LEFT_OUT = {"heartbeats"}  # what servers said of themselves a moment ago
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AT_ONCE = 500

Row = dict[str, Any]


class Dump:
    """A whole dump in a file. Reading it checks it to its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = _checked(path)
        head = next(lines, {})
        if head.get("schema") != SCHEMA:
            raise InvalidArgument("backup", f"{path.name} is no catalog of a backup")
        self.revision = str(head["revision"])
        self.made_at = str(head["made_at"])
        for _ in lines:
            pass  # to the end, whose hash has to be right

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Give every row with the name of its table, in an order that foreign keys allow."""
        for line in _lines(self.path):
            if "table" in line:
                yield line["table"], line["row"]

    def batches(self) -> Iterator[tuple[str, list[Row]]]:
        """Give the rows in runs of one table and some hundreds."""
        name, batch = "", list[Row]()
        for table, row in self.rows():
            if batch and (table != name or len(batch) == _AT_ONCE):
                yield name, batch
                batch = []
            name = table
            batch.append(row)
        if batch:
            yield name, batch


def write_dump(c: Connection, file: BinaryIO, revision: str) -> int:
    """Write all rows that a connection sees; give their number."""
    sha256, count = hashlib.sha256(), 0

    def write(line: Mapping[str, object]) -> None:
        content = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        sha256.update(content)
        with disk_errors("the backup"):
            file.write(content)

    write({"schema": SCHEMA, "revision": revision, "made_at": datetime.now(UTC).isoformat()})
    for table in metadata.sorted_tables:
        if table.name not in LEFT_OUT:
            for row in c.execute(_all_rows(table)).yield_per(_AT_ONCE):
                write({"table": table.name, "row": _plain(table, row)})
                count += 1
    write({"num_rows": count, "sha256": sha256.hexdigest()})
    return count


def values_of(table: Table, rows: Sequence[Row]) -> list[Row]:
    """Give rows as a table takes them; InvalidArgument for columns that it does not have."""
    for name in rows[0]:
        if name not in table.columns:
            raise InvalidArgument("backup", f"has a column {table.name}.{name}, unknown here")
    moments = [name for name in rows[0] if isinstance(table.columns[name].type, Moment)]
    return [{**row, **{name: _moment(row[name]) for name in moments}} for row in rows]


def _all_rows(table: Table) -> Any:  # noqa: ANN401 - a select
    return select(table).order_by(*table.primary_key.columns)


def _plain(table: Table, row: Any) -> Row:  # noqa: ANN401 - a row
    return {column.name: _value(column, row._mapping[column.name]) for column in table.columns}


def _value(column: Column[Any], value: object) -> object:
    return microseconds(value) if isinstance(value, datetime) else value


def _moment(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + timedelta(microseconds=value)


def _checked(path: Path) -> Iterator[Row]:
    """Give the lines; InvalidArgument unless the last one tells of all before it."""
    sha256, count, end = hashlib.sha256(), 0, None
    with disk_errors("the backup"), path.open("rb") as file:
        for content in file:
            if end is not None:
                raise InvalidArgument("backup", f"{path.name} goes on behind its end")
            line = _parsed(path, content)
            if "num_rows" in line:
                end = line
                continue
            sha256.update(content)
            count += "table" in line
            yield line
    if end is None or (end["num_rows"], end["sha256"]) != (count, sha256.hexdigest()):
        raise InvalidArgument("backup", f"{path.name} is not whole: it was cut or changed")


def _lines(path: Path) -> Iterator[Row]:
    with disk_errors("the backup"), path.open("rb") as file:
        for content in file:
            yield _parsed(path, content)


def _parsed(path: Path, content: bytes) -> Row:
    try:
        line = json.loads(content)
    except ValueError:
        line = None
    if not isinstance(line, dict):
        raise InvalidArgument("backup", f"{path.name} is no catalog of a backup")
    return line
