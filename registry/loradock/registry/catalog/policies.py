"""Policies: what an alias demands. Each change is a revision; none is ever taken back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, insert, select

from loradock.registry.catalog import ledger
from loradock.registry.catalog.adapters import adapter_id
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.demands import demands_of, policy_row
from loradock.registry.catalog.gate import (
    Wanted,
    incumbent_of,
    report_of,
)
from loradock.registry.catalog.journal import Deed, record_deed
from loradock.registry.catalog.pages import AnyRow, fetch_page, page, page_request
from loradock.registry.catalog.requests import Request
from loradock.registry.catalog.tables import alias_policies, aliases
from loradock.registry.catalog.types import now
from loradock.registry.catalog.versions import check_resolvable, row_by_number
from loradock.registry.errors import NotFound, StaleGeneration
from loradock.registry.limits import Limits
from loradock.registry.names import check_name, check_number, check_text
from loradock.registry.policy import AliasPolicy, Demands, GateReport
from loradock.registry.policy_json import check_demands, demands_from_json, demands_to_json
from loradock.registry.resources import Page


class Policies:
    """What versions are held against before an alias may point at them."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def set(
        self,
        project: str,
        adapter: str,
        alias: str,
        demands: Demands,
        *,
        expected_revision: int | None,
        reason: str = "",
        by: str,
        request_id: str = "",
        validate_only: bool = False,
    ) -> AliasPolicy:
        """Demand this from now on; the alias need not exist yet. To expect nothing, or 0, is new.

        What an alias points at stays there, whether it meets the demands or not.
        """
        _check_key(project, adapter, alias)
        check_demands(demands, self._limits)
        check_text("reason", reason, self._limits.max_text_chars)
        check_text("by", by, 256)
        expected = check_number("expected_revision", expected_revision or 0)
        name = f"{adapter}:{alias}"
        content = demands_to_json(demands)
        payload = {"do": "policy.set", "name": name, "expected": expected, "demands": content}
        request = Request(project, request_id, {**payload, "reason": reason})

        def work(c: Connection) -> AliasPolicy:
            earlier = request.earlier_outcome(c)
            if earlier is not None:
                return _one(c, project, adapter, alias, earlier["revision"])
            alias_id = ledger.lock_top(c, project, adapter, alias).alias_id
            row = policy_row(c, alias_id)
            found = 0 if row is None else row.revision
            if found != expected:
                raise StaleGeneration(name, expected, found, "the policy of")
            values = {"demands": content, "set_by": by, "reason": reason, "set_at": now()}
            key = {"alias_id": alias_id, "revision": found + 1}
            c.execute(insert(alias_policies).values(**key, **values))
            request.settle(c, revision=found + 1)
            details = {"revision": str(found + 1)}
            record_deed(c, Deed(project, by, "policy.set", name, reason, details))
            return _one(c, project, adapter, alias, found + 1)

        if validate_only:
            return self._database.rehearse(work)
        return self._database.write(work, nudge=False)

    def get(self, project: str, adapter: str, alias: str) -> AliasPolicy:
        """Give the policy in force; NotFound if nothing was ever demanded."""
        _check_key(project, adapter, alias)
        with self._database.read() as c:
            return _one(c, project, adapter, alias)

    def revision(self, project: str, adapter: str, alias: str, revision: int) -> AliasPolicy:
        """Give the policy of a revision, in force or not any more."""
        _check_key(project, adapter, alias)
        check_number("revision", revision)
        with self._database.read() as c:
            return _one(c, project, adapter, alias, revision)

    def history(
        self, project: str, adapter: str, alias: str, page_size: int = 50, page_token: str = ""
    ) -> Page[AliasPolicy]:
        """List what the alias demanded since when, newest first."""
        _check_key(project, adapter, alias)
        scope = ["policies", project, adapter, alias]
        request = page_request(int, scope, page_size, page_token)
        with self._database.read() as c:
            query, revision = _revisions(c, project, adapter, alias), alias_policies.c.revision
            rows, token = fetch_page(c, query, request, revision, newest_first=True)
            if not rows:  # that nothing was demanded is one thing, that there is no alias another
                ledger.alias_id(c, project, adapter, alias)
        return page(rows, token, lambda row: _read(row, project, adapter, alias))

    def check(
        self, project: str, adapter: str, alias: str, version_number: int, *, by: str = ""
    ) -> GateReport:
        """Say whether a version would be let in now, demand by demand, if `by` moved the alias."""
        _check_key(project, adapter, alias)
        check_number("version_number", version_number)
        with self._database.read() as c:
            version = row_by_number(c, project, adapter, version_number)
            check_resolvable(version)
            mine = (aliases.c.adapter_id == adapter_id(c, project, adapter)) & (
                aliases.c.name == alias
            )
            row = c.execute(select(aliases).where(mine)).one_or_none()
            if row is None:
                return GateReport(())
            incumbent = incumbent_of(c, ledger.top_of(c, row))
            wanted = Wanted(project, row.id, version.id, incumbent, frozenset({by}))
            return report_of(c, demands_of(c, row.id), wanted)


def _check_key(project: str, adapter: str, alias: str) -> None:
    check_name("project", project)
    check_name("adapter", adapter)
    check_name("alias", alias)


def _one(
    c: Connection, project: str, adapter: str, alias: str, revision: int | None = None
) -> AliasPolicy:
    query = _revisions(c, project, adapter, alias)
    if revision is not None:
        query = query.where(alias_policies.c.revision == revision)
    row = c.execute(query.order_by(alias_policies.c.revision.desc()).limit(1)).one_or_none()
    if row is None:
        raise NotFound("policy", f"{adapter}:{alias}")
    return _read(row, project, adapter, alias)


def _revisions(c: Connection, project: str, adapter: str, alias: str) -> Select[Any]:
    return (
        select(alias_policies)
        .join(aliases, aliases.c.id == alias_policies.c.alias_id)
        .where(aliases.c.adapter_id == adapter_id(c, project, adapter), aliases.c.name == alias)
    )


def _read(row: AnyRow, project: str, adapter: str, alias: str) -> AliasPolicy:
    return AliasPolicy(
        project=project,
        adapter=adapter,
        alias=alias,
        demands=demands_from_json(row.demands),
        revision=row.revision,
        set_by=row.set_by,
        reason=row.reason,
        set_at=row.set_at,
    )
