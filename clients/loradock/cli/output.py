"""Data on stdout, talk on stderr: tables on a terminal, aligned text off it, JSON if asked for."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from loradock.client import Split

T = TypeVar("T")
_CONTENT = {"text", "label"}  # an answer that is empty is an answer
Columns = Mapping[str, Callable[[T], object]]


def json_of(value: Any) -> Any:  # noqa: ANN401
    """Give a value as JSON has it: fields by name, enums by value, times in ISO 8601.

    A field that is absent is null, also where the SDK has an empty text for it.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            name: None if inner == "" and name not in _CONTENT else json_of(inner)
            for name, inner in held.items()
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): json_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_of(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def print_json(value: object, *, on_one_line: bool = False) -> None:
    """Give one JSON document."""
    indent = None if on_one_line else 2
    print(json.dumps(json_of(value), indent=indent, ensure_ascii=False), flush=True)


def note(text: str) -> None:
    """Talk."""
    print(text, file=sys.stderr)


def show_table(values: Iterable[T], columns: Columns[T], as_json: bool) -> None:
    """Give a list: a row each."""
    listed = list(values)
    if as_json:
        print_json(listed)
        return
    rows = [[text_of(cell(value)) for cell in columns.values()] for value in listed]
    if sys.stdout.isatty():
        _rich_table(list(columns), rows)
    else:
        print_aligned([[title.upper() for title in columns], *rows])


def show_record(value: object, fields: Mapping[str, object], as_json: bool) -> None:
    """Give one thing: a line for each field that is not empty."""
    if as_json:
        print_json(value)
        return
    print_aligned([[f"{name}:", text_of(held)] for name, held in fields.items() if held != ""])


def text_of(value: object) -> str:
    """Give a cell's text."""
    if value is None:
        return "-"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(text_of, value))
    return str(value)


def print_aligned(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, two spaces apart, nothing cut."""
    for line in aligned(rows):
        print(line)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Give rows as lines of text in columns, two spaces apart, nothing cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _rich_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def size_text(size_bytes: int) -> str:
    """Give a size as people say it."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def short_digest(digest: str | None) -> str:
    """Give as much of a digest as tells it apart."""
    return "-" if not digest else digest[: len("sha256:") + 12]


def split_text(split: Split | None) -> str:
    """Give a split as people say it."""
    return "" if split is None else f"{split.percent:g} % to @{split.candidate_number}"
