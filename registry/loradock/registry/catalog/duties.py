"""Duties: work that exactly one process does at a time, whoever takes it first.

Until when is told by the clocks of the processes. Where those disagree, a duty may be taken early,
but never shared: who acts asks within the transaction in which he does, under the row's lock.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, delete, select

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.tables import duties
from loradock.registry.catalog.types import insert_new, now


class Duty:
    """One process's claim on a duty. It lapses unless it is taken again in time."""

    def __init__(self, database: Database, name: str, holder: str, *, lasts_s: float) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._lasts = timedelta(seconds=lasts_s)

    def take(self) -> bool:
        """Take the duty, or take it again; False while another process has it."""
        return self._database.write(self._take, nudge=False)

    def lay_down(self) -> None:
        """Leave the duty to others now. Whoever doesn't have it changes nothing."""
        mine = (duties.c.name == self._name) & (duties.c.holder == self._holder)
        self._database.write(lambda c: c.execute(delete(duties).where(mine)), nudge=False)

    def is_held(self, c: Connection) -> bool:
        """Whether this process has it, and nobody takes it until the transaction ends."""
        query = select(duties).where(duties.c.name == self._name).with_for_update()
        row = c.execute(query).one_or_none()
        return row is not None and row.holder == self._holder and row.until > now()

    def _take(self, c: Connection) -> bool:
        mine = {"holder": self._holder, "until": now() + self._lasts}
        if insert_new(c, duties, {"name": self._name, **mine}):
            return True
        free = (duties.c.holder == self._holder) | (duties.c.until <= now())
        change = duties.update().where(duties.c.name == self._name, free).values(mine)
        return c.execute(change).rowcount == 1
