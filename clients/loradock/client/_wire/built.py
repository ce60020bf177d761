"""The one way in which messages are made of what callers give."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from loradock.client._errors import InvalidRequest

P = ParamSpec("P")
MessageT = TypeVar("MessageT")

# What a part of a request is called, where the names of its fields alone tell too little.
PARTS = {"Sampling": "sampling", "Prompt": "prompt", "Message": "prompt", "Decoding": "decoding"}


def built(kind: Callable[P, MessageT], *args: P.args, **kwargs: P.kwargs) -> MessageT:
    """Make a message; a number out of range or text that is no UTF-8 raises InvalidRequest."""
    try:
        return kind(*args, **kwargs)
    except (ValueError, OverflowError) as error:
        part, field = PARTS.get(getattr(kind, "__name__", "")), _culprit(kind, kwargs)
        raise unfit(f"{part}.{field}" if part and field else part or field, error) from None


def unfit(field: str, error: Exception) -> InvalidRequest:
    """Say that a field can't hold what it was given."""
    what = field or "the request"
    if isinstance(error, UnicodeError):
        message = f"{what} is not UTF-8: it has half of a surrogate pair"
    else:
        message = f"{what}: {error}"
    return InvalidRequest(
        message, reason="INVALID_FIELD", metadata={"field": field} if field else {}
    )


def _culprit(kind: Callable[..., object], fields: dict[str, object]) -> str:
    """Find the field that is refused also when it comes alone."""
    for name, value in fields.items():
        try:
            kind(**{name: value})
        except (ValueError, OverflowError):
            return name
    return ""
