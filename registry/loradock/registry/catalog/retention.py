"""Which versions may go: not among the last, not young, and referred to by nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, case, func, select

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.referrers import referrers_of
from loradock.registry.catalog.tables import adapters, versions
from loradock.registry.catalog.types import now
from loradock.registry.errors import InvalidArgument
from loradock.registry.resources import VersionState

MAX_KEPT = 1_000_000
MAX_AGE_S = 100 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept though nothing refers to it; one that is None keeps nothing by itself."""

    keep_last: int | None = None  # ready versions of each adapter
    keep_younger_s: float | None = None

    def __str__(self) -> str:
        kept = [] if self.keep_last is None else [f"the last {self.keep_last}"]
        if self.keep_younger_s is not None:
            kept.append(f"what is younger than {self.keep_younger_s:g} s")
        return f"{' and '.join(kept)} of each adapter are kept"


def check_retention(retention: Retention) -> None:
    """Raise InvalidArgument unless the retention says what is kept, within bounds."""
    if retention.keep_last is None and retention.keep_younger_s is None:
        raise InvalidArgument("retention", "say what is kept: keep_last, keep_younger, or both")
    if not 0 <= (retention.keep_last or 0) <= MAX_KEPT:
        raise InvalidArgument("keep_last", f"{retention.keep_last} is not in 0..{MAX_KEPT}")
    if not 0 <= (retention.keep_younger_s or 0.0) <= MAX_AGE_S:
        why = f"{retention.keep_younger_s} s is not in 0..{MAX_AGE_S:.0f}"
        raise InvalidArgument("keep_younger", why)


def expired(database: Database, project: str, retention: Retention) -> list[tuple[str, int]]:
    """Find the versions, ready or yanked, that nothing keeps now, the newest first.

    What refers to a version that goes itself still counts: that one's turn comes with the next run.
    """
    with database.read() as c:
        rows = c.execute(_old(project, retention)).all()
        return [(row.adapter, row.number) for row in rows if not referrers_of(c, project, row)]


def _old(project: str, retention: Retention) -> Select[Any]:
    """Select what is neither young nor among the last, by one look at each of the project's."""
    is_ready = case((versions.c.state == VersionState.READY.value, 1), else_=0)
    newer = func.sum(is_ready).over(
        partition_by=versions.c.adapter_id, order_by=versions.c.number.desc(), rows=(None, -1)
    )
    columns = (versions.c.id, versions.c.adapter_id, versions.c.number, versions.c.digest)
    known = (
        select(*columns, versions.c.created_at, adapters.c.name.label("adapter"))
        .add_columns(func.coalesce(newer, 0).label("num_newer"))
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .where(adapters.c.project == project, versions.c.state != VersionState.DELETED.value)
        .subquery()
    )
    query = select(known).order_by(known.c.id.desc())
    if retention.keep_last is not None:
        query = query.where(known.c.num_newer >= retention.keep_last)
    if retention.keep_younger_s is not None:
        since = now() - timedelta(seconds=retention.keep_younger_s)
        query = query.where(known.c.created_at < since)
    return query
