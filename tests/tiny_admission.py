"""Admission of bytes for the tiny base, without a catalog."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from tiny_adapters import adapter_bytes
from tiny_registry import TARGETS, digest, tiny_base

from loradock.registry.admission import Admission
from loradock.registry.limits import Limits
from loradock.registry.resources import BlobRef, Delta, LoraModule

GOOD, GOOD_CONFIG = adapter_bytes(TARGETS)


def admit(
    weights: bytes,
    text: bytes | dict[str, Any],
    limits: Limits = Limits(),  # noqa: B008
    chunk: int = 4096,
) -> tuple[LoraModule, ...]:
    """Give the modules of an adapter, or raise NotAdmitted."""
    text = json.dumps(text).encode() if isinstance(text, dict) else text
    content = {digest(weights): weights, digest(text): text}

    def read(name: str) -> Iterator[bytes]:
        stream = io.BytesIO(content[name])
        return iter(lambda: stream.read(chunk), b"")

    delta = Delta(BlobRef(digest(weights), len(weights)), BlobRef(digest(text), len(text)))
    return Admission(read, limits).admit(tiny_base(), delta, [])
