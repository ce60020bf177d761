"""Whether a version may become an alias, asked in the transaction in which it would."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from loradock.registry.catalog import ledger
from loradock.registry.catalog.approvals import standing_approvals
from loradock.registry.catalog.evaluations import latest_evaluations
from loradock.registry.catalog.tables import alias_moves, base_models, versions
from loradock.registry.catalog.types import now
from loradock.registry.errors import AliasProtected
from loradock.registry.policy import (
    Demands,
    GateCheck,
    GateReport,
    Measured,
    judge,
    judge_approvals,
)
from loradock.registry.resources import BaseDigests


@dataclass(frozen=True, slots=True)
class Wanted:
    """A move that somebody wants: which alias, to which version, from which, and who."""

    project: str
    alias_id: int
    version_id: int
    incumbent_id: int | None
    movers: frozenset[str]


def check_protection(demands: Demands, alias: str, *, may_move_protected: bool) -> None:
    """Raise AliasProtected unless the caller may move what the policy protects."""
    if demands.is_protected and not may_move_protected:
        raise AliasProtected(alias)


def report_of(c: Connection, demands: Demands, wanted: Wanted) -> GateReport:
    """Hold a version, and the one that it would replace, against the demands."""
    checks: tuple[GateCheck, ...] = ()
    if demands.num_approvals:
        checks = (_approvals_check(c, demands, wanted),)
    if not demands.suites:
        return GateReport(checks)
    candidate = _measured(c, wanted.project, wanted.version_id, demands)
    incumbent = None
    if wanted.incumbent_id is not None:
        incumbent = _measured(c, wanted.project, wanted.incumbent_id, demands)
    report = judge(demands, candidate, incumbent, now())
    return GateReport((*report.checks, *checks))


def _approvals_check(c: Connection, demands: Demands, wanted: Wanted) -> GateCheck:
    publisher = select(versions.c.created_by).where(versions.c.id == wanted.version_id)
    not_counted = wanted.movers | {c.execute(publisher).scalar_one()}
    found = standing_approvals(c, wanted.alias_id, wanted.version_id)
    return judge_approvals(demands, found, not_counted, now())


def incumbent_of(c: Connection, top: ledger.Entry) -> int | None:
    """Find the version that an alias points at, or did before it was deleted."""
    if top.version_id is not None or top.generation == 0:
        return top.version_id
    query = (
        select(alias_moves.c.version_id)
        .where(alias_moves.c.alias_id == top.alias_id, alias_moves.c.version_id.is_not(None))
        .order_by(alias_moves.c.generation.desc())
        .limit(1)
    )
    return c.execute(query).scalar_one_or_none()


def is_within_window(c: Connection, top: ledger.Entry, window_s: float) -> bool:
    """Whether what a rollback would go to was live so lately that it needs no new proof."""
    if top.beneath is None:
        return False
    if top.is_split:
        return True  # it is live
    left_at = ledger.left_at(c, top.alias_id, top.beneath)
    return (now() - left_at).total_seconds() <= window_s


def _measured(c: Connection, project: str, version_id: int, demands: Demands) -> Measured:
    base = c.execute(
        select(base_models.c.structural, base_models.c.weights, base_models.c.tokenizer)
        .join(versions, versions.c.base_id == base_models.c.id)
        .where(versions.c.id == version_id)
    ).one()
    suites = [suite.suite for suite in demands.suites]
    paired = any(metric.margin is not None for s in demands.suites for metric in s.metrics)
    found = latest_evaluations(c, project, version_id, suites, with_items=paired)
    return Measured(BaseDigests(base.structural, base.weights, base.tokenizer), found)
