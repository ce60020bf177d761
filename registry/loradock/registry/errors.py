"""What the registry refuses, and why.

RegistryError
├── InvalidName            a project, adapter, alias, base name or reference breaks the grammar
├── InvalidArgument        a field's value can't be used
├── NotFound               adapter, version, alias, base, blob or evaluation; also another project's
├── AlreadyExists          a name is taken by something different
├── StaleGeneration        compare-and-set lost: somebody moved the alias first
├── Immutable              a READY version can't change
├── VersionYanked          the version is not resolvable any more
├── StillReferenced        something points there; the referrers are listed
├── AliasProtected         only a role of its own may move the alias
├── NothingToRollBack      the alias's ledger has no earlier entry
├── EvalGateFailed         a version does not meet an alias's policy; every metric is listed
├── RolloutRunning         an alias has a rollout already
├── RolloutEnded           the rollout can't be steered any more
├── RequestReused          a request id came again with another payload
├── NotAdmitted            the upload can't be served; every problem is listed
│   └── BaseMismatch       it was made for another base
├── DigestMismatch         bytes do not hash to what was promised
├── UploadOffset           an upload can't go on from where it wants to
├── UploadTooLarge         over a limit, which is named
├── DiskFull               there is no room where catalog, blobs or uploads are kept
├── CatalogUnavailable     the database does not answer
├── StoreUnavailable       the object store does not answer
└── UnknownSchema          the database's schema is not the one this release knows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loradock.registry.policy import GateCheck


class RegistryError(Exception):
    """Base of all; `except RegistryError` catches whatever the registry refuses."""


class InvalidName(RegistryError):
    """A name breaks the grammar."""

    def __init__(self, kind: str, name: str, rule: str) -> None:
        self.kind, self.name, self.rule = kind, name, rule
        super().__init__(f"{name!r} is no {kind} name: {rule}")


class InvalidArgument(RegistryError):
    """A field's value can't be used."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}")


class NotFound(RegistryError):
    """Nothing of that name is here (or it is another project's, which is the same to you)."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        super().__init__(f"no {kind} {name!r}")


class AlreadyExists(RegistryError):
    """The name is taken by something different."""

    def __init__(self, kind: str, name: str, message: str = "") -> None:
        self.kind, self.name = kind, name
        super().__init__(message or f"{kind} {name!r} exists already and differs")


class StaleGeneration(RegistryError):
    """Somebody moved the alias first: read it again, decide again."""

    def __init__(self, name: str, expected: int, actual: int, kind: str = "alias") -> None:
        self.alias, self.expected, self.actual = name, expected, actual
        super().__init__(
            f"{kind} {name!r} is at generation {actual}, not {expected}: read it again and retry"
        )


class Immutable(RegistryError):
    """A READY version can't change; publish a new one."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} can't change; publish a new version instead")


class VersionYanked(RegistryError):
    """The version is auditable, but not resolvable."""

    def __init__(self, version: str, reason: str) -> None:
        self.version, self.reason = version, reason
        super().__init__(f"{version} was yanked: {reason}")


class StillReferenced(RegistryError):
    """A version can't go while something points at it."""

    def __init__(self, what: str, referrers: Sequence[str]) -> None:
        self.what, self.referrers = what, tuple(referrers)
        super().__init__(f"{what} is still referred to by {', '.join(referrers)}")


class AliasProtected(RegistryError):
    """Who may move other aliases may not move this one."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        super().__init__(
            f"alias {alias!r} is protected by its policy: only who may set policies may move it"
        )


class NothingToRollBack(RegistryError):
    """The alias's ledger has no earlier entry."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        super().__init__(f"alias {alias!r} has nothing earlier to go back to")


class EvalGateFailed(RegistryError):
    """A version does not meet what an alias demands; every demand is listed, met or not."""

    def __init__(self, version: str, alias: str, checks: Sequence[GateCheck]) -> None:
        self.version, self.alias = version, alias
        self.failures = tuple(check for check in checks if not check.passed)
        self.passed = tuple(check.subject for check in checks if check.passed)
        lines = "; ".join(f"{check.subject} {check.message}" for check in self.failures)
        super().__init__(f"{version} does not meet the policy of {alias}: {lines}")


class RolloutRunning(RegistryError):
    """An alias has a rollout already: one at a time."""

    def __init__(self, alias: str, candidate: str) -> None:
        self.alias, self.candidate = alias, candidate
        super().__init__(
            f"alias {alias!r} has a rollout of {candidate}: promote or abort it before the next"
        )


class RolloutEnded(RegistryError):
    """The rollout can't be steered any more."""

    def __init__(self, alias: str, state: str, reason: str) -> None:
        self.alias, self.state, self.reason = alias, state, reason
        super().__init__(f"the rollout of {alias!r} was {state} already: {reason}")


class RequestReused(RegistryError):
    """A request id came again with another payload."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        super().__init__(f"request id {request_id!r} was used before for a different request")


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason not to admit: what it speaks of, a stable code, and a sentence."""

    subject: str  # a tensor, a config key, a file
    code: str  # UPPER_SNAKE
    message: str


class NotAdmitted(RegistryError):
    """An upload that can't be served, with everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "; ".join(f"{p.subject}: {p.message}" for p in problems)
        super().__init__(f"not admitted: {lines}")


class BaseMismatch(NotAdmitted):
    """The adapter was made for another base."""


class DigestMismatch(RegistryError):
    """Bytes do not hash to what was promised, or are fewer or more."""

    def __init__(self, expected: str, actual: str) -> None:
        self.expected, self.actual = expected, actual
        super().__init__(f"content is {actual}, not {expected} as promised")


class UploadOffset(RegistryError):
    """What a broken upload brought is not here (any more): ask again where to go on."""

    def __init__(self, offset_bytes: int, committed_bytes: int) -> None:
        self.offset_bytes, self.committed_bytes = offset_bytes, committed_bytes
        super().__init__(
            f"the upload can't go on at byte {offset_bytes}: {committed_bytes} are here, or "
            "another upload of the same bytes is writing"
        )


class UploadTooLarge(RegistryError):
    """Over a limit."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        self.what, self.size_bytes, self.limit_bytes = what, size_bytes, limit_bytes
        super().__init__(f"{what} has {size_bytes} bytes; the limit is {limit_bytes}")


class DiskFull(RegistryError):
    """There is no room; what was kept before is as it was."""

    def __init__(self, where: str, reason: str) -> None:
        self.where, self.cause = where, reason
        super().__init__(f"no room is left for {where} ({reason}); nothing was changed")


class CatalogUnavailable(RegistryError):
    """The database does not answer; nothing was changed."""


class StoreUnavailable(RegistryError):
    """The object store does not answer."""


class UnknownSchema(RegistryError):
    """The database's schema is not the one this release knows."""

    def __init__(self, found: str | None, known: str) -> None:
        self.found, self.known = found, known
        super().__init__(
            f"the catalog's schema is {found or 'empty'}, this release knows {known}: "
            "run `loradock migrate`"
        )
