"""An evaluation suite: rows with what is expected of each, and a scorer. Knows no server.

suite.toml: name, rows ("heldout.jsonl" beside it), scorer ("label", "exact" or "json"), mode
("generate" or "classify"), base_template (what the bare base is asked, with {{ content }}), labels
(what is chosen from; without them a version's own, and the base needs them), max_tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradock.cli.refusal import CommandError

MODES = ("generate", "classify")
_CONTENT = re.compile(r"\{\{\s*content\s*\}\}")
_KEYS: dict[str, type] = {
    "name": str,
    "rows": str,
    "scorer": str,
    "mode": str,
    "base_template": str,
    "labels": list,
    "max_tokens": int,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One input, and what is expected of it."""

    input: str
    expected: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one row's answer was worth: right or not, and the share of its fields that are right."""

    is_right: bool
    field_share: float


@dataclass(frozen=True, slots=True)
class Suite:
    """Rows and how answers to them are scored. `dataset_digest` is of the rows' bytes."""

    name: str
    rows: tuple[Row, ...]
    scorer: str
    mode: str
    base_template: str
    labels: tuple[str, ...]
    max_tokens: int | None
    dataset_digest: str

    def prompt(self, row: Row, for_base: bool) -> str:
        """Give what is asked: the base needs the task told, an adapter's template tells it."""
        if not for_base or not self.base_template:
            return row.input
        return _CONTENT.sub(lambda _: row.input, self.base_template)

    def outcome(self, row: Row, answer: str) -> Outcome:
        """Score an answer."""
        return SCORERS[self.scorer](answer, row.expected)


def read_suite(path: Path, limit: int | None = None) -> Suite:
    """Read a suite with its first `limit` rows; tell all that is wrong at once.

    The digest is the rows file's, or with a limit that of the lines that are used.
    """
    if not path.is_file():
        raise CommandError(f"there is no suite file {path}")
    content = _read_toml(path)
    problems = list(_problems(content))
    rows_path = path.parent / str(content.get("rows", "heldout.jsonl"))
    if not rows_path.is_file():
        problems.append(f"there is no rows file {rows_path}")
    if problems:
        raise CommandError(f"{path}: " + "; ".join(problems))
    used = _used_lines(rows_path.read_bytes(), limit)
    return Suite(
        name=content["name"],
        rows=_rows(rows_path, used, is_json=content["scorer"] == "json"),
        scorer=content["scorer"],
        mode=content.get("mode", "generate"),
        base_template=content.get("base_template", ""),
        labels=tuple(content.get("labels", ())),
        max_tokens=content.get("max_tokens"),
        dataset_digest=f"sha256:{hashlib.sha256(b''.join(used)).hexdigest()}",
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} is no TOML file: {error}") from None


def _problems(content: dict[str, Any]) -> list[str]:
    unknown = [
        f"unknown key {key!r}; it may have {', '.join(_KEYS)}"
        for key in content
        if key not in _KEYS
    ]
    wrong = [
        f"{key!r} must be a {kind.__name__}"
        for key, kind in _KEYS.items()
        if key in content and not isinstance(content[key], kind)
    ]
    missing = [f"{key!r} is missing" for key in ("name", "scorer") if key not in content]
    return [*unknown, *wrong, *missing, *_wrong_choices(content)]


def _wrong_choices(content: dict[str, Any]) -> list[str]:
    choices = {"scorer": tuple(SCORERS), "mode": MODES}
    return [
        f"{key!r} must be one of {', '.join(allowed)}"
        for key, allowed in choices.items()
        if key in content and content[key] not in allowed
    ]


def _used_lines(content: bytes, limit: int | None) -> list[bytes]:
    lines = content.splitlines(keepends=True)
    if limit is None:
        return lines
    filled = [place for place, line in enumerate(lines) if line.strip()][:limit]
    return lines[: filled[-1] + 1] if filled else []


def _rows(path: Path, lines: Sequence[bytes], is_json: bool) -> tuple[Row, ...]:
    rows, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(json.loads(line), is_json))
        except (ValueError, KeyError, TypeError):
            what = '{"input": …, "expected": …}' + (", with JSON expected" if is_json else "")
            problems.append(f"line {number} is not {what}")
    if problems or not rows:
        raise CommandError(f"{path}: " + ("; ".join(problems[:10]) or "there are no rows"))
    return tuple(rows)


def _row(content: Any, is_json: bool) -> Row:  # noqa: ANN401 - what a line holds
    given, expected = content["input"], content["expected"]
    if not isinstance(given, str):
        raise TypeError("an input is text")
    return Row(given, json.loads(expected) if is_json and isinstance(expected, str) else expected)


def _score_label(answer: str, expected: Any) -> Outcome:  # noqa: ANN401
    first = answer.strip().splitlines()[0].strip() if answer.strip() else ""
    return _whole(first.casefold() == str(expected).strip().casefold())


def _score_exact(answer: str, expected: Any) -> Outcome:  # noqa: ANN401
    return _whole(answer.strip() == str(expected).strip())


def _score_json(answer: str, expected: Any) -> Outcome:  # noqa: ANN401
    try:
        given = json.loads(answer)
    except (ValueError, RecursionError):
        return _whole(False)
    if not (isinstance(expected, dict) and isinstance(given, dict)) or not expected:
        return _whole(given == expected)
    right = sum(key in given and given[key] == value for key, value in expected.items())
    return Outcome(given == expected, right / len(expected.keys() | given.keys()))


def _whole(is_right: bool) -> Outcome:
    return Outcome(is_right, float(is_right))


SCORERS: dict[str, Callable[[str, Any], Outcome]] = {
    "label": _score_label,
    "exact": _score_exact,
    "json": _score_json,
}
