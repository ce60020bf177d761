"""What things may be called, and how a caller refers to a version."""

from __future__ import annotations

import re
from dataclasses import dataclass

from loradock.registry.errors import InvalidArgument, InvalidName

DEFAULT_ALIAS = "production"
MAX_NUMBER = 2**31 - 1

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_NAME_RULE = "1 to 63 of a-z, 0-9 and '-', neither first nor last a '-'"
_REFERENCE_RULE = "[project/]adapter, then nothing, ':alias', '@number' or '@sha256:digest'"


def check_name(kind: str, text: str) -> str:
    """Return the name, or raise InvalidName."""
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise InvalidName(kind, text, _NAME_RULE)
    return text


def is_digest(text: str) -> bool:
    """Whether a text is a digest."""
    return _DIGEST.fullmatch(text) is not None


def check_digest(field: str, text: str) -> str:
    """Return the digest, or raise InvalidArgument."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise InvalidArgument(field, f"{text!r:.100} is not 'sha256:' and 64 hex digits")
    return text


def check_text(field: str, text: str, max_chars: int = 1024) -> str:
    """Return the text if a database can hold it: not too long, no NUL, valid Unicode."""
    if len(text) > max_chars:
        raise InvalidArgument(field, f"has {len(text)} characters; the limit is {max_chars}")
    if "\0" in text:
        raise InvalidArgument(field, "has a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(field, "is not valid Unicode") from None
    return text


def check_number(field: str, number: int) -> int:
    """Return a version number or generation that a database can hold."""
    if isinstance(number, bool) or not 0 <= number <= MAX_NUMBER:
        raise InvalidArgument(field, f"{number} is not in 0..{MAX_NUMBER}")
    return number


@dataclass(frozen=True, slots=True)
class Reference:
    """What a caller writes for a version; exactly one of alias, number and digest is set."""

    adapter: str
    project: str | None = None
    alias: str | None = None
    number: int | None = None
    digest: str | None = None

    def __str__(self) -> str:
        prefix = f"{self.project}/" if self.project else ""
        if self.number is not None:
            return f"{prefix}{self.adapter}@{self.number}"
        if self.digest is not None:
            return f"{prefix}{self.adapter}@{self.digest}"
        return f"{prefix}{self.adapter}:{self.alias}"


def parse_reference(text: str) -> Reference:
    """Read `support-triage`, `a:staging`, `a@7`, `a@sha256:…` or `acme/a`."""
    project, slash, rest = text.rpartition("/")
    if slash:
        _part("project", project, text)
    if "@" in rest:
        adapter, _, pin = rest.partition("@")
        return _pinned(_part("adapter", adapter, text), project or None, pin, text)
    adapter, colon, alias = rest.partition(":")
    _part("adapter", adapter, text)
    name = _part("alias", alias, text) if colon else DEFAULT_ALIAS
    return Reference(adapter, project or None, alias=name)


def _pinned(adapter: str, project: str | None, pin: str, text: str) -> Reference:
    if _DIGEST.fullmatch(pin):
        return Reference(adapter, project, digest=pin)
    if _NUMBER.fullmatch(pin) and int(pin) <= MAX_NUMBER:
        return Reference(adapter, project, number=int(pin))
    raise InvalidName("reference", text[:200], _REFERENCE_RULE)


def _part(kind: str, name: str, text: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidName("reference", text[:200], f"{_REFERENCE_RULE}; the {kind} is not a name")
    return name
