"""Who calls, and what that one may do. Made once per call, asked by every service method."""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loradock.registry.errors import NotFound
from loradock.server.errors import PermissionDenied, Unauthenticated


class Role(enum.Enum):
    """What a caller may do."""

    VIEW = "view"  # read the registry and the servers' state
    PUBLISH = "publish"  # adapters, versions, blobs, evaluations
    PROMOTE = "promote"  # move aliases, yank and delete
    INFER = "infer"
    OPERATE = "operate"  # bases, load, unload, override


ALL_ROLES = frozenset(Role)


@dataclass(frozen=True, slots=True)
class Principal:
    """One caller's identity."""

    project: str
    subject: str
    roles: frozenset[Role] = field(default=ALL_ROLES)

    def may(self, role: Role) -> bool:
        """Whether the caller has a role."""
        return role in self.roles

    def require(self, role: Role, project: str | None = None) -> None:
        """Refuse a caller without the role; another project's things do not exist for it."""
        if role not in self.roles:
            raise PermissionDenied(role.value)
        if project is not None and project != self.project:
            raise NotFound("project", project)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who may call, by what the token's sha256 is."""

    token_sha256: bytes
    principal: Principal


class Authenticator:
    """Makes a call's principal from its metadata. Without any token everybody is the same one."""

    def __init__(self, token: str | None, project: str, callers: Sequence[Caller] = ()) -> None:
        """Let in who has the token, as one who may do everything, and the callers."""
        self._anonymous = Principal(project=project, subject="anonymous")
        self._callers = list(callers)
        if token is not None:
            whoever_has_it = Principal(project=project, subject="token")
            self._callers.append(Caller(_sha256(token), whoever_has_it))

    def principal(self, metadata: Mapping[str, str]) -> Principal:
        """Identify the caller, or refuse it."""
        if not self._callers:
            return self._anonymous
        scheme, _, given = metadata.get("authorization", "").partition(" ")
        digest = _sha256(given)
        # All are compared, so that the time it takes says nothing.
        found = [c for c in self._callers if hmac.compare_digest(c.token_sha256, digest)]
        if scheme.lower() != "bearer" or not found:
            raise Unauthenticated
        return found[0].principal


def _sha256(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
