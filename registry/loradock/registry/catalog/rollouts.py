"""Rollouts: a candidate gets a growing share of an alias's requests, and at last the alias.

Each step is one transaction, decided on what it finds there: done twice it is done once, and a
process that dies in the middle has done all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, select

from loradock.registry.catalog import ledger
from loradock.registry.catalog import rollout_rows as rows
from loradock.registry.catalog import rollout_steps as steps
from loradock.registry.catalog.adapters import lock_adapter
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.demands import demands_of
from loradock.registry.catalog.duties import Duty
from loradock.registry.catalog.gate import check_protection
from loradock.registry.catalog.pages import AnyRow
from loradock.registry.catalog.requests import Request
from loradock.registry.catalog.tables import rollouts, versions
from loradock.registry.catalog.types import now
from loradock.registry.catalog.versions import check_resolvable, row_by_number
from loradock.registry.errors import (
    EvalGateFailed,
    InvalidArgument,
    NotFound,
    RolloutEnded,
    RolloutRunning,
    StaleGeneration,
)
from loradock.registry.limits import Limits
from loradock.registry.names import check_name, check_number, check_text
from loradock.registry.policy import GateReport
from loradock.registry.rollout import (
    Plan,
    RolloutState,
    Standing,
    Started,
    Step,
    check_plan,
    plan_to_json,
)
from loradock.registry.steps import reached

DUTY = "rollouts"


class Rollouts:
    """Versions on their way to aliases; one at a time for each alias."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def duty(self, holder: str, *, lasts_s: float) -> Duty:
        """Give a process's claim on stepping rollouts."""
        return Duty(self._database, DUTY, holder, lasts_s=lasts_s)

    def start(
        self,
        project: str,
        adapter: str,
        alias: str,
        *,
        version_number: int,
        expected_generation: int,
        plan: Plan,
        reason: str = "",
        by: str,
        request_id: str = "",
        validate_only: bool = False,
        override_gate: bool = False,
        may_move_protected: bool = False,
    ) -> Started:
        """Give a candidate its first share. It has to meet the alias's policy (EvalGateFailed).

        If the policy protects the alias, `may_move_protected` is needed (AliasProtected).

        `override_gate` starts all the same, for a reason; the last step asks the policy again,
        and each step whether the alias is protected by then.
        """
        _check_key(project, adapter, alias)
        check_number("version_number", version_number)
        check_number("expected_generation", expected_generation)
        check_plan(plan)
        self._check_why(by, reason, override_gate)
        payload = {
            "do": "rollout.start",
            "name": f"{adapter}:{alias}",
            "version_number": version_number,
            "expected": expected_generation,
            "plan": plan_to_json(plan),
            "reason": reason,
            "override_gate": override_gate,
        }
        request = Request(project, request_id, payload)

        def work(c: Connection) -> Started:
            earlier = request.earlier_outcome(c)
            if earlier is not None:
                return Started(rows.read_rollout(rows.by_id(c, earlier["rollout"])), GateReport(()))
            top = ledger.lock_top(c, project, adapter, alias)
            name = f"{adapter}:{alias}"
            _check_startable(c, name, top, expected_generation)
            version = row_by_number(c, project, adapter, version_number)
            check_resolvable(version)
            if version.id == top.version_id:
                raise InvalidArgument("version_number", "is what the alias points at already")
            _check_same_base(c, top, version)
            demands = demands_of(c, top.alias_id)
            check_protection(demands, name, may_move_protected=may_move_protected)
            report = steps.report_on(c, project, top, version.id, {by})
            if not report.passed and not (override_gate or validate_only):
                raise EvalGateFailed(f"{adapter}@{version_number}", name, report.checks)
            may = may_move_protected
            row = steps.begin(c, top, version, plan, by, reason, may_move_protected=may)
            request.settle(c, rollout=row.id)
            unmet = "; ".join(check.subject for check in report.failures)
            details = {"gate": "overridden", "unmet": unmet} if unmet else {}
            rows.tell(c, row, "rollout.start", by, reason, **details)
            reached("rollout.written")
            return Started(rows.read_rollout(row), report)

        if validate_only:
            return self._database.rehearse(work)
        started = self._database.write(work)
        reached("rollout.committed")
        return started

    def get(self, project: str, adapter: str, alias: str) -> Standing:
        """Give the rollout that goes on, or else the last one, and what is known of it."""
        _check_key(project, adapter, alias)
        with self._database.read() as c:
            return steps.standing_of(c, rows.last_of(c, project, adapter, alias))

    def pause(
        self, project: str, adapter: str, alias: str, *, reason: str = "", by: str
    ) -> Standing:
        """Stay at the stage that is reached. Idempotent; the guards go on."""
        return self._steer(project, adapter, alias, RolloutState.PAUSED, reason, by)

    def resume(
        self,
        project: str,
        adapter: str,
        alias: str,
        *,
        reason: str = "",
        by: str,
        may_move_protected: bool = False,
    ) -> Standing:
        """Go on; the stage's hold begins anew. Idempotent.

        Whoever may move a protected alias lets the rollout do so by resuming it.
        """
        anew = {"may_move_protected": True} if may_move_protected else {}
        return self._steer(project, adapter, alias, RolloutState.RUNNING, reason, by, **anew)

    def promote(
        self,
        project: str,
        adapter: str,
        alias: str,
        *,
        reason: str = "",
        by: str,
        override_gate: bool = False,
        may_move_protected: bool = False,
        expected_generation: int | None = None,
    ) -> Standing:
        """Move the alias to the candidate now, if its policy is met (EvalGateFailed). Idempotent.

        With an expected generation, only from the stage at which it was read.
        """
        self._check_why(by, reason, override_gate)

        def act(c: Connection, row: AnyRow) -> None:
            if expected_generation not in (None, row.generation):
                name, expected = f"{adapter}:{alias}", expected_generation or 0
                raise StaleGeneration(name, expected, row.generation, "the rollout of")
            demands, name = demands_of(c, row.alias_id), f"{adapter}:{alias}"
            check_protection(demands, name, may_move_protected=may_move_protected)
            steps.promote(c, row, by, reason or "promoted by hand", override_gate=override_gate)

        return self._act(project, adapter, alias, RolloutState.PROMOTED, act, by, reason)

    def abort(
        self, project: str, adapter: str, alias: str, *, reason: str = "", by: str
    ) -> Standing:
        """Give all requests back to the incumbent. Idempotent."""

        def act(c: Connection, row: AnyRow) -> None:
            rows.abort_rollout(c, row, by, reason)

        return self._act(project, adapter, alias, RolloutState.ABORTED, act, by, reason)

    def going_on(self) -> list[str]:
        """List the ids of all rollouts that go on."""
        with self._database.read() as c:
            query = rows.all_rollouts().where(rollouts.c.ended_at.is_(None))
            return [row.id for row in c.execute(query.order_by(rollouts.c.started_at))]

    def step(self, rollout_id: str, duty: Duty) -> Step:
        """Do what is due of a rollout, if this process has the duty; tell what it was."""
        with self._database.read() as c:
            due = steps.standing_of(c, rows.by_id(c, rollout_id)).decision.step
        if due is Step.WAIT:
            return due
        done = self._database.write(lambda c: steps.take_step(c, rollout_id, duty))
        reached("rollout.committed")
        return done

    def _steer(
        self,
        project: str,
        adapter: str,
        alias: str,
        to: RolloutState,
        reason: str,
        by: str,
        **more: object,
    ) -> Standing:
        def act(c: Connection, row: AnyRow) -> None:
            verb = "pause" if to is RolloutState.PAUSED else "resume"
            anew = {"stage_at": now()} if to is RolloutState.RUNNING else {}
            rows.bring_to(c, row, to, by, reason, **anew, **more)
            rows.tell(c, row, f"rollout.{verb}", by, reason)

        return self._act(project, adapter, alias, to, act, by, reason)

    def _act(
        self,
        project: str,
        adapter: str,
        alias: str,
        to: RolloutState,
        act: Callable[[Connection, AnyRow], None],
        by: str,
        reason: str,
    ) -> Standing:
        """Do something to the rollout that goes on, unless it is `to` already."""
        _check_key(project, adapter, alias)
        self._check_why(by, reason)

        def work(c: Connection) -> Standing:
            lock_adapter(c, project, adapter)
            row = rows.last_of(c, project, adapter, alias)
            if row.state != to.value:
                if row.ended_at is not None:
                    why = row.state_reason or "no reason given"
                    raise RolloutEnded(f"{adapter}:{alias}", row.state, why)
                act(c, row)
            reached("rollout.written")
            return steps.standing_of(c, rows.by_id(c, row.id))

        standing = self._database.write(work)
        reached("rollout.committed")
        return standing

    def _check_why(self, by: str, reason: str, override_gate: bool = False) -> None:
        check_text("reason", reason, self._limits.max_text_chars)
        check_text("by", by, 256)
        if override_gate and not reason.strip():
            raise InvalidArgument("reason", "is needed to override a policy: it is audited")


def _check_key(project: str, adapter: str, alias: str) -> None:
    check_name("project", project)
    check_name("adapter", adapter)
    check_name("alias", alias)


def _check_startable(c: Connection, name: str, top: ledger.Entry, expected: int) -> None:
    if top.version_id is None:
        raise NotFound("alias", name)
    if (row := rows.going_on(c, top.alias_id)) is not None:
        raise RolloutRunning(name, f"{row.adapter}@{row.candidate_number}")
    if expected != top.live_generation:
        raise StaleGeneration(name, expected, top.live_generation)


def _check_same_base(c: Connection, top: ledger.Entry, version: AnyRow) -> None:
    base_id = c.execute(select(versions.c.base_id).where(versions.c.id == top.version_id)).scalar()
    if base_id != version.base_id:
        why = "is of another base than what the alias points at: no server has both"
        raise InvalidArgument("version_number", why)
