"""Versions as the catalog keeps them: read, yanked, deleted. Publishing is `publishing.py`'s."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, delete, select, update

from loradock.registry.catalog.adapters import adapter_id, lock_adapter
from loradock.registry.catalog.bases import Bases
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.filters import check_filter, check_known, is_ready, matching_ids
from loradock.registry.catalog.journal import Deed, record_change, record_deed
from loradock.registry.catalog.pages import AnyRow, fetch_page, page, page_request
from loradock.registry.catalog.referrers import referrers_of
from loradock.registry.catalog.rollout_rows import abort_of_yanked
from loradock.registry.catalog.tables import adapters, version_holds, versions
from loradock.registry.catalog.types import now, upsert
from loradock.registry.errors import (
    Immutable,
    InvalidArgument,
    NotFound,
    StillReferenced,
    VersionYanked,
)
from loradock.registry.limits import Limits
from loradock.registry.manifest import lineage_from_json, profile_from_json
from loradock.registry.names import check_digest, check_name, check_number, check_text
from loradock.registry.resources import (
    BlobRef,
    Delta,
    Hold,
    LoraModule,
    Page,
    Version,
    VersionState,
)
from loradock.registry.search import Filter, MetricFilter

VersionQuery = Select[tuple[Any, ...]]
_HOLD = tuple(version_holds.c[name] for name in ("reason", "held_by", "held_at", "expires_at"))


class VersionTable:
    """The rows of versions; what changes of a row is its state alone."""

    def __init__(self, database: Database, bases: Bases, limits: Limits) -> None:
        self._database = database
        self._bases = bases
        self._limits = limits

    def get(self, project: str, adapter: str, number: int) -> Version:
        """Give a version in whatever state it is."""
        check_name("project", project)
        check_name("adapter", adapter)
        check_number("version_number", number)
        with self._database.read() as c:
            return self.read(c, row_by_number(c, project, adapter, number))

    def by_digest(self, project: str, digest: str) -> Version:
        """Give the version of a digest, a ready one first if several adapters have it."""
        check_name("project", project)
        check_digest("digest", digest)
        query = all_versions(project).where(
            versions.c.digest == digest, versions.c.state != VersionState.DELETED.value
        )
        with self._database.read() as c:
            row = c.execute(query.order_by(versions.c.state, versions.c.id).limit(1)).one_or_none()
            if row is None:
                raise NotFound("version", digest)
            return self.read(c, row)

    def list(
        self,
        project: str,
        adapter: str,
        *,
        include_yanked: bool = False,
        page_size: int = 50,
        page_token: str = "",
    ) -> Page[Version]:
        """List an adapter's versions, newest first."""
        check_name("project", project)
        check_name("adapter", adapter)
        scope = ["versions", project, adapter, include_yanked]
        request = page_request(int, scope, page_size, page_token)
        shown = versions.c.state != VersionState.DELETED.value if include_yanked else is_ready()
        with self._database.read() as c:
            mine = versions.c.adapter_id == adapter_id(c, project, adapter)
            query = all_versions(project).where(mine, shown)
            rows, token = fetch_page(c, query, request, versions.c.number, newest_first=True)
            return page(rows, token, lambda row: self.read(c, row))

    def search(
        self,
        project: str,
        *,
        base: str = "",
        tag: str = "",
        metric: MetricFilter | None = None,
        text: str = "",
        derived_from: str = "",
        page_size: int = 50,
        page_token: str = "",
    ) -> Page[Version]:
        """List ready versions over all of a project's adapters, newest first.

        NotFound if a filter's base or origin is not there.
        """
        check_name("project", project)
        filter = Filter(base, tag, text, metric, derived_from)
        check_filter(filter)
        request = page_request(int, ["search", project, filter], page_size, page_token)
        with self._database.read() as c:
            check_known(c, project, filter)
            ids = matching_ids(c, project, filter, request.after, request.size + 1)
            query = all_versions(project).where(versions.c.id.in_(ids))
            rows, token = fetch_page(c, query, request, versions.c.id, newest_first=True)
            return page(rows, token, lambda row: self.read(c, row))

    def yank(self, project: str, adapter: str, number: int, *, reason: str, by: str) -> Version:
        """Make a version unresolvable; aliases that point at it stop resolving."""
        return self._move(project, adapter, number, VersionState.YANKED, reason, by)[0]

    def unyank(self, project: str, adapter: str, number: int, *, reason: str, by: str) -> Version:
        """Make a yanked version resolvable again."""
        return self._move(project, adapter, number, VersionState.READY, reason, by)[0]

    def delete(self, project: str, adapter: str, number: int, *, reason: str = "", by: str) -> bool:
        """Leave a tombstone, if nothing refers to the version; tell whether there was none yet."""
        return self._move(project, adapter, number, VersionState.DELETED, reason, by)[1]

    def hold(
        self,
        project: str,
        adapter: str,
        number: int,
        *,
        reason: str,
        expires_at: datetime | None = None,
        by: str,
    ) -> Version:
        """Keep a version from being deleted, until a time or until `unhold`. Again is anew."""
        check_text("reason", reason, self._limits.max_text_chars)
        if not reason.strip():
            raise InvalidArgument("reason", "is needed to hold a version")
        if expires_at is not None and not (expires_at.tzinfo and expires_at > now()):
            raise InvalidArgument("expires_at", "is not a time to come, with its time zone")
        values = {"reason": reason, "held_by": by, "held_at": now(), "expires_at": expires_at}

        def work(c: Connection, row: AnyRow) -> None:
            if row.state == VersionState.DELETED.value:
                raise Immutable(f"{adapter}@{number} is deleted; it")
            upsert(c, version_holds, {"version_id": row.id, **values}, values)
            until = {"expires_at": expires_at.isoformat()} if expires_at else {}
            name = f"{adapter}@{number}"
            record_deed(c, Deed(project, by, "version.hold", name, reason, until))

        return self._on_hold(project, adapter, number, by, work)

    def unhold(self, project: str, adapter: str, number: int, *, reason: str, by: str) -> Version:
        """Take a hold back; without one nothing happens."""
        check_text("reason", reason, self._limits.max_text_chars)

        def work(c: Connection, row: AnyRow) -> None:
            mine = version_holds.c.version_id == row.id
            if c.execute(delete(version_holds).where(mine)).rowcount:
                record_deed(c, Deed(project, by, "version.unhold", f"{adapter}@{number}", reason))

        return self._on_hold(project, adapter, number, by, work)

    def _on_hold(
        self,
        project: str,
        adapter: str,
        number: int,
        by: str,
        change: Callable[[Connection, AnyRow], None],
    ) -> Version:
        check_name("project", project)
        check_name("adapter", adapter)
        check_number("version_number", number)
        check_text("by", by, 256)

        def work(c: Connection) -> Version:
            lock_adapter(c, project, adapter)  # as a deletion does
            change(c, row_by_number(c, project, adapter, number, lock=True))
            return self.read(c, row_by_number(c, project, adapter, number))

        return self._database.write(work, nudge=False)

    def read(self, connection: Connection, row: AnyRow) -> Version:
        """Make a version of a row of `all_versions`."""
        return Version(
            project=row.project,
            adapter=row.adapter,
            number=row.number,
            digest=row.digest,
            state=VersionState(row.state),
            base=self._bases.by_id(connection, row.base_id),
            delta=Delta(
                weights=BlobRef(row.weights_digest, row.weights_size),
                config=BlobRef(row.config_digest, row.config_size),
            ),
            profile=profile_from_json(row.profile),
            lineage=lineage_from_json(row.lineage),
            modules=tuple(LoraModule(m, r, float(s), a, b) for m, r, s, a, b in row.modules),
            max_rank=row.max_rank,
            created_by=row.created_by,
            created_at=row.created_at,
            state_reason=row.state_reason,
            hold=_hold_of(row),
        )

    def _move(
        self, project: str, adapter: str, number: int, to: VersionState, reason: str, by: str
    ) -> tuple[Version, bool]:
        check_name("project", project)
        check_name("adapter", adapter)
        check_number("version_number", number)
        check_text("reason", reason, self._limits.max_text_chars)
        check_text("by", by, 256)

        def work(c: Connection) -> tuple[Version, bool]:
            lock_adapter(c, project, adapter)  # as aliases do, so that neither moves past the other
            row = row_by_number(c, project, adapter, number, lock=True)  # as children's births do
            if moves := row.state != to.value:
                _check_move(c, project, row, to)
                _set_state(c, row, to, reason)
                record_change(c, "version", project, adapter, row.digest)
                record_deed(c, Deed(project, by, _ACTIONS[to], f"{adapter}@{number}", reason))
            if to is VersionState.YANKED:
                abort_of_yanked(c, row, by, reason)
            return self.read(c, row_by_number(c, project, adapter, number)), moves

        return self._database.write(work)


_ACTIONS = {
    VersionState.YANKED: "version.yank",
    VersionState.READY: "version.unyank",
    VersionState.DELETED: "version.delete",
}


def all_versions(project: str) -> VersionQuery:
    """Select a project's versions with the names that a row itself lacks."""
    names = (adapters.c.project, adapters.c.name.label("adapter"))
    hold = (version_holds.c.reason.label("hold_reason"), *_HOLD[1:])
    return (
        select(versions, *names, *hold)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .outerjoin(version_holds, version_holds.c.version_id == versions.c.id)
        .where(adapters.c.project == project, ~adapters.c.deleted)
    )


def _hold_of(row: AnyRow) -> Hold | None:
    """Read a hold that has not expired."""
    if row.held_at is None or (row.expires_at is not None and row.expires_at <= now()):
        return None
    return Hold(row.hold_reason, row.held_by, row.held_at, row.expires_at)


def row_by_number(
    c: Connection, project: str, adapter: str, number: int, *, lock: bool = False
) -> AnyRow:
    """Find a version's row in whatever state it is; `lock` keeps others from changing it."""
    query = all_versions(project).where(adapters.c.name == adapter, versions.c.number == number)
    if lock:
        query = query.with_for_update(of=versions)
    row = c.execute(query).one_or_none()
    if row is None:
        raise NotFound("version", f"{adapter}@{number}")
    return row


def check_resolvable(row: AnyRow) -> None:
    """Raise unless a version may be asked for, or pointed at."""
    if row.state == VersionState.YANKED.value:
        raise VersionYanked(f"{row.adapter}@{row.number}", row.state_reason)
    if row.state == VersionState.DELETED.value:
        raise NotFound("version", f"{row.adapter}@{row.number}")


def _check_move(c: Connection, project: str, row: AnyRow, to: VersionState) -> None:
    name = f"{row.adapter}@{row.number}"
    if row.state == VersionState.DELETED.value:
        raise Immutable(f"{name} is deleted; it")
    if to is VersionState.DELETED and (referrers := referrers_of(c, project, row)):
        raise StillReferenced(name, referrers)


def _set_state(c: Connection, row: AnyRow, to: VersionState, reason: str) -> None:
    mine = versions.c.id == row.id
    c.execute(update(versions).where(mine).values(state=to.value, state_reason=reason))
    if to is VersionState.DELETED:
        fewer = {"num_versions": adapters.c.num_versions - 1}
        c.execute(update(adapters).where(adapters.c.id == row.adapter_id).values(fewer))
