"""Who calls, and what that one may do. Made once per call, asked by every service method."""

from __future__ import annotations

import enum
import hmac
from collections.abc import Mapping
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


class Authenticator:
    """Makes a call's principal from its metadata. Without a token everybody is the same one."""

    def __init__(self, token: str | None, project: str) -> None:
        self._token = None if token is None else token.encode()
        subject = "anonymous" if token is None else "token"
        self._principal = Principal(project=project, subject=subject)

    def principal(self, metadata: Mapping[str, str]) -> Principal:
        """Identify the caller, or refuse it."""
        if self._token is None:
            return self._principal
        scheme, _, given = metadata.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._token):
            raise Unauthenticated
        return self._principal
