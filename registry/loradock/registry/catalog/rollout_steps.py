"""The steps of a rollout, each on the rows that it finds locked: begin, advance, promote, abort."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from sqlalchemy import Connection, insert

from loradock.registry.arm_counts import ArmCounts
from loradock.registry.catalog import ledger
from loradock.registry.catalog import rollout_rows as rows
from loradock.registry.catalog.adapters import lock_adapter
from loradock.registry.catalog.arms import counts_of, forget_counts
from loradock.registry.catalog.demands import demands_of
from loradock.registry.catalog.duties import Duty
from loradock.registry.catalog.fleet import live_heartbeats
from loradock.registry.catalog.gate import Wanted, check_protection, report_of
from loradock.registry.catalog.journal import record_change
from loradock.registry.catalog.pages import AnyRow
from loradock.registry.catalog.tables import rollouts
from loradock.registry.catalog.types import now
from loradock.registry.errors import AliasProtected, EvalGateFailed
from loradock.registry.policy import GateReport
from loradock.registry.resources import MoveKind
from loradock.registry.rollout import (
    Decision,
    Plan,
    RolloutState,
    Seen,
    Standing,
    Step,
    decide,
    plan_to_json,
)
from loradock.registry.split import Arm, Split
from loradock.registry.steps import reached


def begin(
    c: Connection,
    top: ledger.Entry,
    version: AnyRow,
    plan: Plan,
    by: str,
    reason: str,
    *,
    may_move_protected: bool,
) -> AnyRow:
    """Write a rollout, and give its candidate the first share."""
    at = now()
    forget_counts(c, top.alias_id)
    values = {
        "id": str(uuid.uuid4()),
        "alias_id": top.alias_id,
        "incumbent_id": top.version_id,
        "candidate_id": version.id,
        "state": RolloutState.RUNNING.value,
        "plan": plan_to_json(plan),
        "stage": 0,
        "stage_at": at,
        "generation": top.generation,
        "sequence": 0,
        "reason": reason,
        "started_by": by,
        "started_at": at,
        "may_move_protected": may_move_protected,
    }
    c.execute(insert(rollouts).values(values))
    row = rows.by_id(c, str(values["id"]))
    _lay_split(c, row, top, 0, by, reason or "a rollout begins")
    return rows.by_id(c, row.id)


def _lay_split(
    c: Connection, row: AnyRow, top: ledger.Entry, stage: int, by: str, reason: str
) -> None:
    """Give the candidate the share of a stage."""
    plan = rows.read_rollout(row).plan
    number, digest = row.candidate_number, row.candidate_digest
    split = Split(number, digest, plan.stages[stage].weight, plan.shadow, row.id)
    generation = ledger.append(
        c,
        top,
        MoveKind.SPLIT,
        top.version_id,
        ledger.unsplit(c, top).generation,
        by,
        reason,
        split,
        row.candidate_id,
    )
    sequence = record_change(c, "alias", row.project, row.adapter, row.alias)
    at = {"stage": stage, "stage_at": now(), "generation": generation, "sequence": sequence}
    rows.change_rollout(c, row, **at)


def take_step(c: Connection, rollout_id: str, duty: Duty) -> Step:
    """Do what is due now, in one transaction, if the process has the duty; tell what it was."""
    if not duty.is_held(c):
        return Step.WAIT
    row = rows.by_id(c, rollout_id)
    lock_adapter(c, row.project, row.adapter)
    row = rows.by_id(c, rollout_id)  # as it is, now that nobody else moves the alias
    decision = standing_of(c, row).decision
    done, by = decision.step, f"rollout of {row.started_by}"[:256]
    if done is Step.ABORT:
        rows.abort_rollout(c, row, by, decision.why)
    elif done is Step.STOP:
        _stop(c, row, by, decision.why)
    elif done is not Step.WAIT:
        done = _go_on_or_stop(c, row, by, done)
    reached("rollout.written")
    return done


def _go_on_or_stop(c: Connection, row: AnyRow, by: str, step: Step) -> Step:
    """Advance or promote, if the alias's policy as it is now lets this rollout."""
    demands, name = demands_of(c, row.alias_id), f"{row.adapter}:{row.alias}"
    try:
        check_protection(demands, name, may_move_protected=bool(row.may_move_protected))
        if step is Step.ADVANCE:
            _advance(c, row, by)
        else:
            promote(c, row, by, "all stages passed")
    except (AliasProtected, EvalGateFailed) as refused:
        _stop(c, row, by, str(refused))
        return Step.STOP
    return step


def _stop(c: Connection, row: AnyRow, by: str, why: str) -> None:
    rows.bring_to(c, row, RolloutState.PAUSED, by, why)
    rows.tell(c, row, "rollout.stop", by, why)


def _advance(c: Connection, row: AnyRow, by: str) -> None:
    stage = row.stage + 1
    share = rows.read_rollout(row).plan.stages[stage].weight / 100
    top = ledger.entry(c, row.alias_id, row.generation)
    _lay_split(c, row, top, stage, by, f"stage {stage + 1}: {share:g} %")
    rows.tell(c, row, "rollout.advance", by, stage=str(stage), share=f"{share:g} %")


def promote(
    c: Connection, row: AnyRow, by: str, reason: str, *, override_gate: bool = False
) -> None:
    """Move the alias to the candidate, or raise EvalGateFailed."""
    top = ledger.entry(c, row.alias_id, row.generation)
    report = report_on(c, row.project, top, row.candidate_id, {by, row.started_by})
    if not report.passed and not override_gate:
        name, alias = f"{row.adapter}@{row.candidate_number}", f"{row.adapter}:{row.alias}"
        raise EvalGateFailed(name, alias, report.checks)
    beneath = ledger.beneath_of_set(c, top, row.candidate_id)
    kind, why = MoveKind.SET, f"the rollout was promoted: {reason}"
    generation = ledger.append(c, top, kind, row.candidate_id, beneath, by, why)
    record_change(c, "alias", row.project, row.adapter, row.alias)
    unmet = "; ".join(f"{check.subject} {check.code}" for check in report.failures)
    details = {"gate": "overridden", "unmet": unmet} if unmet else {}
    details |= {"generation": str(generation)}
    rows.end_rollout(c, row, RolloutState.PROMOTED, by, reason, **details)


def report_on(
    c: Connection, project: str, top: ledger.Entry, candidate_id: int, movers: set[str]
) -> GateReport:
    """Hold a candidate against the policy of its alias."""
    wanted = Wanted(project, top.alias_id, candidate_id, top.version_id, frozenset(movers))
    return report_of(c, demands_of(c, top.alias_id), wanted)


def standing_of(c: Connection, row: AnyRow) -> Standing:
    """Say what the servers have seen of a rollout, and what is due."""
    rollout, counts = rows.read_rollout(row), counts_of(c, row.id)
    arms = {arm: counts.get(row.generation, {}).get(arm, ArmCounts()) for arm in Arm}
    reference = _reference(counts, rollout.plan.guards.min_calls)
    lagging = _lagging(c, row) if rollout.is_going_on else ""
    seen = Seen(arms, reference, lagging)
    if rollout.is_going_on:
        return Standing(rollout, arms, decide(rollout, seen, now()))
    ended = decide(rollout, seen, now())
    return Standing(rollout, arms, Decision(Step.WAIT, "", ended.guards))


def _reference(counts: Mapping[int, Mapping[Arm, ArmCounts]], min_calls: int) -> ArmCounts:
    """Find what the incumbent did in the last stage in which it was asked often enough."""
    for generation in sorted(counts, reverse=True):
        incumbent = counts[generation].get(Arm.INCUMBENT, ArmCounts())
        if incumbent.num_calls >= min_calls:
            return incumbent
    return ArmCounts()


def _lagging(c: Connection, row: AnyRow) -> str:
    """Say which servers have not come to the stage, or can't; drained ones answer nobody new."""
    alias = f"projects/{row.project}/adapters/{row.adapter}/aliases/{row.alias}:"
    for beat in (beat for beat in live_heartbeats(c) if not beat.drained):
        if beat.sequence < row.sequence:
            return f"server {beat.server_id} has not seen the stage yet"
        for told in beat.divergences:
            if told.startswith(alias):
                return f"server {beat.server_id} can't follow: {told.removeprefix(alias).strip()}"
    return ""
