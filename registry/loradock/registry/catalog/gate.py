"""Whether a version may become an alias, asked in the transaction in which it would."""

from __future__ import annotations

from sqlalchemy import Connection, select

from loradock.registry.catalog import ledger
from loradock.registry.catalog.evaluations import latest_evaluations
from loradock.registry.catalog.pages import AnyRow
from loradock.registry.catalog.tables import alias_moves, alias_policies, base_models, versions
from loradock.registry.catalog.types import now
from loradock.registry.policy import Demands, GateReport, Measured, judge
from loradock.registry.policy_json import demands_from_json
from loradock.registry.resources import BaseDigests


def demands_of(c: Connection, alias_id: int) -> Demands:
    """Find what an alias demands now; nothing unless somebody said so."""
    row = policy_row(c, alias_id)
    return Demands() if row is None else demands_from_json(row.demands)


def policy_row(c: Connection, alias_id: int) -> AnyRow | None:
    """Find the policy in force."""
    query = select(alias_policies).where(alias_policies.c.alias_id == alias_id)
    return c.execute(query.order_by(alias_policies.c.revision.desc()).limit(1)).one_or_none()


def report_of(
    c: Connection, project: str, demands: Demands, version_id: int, incumbent_id: int | None
) -> GateReport:
    """Hold a version, and the one that it would replace, against the demands."""
    if not demands.suites:
        return GateReport(())
    candidate = _measured(c, project, version_id, demands)
    incumbent = None if incumbent_id is None else _measured(c, project, incumbent_id, demands)
    return judge(demands, candidate, incumbent, now())


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
    found = latest_evaluations(c, project, version_id, suites)
    return Measured(BaseDigests(base.structural, base.weights, base.tokenizer), found)
