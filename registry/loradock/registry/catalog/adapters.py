"""Adapters: named series of versions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select, update

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.filters import adapter_conditions, check_filter, check_known
from loradock.registry.catalog.journal import Deed, record_change, record_deed
from loradock.registry.catalog.pages import AnyRow, fetch_page, page, page_request
from loradock.registry.catalog.requests import Request
from loradock.registry.catalog.tables import adapter_tags, adapters, aliases
from loradock.registry.catalog.types import insert_new, now
from loradock.registry.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    StaleGeneration,
    StillReferenced,
)
from loradock.registry.limits import Limits
from loradock.registry.names import check_name, check_text
from loradock.registry.resources import Adapter, Page
from loradock.registry.search import Filter, MetricFilter


class Adapters:
    """What there is to publish into."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def create(
        self,
        project: str,
        name: str,
        *,
        owner: str = "",
        description: str = "",
        tags: Iterable[str] = (),
        by: str,
        request_id: str = "",
    ) -> Adapter:
        """Create an adapter without versions. A deleted one's numbers go on where they ended."""
        check_name("project", project)
        check_name("adapter", name)
        fields = self._checked(owner, description, tags)
        by = check_text("by", by, 256)
        request = Request(project, request_id, {"do": "adapter.create", "name": name, **fields})

        def work(c: Connection) -> Adapter:
            if request.earlier_outcome(c) is None:
                if not insert_adapter(c, project, name, by, fields):
                    raise AlreadyExists("adapter", name, f"adapter {name!r} exists already")
                request.settle(c, adapter=name)
                record_change(c, "adapter", project, name, name)
                record_deed(c, Deed(project, by, "adapter.create", name))
            return _one(c, project, name)

        return self._database.write(work)

    def get(self, project: str, name: str) -> Adapter:
        """Give an adapter."""
        check_name("project", project)
        check_name("adapter", name)
        with self._database.read() as c:
            return _one(c, project, name)

    def list(
        self,
        project: str,
        *,
        base: str = "",
        tag: str = "",
        text: str = "",
        metric: MetricFilter | None = None,
        derived_from: str = "",
        page_size: int = 50,
        page_token: str = "",
    ) -> Page[Adapter]:
        """List adapters by name, those that the filters let through.

        NotFound if a filter's base or origin is not there.
        """
        check_name("project", project)
        filter = Filter(base, tag, text, metric, derived_from)
        check_filter(filter)
        request = page_request(str, ["adapters", project, filter], page_size, page_token)
        with self._database.read() as c:
            check_known(c, project, filter)
            query = _of_project(project).where(*adapter_conditions(c, project, filter))
            rows, token = fetch_page(c, query, request, adapters.c.name)
            tags = _tags(c, [row.id for row in rows])
        return page(rows, token, lambda row: _read(row, tags.get(row.id, ())))

    def update(
        self,
        project: str,
        name: str,
        *,
        owner: str | None = None,
        description: str | None = None,
        tags: Iterable[str] | None = None,
        expected_etag: str | None = None,
        by: str,
    ) -> Adapter:
        """Change what is given; None leaves it as it is."""
        check_name("project", project)
        check_name("adapter", name)
        fields = self._checked(owner, description, tags)
        by = check_text("by", by, 256)

        def work(c: Connection) -> Adapter:
            row = lock_adapter(c, project, name)
            if expected_etag is not None and expected_etag != str(row.revision):
                expected = _generation(expected_etag)
                raise StaleGeneration(name, expected, row.revision, "adapter")
            _change(c, row.id, fields, revision=row.revision + 1, updated_at=now())
            record_change(c, "adapter", project, name, name)
            record_deed(c, Deed(project, by, "adapter.update", name))
            return _one(c, project, name)

        return self._database.write(work)

    def delete(self, project: str, name: str, *, by: str) -> None:
        """Remove an adapter that has neither versions nor aliases left."""
        check_name("project", project)
        check_name("adapter", name)
        by = check_text("by", by, 256)

        def work(c: Connection) -> None:
            row = lock_adapter(c, project, name)
            referrers = _referrers(c, row)
            if referrers:
                raise StillReferenced(f"adapter {name}", referrers)
            _change(c, row.id, {"tags": ()}, deleted=True, updated_at=now())
            record_change(c, "adapter", project, name, name)
            record_deed(c, Deed(project, by, "adapter.delete", name))

        self._database.write(work)

    def _checked(
        self, owner: str | None, description: str | None, tags: Iterable[str] | None
    ) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if owner is not None:
            fields["owner"] = check_text("owner", owner, 256)
        if description is not None:
            limit = self._limits.max_text_chars
            fields["description"] = check_text("description", description, limit)
        if tags is not None:
            fields["tags"] = sorted({check_name("tag", tag) for tag in tags})
            if len(fields["tags"]) > self._limits.max_tags:
                raise InvalidArgument("tags", f"more than {self._limits.max_tags} tags")
        return fields


def insert_adapter(c: Connection, project: str, name: str, by: str, fields: dict[str, Any]) -> bool:
    """Make an adapter's row, or wake up that of a deleted one; False if there is one."""
    at = now()
    fresh = {
        "owner": fields.get("owner", ""),
        "description": fields.get("description", ""),
        "deleted": False,
        "created_by": by,
        "created_at": at,
        "updated_at": at,
    }
    counters = {"last_number": 0, "num_versions": 0, "revision": 1}
    if not insert_new(c, adapters, {"project": project, "name": name, **counters, **fresh}):
        mine = (adapters.c.project == project) & (adapters.c.name == name)
        found = c.execute(select(adapters).where(mine).with_for_update()).one()
        if not found.deleted:
            return False
        c.execute(update(adapters).where(mine).values(revision=found.revision + 1, **fresh))
    row = lock_adapter(c, project, name)
    _set_tags(c, row.id, fields.get("tags", ()))
    return True


def lock_adapter(c: Connection, project: str, name: str) -> AnyRow:
    """Find an adapter's row and keep others from changing it."""
    row = c.execute(_of_project(project, name).with_for_update()).one_or_none()
    if row is None:
        raise NotFound("adapter", name)
    return row


def adapter_id(c: Connection, project: str, name: str) -> int:
    """Find an adapter's row."""
    row = c.execute(_of_project(project, name)).one_or_none()
    if row is None:
        raise NotFound("adapter", name)
    return int(row.id)


def _of_project(project: str, name: str | None = None) -> Select[Any]:
    query = select(adapters).where(adapters.c.project == project, ~adapters.c.deleted)
    return query if name is None else query.where(adapters.c.name == name)


def _one(c: Connection, project: str, name: str) -> Adapter:
    row = c.execute(_of_project(project, name)).one_or_none()
    if row is None:
        raise NotFound("adapter", name)
    return _read(row, _tags(c, [row.id]).get(row.id, ()))


def _change(c: Connection, row_id: int, fields: dict[str, Any], **more: object) -> None:
    values = {name: value for name, value in fields.items() if name != "tags"}
    c.execute(update(adapters).where(adapters.c.id == row_id).values(**values, **more))
    if "tags" in fields:
        _set_tags(c, row_id, fields["tags"])


def _set_tags(c: Connection, row_id: int, tags: Sequence[str]) -> None:
    c.execute(delete(adapter_tags).where(adapter_tags.c.adapter_id == row_id))
    if tags:
        c.execute(insert(adapter_tags), [{"adapter_id": row_id, "tag": tag} for tag in tags])


def _tags(c: Connection, row_ids: Sequence[int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    query = select(adapter_tags).where(adapter_tags.c.adapter_id.in_(row_ids))
    for row in c.execute(query):
        found.setdefault(row.adapter_id, []).append(row.tag)
    return found


def _referrers(c: Connection, row: AnyRow) -> list[str]:
    named = select(aliases.c.name).where(
        aliases.c.adapter_id == row.id, aliases.c.version_id.is_not(None)
    )
    found = [f"alias {row.name}:{name}" for name in c.execute(named).scalars()]
    if row.num_versions:
        found.append(f"{row.num_versions} versions")
    return found


def _generation(etag: str) -> int:
    return int(etag) if etag.isdecimal() and len(etag) < 10 else 0


def _read(row: AnyRow, tags: Collection[str]) -> Adapter:
    return Adapter(
        project=row.project,
        name=row.name,
        owner=row.owner,
        description=row.description,
        tags=frozenset(tags),
        num_versions=row.num_versions,
        etag=str(row.revision),
        created_by=row.created_by,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
