"""What a registry asks its database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from loradock.registry.registry import Registry


@contextmanager
def counting(registry: Registry) -> Iterator[list[str]]:
    """Collect the statements that are executed meanwhile."""
    engine, statements = registry.versions._database.engine, []

    def seen(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            statements.append(statement)

    event.listen(engine, "before_cursor_execute", seen)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", seen)
