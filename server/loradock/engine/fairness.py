"""Whose row runs next: fair shares between tenants, and between the adapters of one tenant.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024) on two
levels, as in hierarchical start-time fair queueing (Goyal, Guo, Vin, OSDI 1996): a counter holds
the weighted tokens that were computed for a tenant or an adapter, and the least served of those who
wait is next. Who comes to wait anew begins at the counter of the least served that waits, so that
nobody saves up credit; where nobody waits, who has left owes nothing more.

The bound: of any two who wait all the time, neither is served more than 2 R C weighted tokens more
than the other, where R rows run at most and the largest costs C. So, with R rows running, the first
of any of Q lines is let in within (3 Q - 2) C steps. Priorities go before shares, but they age: for
every `AGE_STEPS` steps that a row is the first of its line it counts as one level higher. (Only the
first ages: else a flood that waits long enough would go before all who come after it.)

Pure Python. The work is in choosing (one look at each line of rows), not in each token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

from loradock.engine.protocol import Priority
from loradock.engine.rows import Row
from loradock.engine.share import Share

AGE_STEPS = 256
OUTPUT_WEIGHT = 2  # a prompt's tokens are computed side by side, an answer's one after the other

LineKey = tuple[str, str | None, Priority]  # tenant, adapter, priority
Rank = tuple[int, bool, int, int, int]


class FairQueue:
    """The rows that wait, in lines: one for each tenant's adapter and priority, in their order.

    Belongs to the step thread.
    """

    def __init__(self) -> None:
        self._all = Share()
        self._tenants: dict[str, Share] = {}
        self._shares: dict[tuple[str, str | None], Share] = {}
        self._lines: dict[LineKey, deque[Row]] = {}  # none is empty
        self._step = 0

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(self._lines.values())

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)

    @property
    def num_shares(self) -> int:
        """Counters that are kept."""
        return len(self._tenants) + len(self._shares)

    def add(self, row: Row) -> None:
        """Let a row wait behind those of its line."""
        row.share = self._share_of(row)
        row.share.count(1)
        row.level = row.work.priority
        line = self._lines.setdefault(_key(row), deque())
        line.append(row)
        self._see_first(line)

    def put_back(self, row: Row) -> None:
        """Let a row that ran wait before those of its line, and of its level."""
        self._lines.setdefault(_key(row), deque()).appendleft(row)
        row.first_at = self._step

    def first(self) -> Row | None:
        """Give the row that is next. Changes nothing."""
        heads = (line[0] for line in self._lines.values())
        return min(heads, key=lambda row: rank_of(row, self._level(row)), default=None)

    def take(self, row: Row) -> None:
        """Let a row run: it waits no more, but counts as its party's until it leaves."""
        row.share.choose()
        row.level = self._level(row)
        self._drop(row)

    def pass_step(self) -> None:
        """Let those who wait become older."""
        self._step += 1

    def leave(self, row: Row, *, is_waiting: bool) -> None:
        """Forget a row."""
        row.share.count(-1)
        if is_waiting:
            self._drop(row)

    def _drop(self, row: Row) -> None:
        line = self._lines[_key(row)]
        line.remove(row)  # nearly always its first
        if line:
            self._see_first(line)
        else:
            del self._lines[_key(row)]
        if not self._lines:
            self._forget()

    def _level(self, row: Row) -> int:
        """Give the level of the first of a line, the highest 0, after so long a wait."""
        first_at = self._step if row.first_at is None else row.first_at
        return max(0, row.level - (self._step - first_at) // AGE_STEPS)

    def _see_first(self, line: deque[Row]) -> None:
        if line[0].first_at is None:
            line[0].first_at = self._step

    def _share_of(self, row: Row) -> Share:
        """Give the counter of a row's adapter; who did not wait until now gets no credit."""
        tenant, adapter = row.work.salt, row.work.adapter
        of_tenant = self._tenants.get(tenant)
        if of_tenant is None:
            of_tenant = self._tenants[tenant] = Share(self._all)
        share = self._shares.get((tenant, adapter))
        if share is None:
            share = self._shares[tenant, adapter] = Share(of_tenant)
        waiting = [line[0].share for line in self._lines.values()]
        _lift(of_tenant, (other.parent for other in waiting))
        _lift(share, (other for other in waiting if other.parent is of_tenant))
        return share

    def _forget(self) -> None:
        """Nobody waits, so nobody was passed over: who isn't here at all needs no counter."""
        self._tenants = {name: share for name, share in self._tenants.items() if share.num_rows}
        self._shares = {key: share for key, share in self._shares.items() if share.num_rows}


def rank_of(row: Row, level: int) -> Rank:
    """Rank a row: the smallest goes first. Who was put back goes before those who never ran."""
    tenant = row.share.parent
    assert tenant is not None
    return (level, not row.num_preempted, tenant.served, row.share.served, row.arrival)


def _key(row: Row) -> LineKey:
    return row.work.salt, row.work.adapter, row.work.priority


def _lift(share: Share, waiting: Iterable[Share | None]) -> None:
    """Bring a counter up to the least of those who wait, unless its own party is among them."""
    assert share.parent is not None
    served = {other.served for other in waiting if other is not None}
    share.served = max(share.served, min(served, default=share.parent.now))
