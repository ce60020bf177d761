"""Approvals: who agrees that a version may become an alias. A ledger; the last word counts."""

from __future__ import annotations

import enum

from sqlalchemy import Connection, func, insert, select

from loradock.registry.catalog import ledger
from loradock.registry.catalog.adapters import adapter_id
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.journal import Deed, record_deed
from loradock.registry.catalog.tables import alias_approvals, aliases, versions
from loradock.registry.catalog.types import now
from loradock.registry.catalog.versions import check_resolvable, row_by_number
from loradock.registry.errors import NotFound
from loradock.registry.limits import Limits
from loradock.registry.names import check_name, check_number, check_text
from loradock.registry.policy import Approval


class _Word(enum.Enum):
    APPROVE = "approve"
    WITHDRAW = "withdraw"


class Approvals:
    """What people say of a version before an alias may point at it."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def approve(
        self, project: str, adapter: str, alias: str, number: int, *, reason: str = "", by: str
    ) -> list[Approval]:
        """Approve of a version for an alias, which need not exist yet; again is anew from now."""
        return self._say(project, adapter, alias, number, _Word.APPROVE, reason, by)

    def withdraw(
        self, project: str, adapter: str, alias: str, number: int, *, reason: str = "", by: str
    ) -> list[Approval]:
        """Take one's own approval back; NotFound if there is none."""
        return self._say(project, adapter, alias, number, _Word.WITHDRAW, reason, by)

    def standing(self, project: str, adapter: str, alias: str, number: int) -> list[Approval]:
        """List the approvals that were not taken back, whether the policy counts them or not."""
        _check_key(project, adapter, alias, number)
        with self._database.read() as c:
            version_id = row_by_number(c, project, adapter, number).id
            mine = aliases.c.adapter_id == adapter_id(c, project, adapter)
            found = select(aliases.c.id).where(mine, aliases.c.name == alias)
            alias_id = c.execute(found).scalar_one_or_none()
            return [] if alias_id is None else standing_approvals(c, alias_id, version_id)

    def _say(
        self,
        project: str,
        adapter: str,
        alias: str,
        number: int,
        word: _Word,
        reason: str,
        by: str,
    ) -> list[Approval]:
        _check_key(project, adapter, alias, number)
        check_text("reason", reason, self._limits.max_text_chars)
        check_text("by", by, 256)

        def work(c: Connection) -> list[Approval]:
            alias_id = ledger.lock_top(c, project, adapter, alias).alias_id
            version = row_by_number(c, project, adapter, number)
            check_resolvable(version)
            if word is _Word.WITHDRAW:
                _check_given(c, alias_id, version.id, by, f"{adapter}@{number} by {by}")
            key = {"alias_id": alias_id, "version_id": version.id, "approver": by}
            said = {"kind": word.value, "reason": reason, "at": now()}
            c.execute(insert(alias_approvals).values(**key, **said))
            action, details = f"alias.{word.value}", {"version": str(number)}
            record_deed(c, Deed(project, by, action, f"{adapter}:{alias}", reason, details))
            return standing_approvals(c, alias_id, version.id)

        return self._database.write(work, nudge=False)


def standing_approvals(c: Connection, alias_id: int, version_id: int) -> list[Approval]:
    """Find the approvals that were not taken back, the oldest first."""
    last = (
        select(func.max(alias_approvals.c.ordinal))
        .where(alias_approvals.c.alias_id == alias_id, alias_approvals.c.version_id == version_id)
        .group_by(alias_approvals.c.approver)
    )
    query = (
        select(alias_approvals, versions.c.number)
        .join(versions, versions.c.id == alias_approvals.c.version_id)
        .where(alias_approvals.c.ordinal.in_(last))
        .where(alias_approvals.c.kind == _Word.APPROVE.value)
        .order_by(alias_approvals.c.ordinal)
    )
    return [Approval(r.number, r.approver, r.reason, r.at) for r in c.execute(query)]


def _check_key(project: str, adapter: str, alias: str, number: int) -> None:
    check_name("project", project)
    check_name("adapter", adapter)
    check_name("alias", alias)
    check_number("version_number", number)


def _check_given(c: Connection, alias_id: int, version_id: int, by: str, what: str) -> None:
    if by not in {approval.approver for approval in standing_approvals(c, alias_id, version_id)}:
        raise NotFound("approval", what)
