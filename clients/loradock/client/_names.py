"""Resource names and references: how callers write what the wire spells in full."""

from __future__ import annotations

from dataclasses import dataclass

from loradock.client._errors import InvalidRequest

MAX_NUMBER_DIGITS = 18  # far more than any version has; Python itself reads no more than 4300


@dataclass(frozen=True, slots=True)
class Reference:
    """`acme/support-triage:staging`, taken apart. At most one of the last three is set."""

    project: str
    adapter: str
    alias: str | None = None
    number: int | None = None
    digest: str | None = None

    @property
    def text(self) -> str:
        """The reference as the wire wants it, without its project."""
        if self.alias is not None:
            return f"{self.adapter}:{self.alias}"
        if self.number is not None:
            return f"{self.adapter}@{self.number}"
        return self.adapter if self.digest is None else f"{self.adapter}@{self.digest}"


def parse_reference(text: str, project: str) -> Reference:
    """Take a reference apart; `project` is meant where it names none."""
    head, at, pin = text.partition("@")
    project, adapter = split_adapter(head, project)
    if at:
        if pin.startswith("sha256:"):
            return Reference(project, adapter, digest=pin)
        if pin.isdecimal() and pin.isascii() and len(pin) <= MAX_NUMBER_DIGITS:
            return Reference(project, adapter, number=int(pin))
        raise _bad_reference(text)
    adapter, colon, alias = adapter.partition(":")
    if not adapter or (colon and not alias):
        raise _bad_reference(text)
    return Reference(project, adapter, alias=alias or None)


def _bad_reference(text: str) -> InvalidRequest:
    return InvalidRequest(
        f"{text!r} is no reference: write 'adapter', 'adapter:alias', 'adapter@7' or "
        "'adapter@sha256:…', each optionally after 'project/'",
        reason="INVALID_NAME",
        metadata={"name": text},
    )


def split_adapter(name: str, project: str) -> tuple[str, str]:
    """Give project and adapter of `adapter` or `project/adapter`."""
    head, slash, tail = name.partition("/")
    project, adapter = (head, tail) if slash else (project, head)
    if not project or not adapter or "/" in adapter:
        raise InvalidRequest(
            f"{name!r} is no adapter name", reason="INVALID_NAME", metadata={"name": name}
        )
    return project, adapter


def project_name(project: str) -> str:
    """Spell a project."""
    return f"projects/{project}"


def adapter_name(adapter: str, project: str) -> str:
    """Spell an adapter."""
    project, adapter = split_adapter(adapter, project)
    return f"projects/{project}/adapters/{adapter}"


def version_name(adapter: str, number: int, project: str) -> str:
    """Spell a version."""
    return f"{adapter_name(adapter, project)}/versions/{number}"


def alias_name(adapter: str, alias: str, project: str) -> str:
    """Spell an alias."""
    return f"{adapter_name(adapter, project)}/aliases/{alias}"


def rollout_name(adapter: str, alias: str, project: str) -> str:
    """Spell an alias's rollout."""
    return f"{alias_name(adapter, alias, project)}/rollout"


def policy_name(adapter: str, alias: str, project: str) -> str:
    """Spell an alias's policy."""
    return f"{alias_name(adapter, alias, project)}/policy"


def base_name(base: str) -> str:
    """Spell a base, given as its id or as it is spelled."""
    return base if base.startswith("baseModels/") else f"baseModels/{base}"


def part_after(name: str, collection: str) -> str:
    """Give the id that follows `collection` in a resource name; empty if there is none."""
    parts = name.split("/")
    return parts[parts.index(collection) + 1] if collection in parts[:-1] else ""
