"""Pages by key, not by offset: a page costs the same wherever it lies and misses nothing."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select

from loradock.registry.errors import InvalidArgument
from loradock.registry.manifest import canonical_json, digest_bytes
from loradock.registry.names import check_text
from loradock.registry.resources import Page

DEFAULT_SIZE = 50
MAX_SIZE = 1000
T = TypeVar("T")
Key = TypeVar("Key", str, int)
AnyRow = Row[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class PageRequest(Generic[Key]):
    """Which page of which list: the rows after a key, in the list's order."""

    size: int
    after: Key | None
    scope: str


def page_request(
    kind: type[Key], scope: Sequence[object], size: int, token: str
) -> PageRequest[Key]:
    """Read what a caller asks for. A token belongs to one list with one filter."""
    if size < 0:
        raise InvalidArgument("page_size", f"{size} is negative")
    scope_digest = digest_bytes(canonical_json([_plain(part) for part in scope]))[7:23]
    after = _read_token(kind, scope_digest, token) if token else None
    return PageRequest(min(size or DEFAULT_SIZE, MAX_SIZE), after, scope_digest)


def fetch_page(
    connection: Connection,
    query: Select[tuple[object, ...]],
    request: PageRequest[Key],
    column: ColumnElement[Key],
    *,
    newest_first: bool = False,
) -> tuple[Sequence[AnyRow], str]:
    """Fetch a page's rows and the token of the next one. The column is part of the query."""
    if request.after is not None:
        query = query.where(column < request.after if newest_first else column > request.after)
    order = column.desc() if newest_first else column.asc()
    rows = connection.execute(query.order_by(order).limit(request.size + 1)).all()
    if len(rows) <= request.size:
        return rows, ""
    rows = rows[: request.size]
    return rows, _write_token(request.scope, rows[-1]._mapping[column])


def page(rows: Sequence[AnyRow], token: str, read: Callable[[AnyRow], T]) -> Page[T]:
    """Make a page of rows."""
    return Page([read(row) for row in rows], token)


def _write_token(scope: str, key: object) -> str:
    return base64.urlsafe_b64encode(canonical_json([scope, key])).decode().rstrip("=")


def _read_token(kind: type[Key], scope: str, token: str) -> Key:
    try:
        padded = check_text("page_token", token) + "=" * (-len(token) % 4)
        found_scope, key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, RecursionError):
        raise InvalidArgument("page_token", "is not one that was given out") from None
    if type(key) is not kind or (isinstance(key, int) and abs(key) >= 2**63):
        raise InvalidArgument("page_token", "is not one that was given out")
    if found_scope != scope:
        raise InvalidArgument("page_token", "belongs to another list or filter")
    return key


def _plain(part: object) -> object:
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return dataclasses.asdict(part)
    return part
