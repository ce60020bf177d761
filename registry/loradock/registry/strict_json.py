"""JSON from outside, taken by the letter: UTF-8, no key twice, neither NaN nor infinity."""

from __future__ import annotations

import json
from typing import Any


def parse_json(content: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Read a document; ValueError, with a sentence on why, for anything else."""
    try:
        return json.loads(
            content.decode(), object_pairs_hook=_without_repeats, parse_constant=_no_constant
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")
