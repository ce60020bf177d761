"""What tests of commands share: an adapter's profile, and what JSON has to look like."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from loradock import client as sdk

PROFILE = {
    "template": "Sort: {{ content }}",
    "labels": ["billing", "bug"],
    "decoding": {"max_tokens": 6, "temperature": 0},
}


def assert_has_fields(value: dict[str, Any], kind: Any) -> None:
    """Hold a JSON value against the documented type, all the way down."""
    assert set(value) == {field.name for field in dataclasses.fields(kind)}
    for field in dataclasses.fields(kind):
        inner = re.search(r"[A-Z]\w+", str(field.type))
        inner_kind = getattr(sdk, inner.group(), None) if inner else None
        held = value[field.name]
        if inner_kind is None or not dataclasses.is_dataclass(inner_kind) or held is None:
            continue
        items = held if isinstance(held, list) else [held]
        items = list(held.values()) if "Mapping" in str(field.type) else items
        for item in items:
            assert_has_fields(item, inner_kind)
