"""How a rollout looks in a terminal: stages, arms and guards as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradock.cli.output import aligned, text_of

if TYPE_CHECKING:
    from loradock.client import ArmReport, GuardReport, Rollout


def lines_of(rollout: Rollout) -> list[str]:
    """Give what to show of a rollout."""
    name = f"{rollout.adapter}:{rollout.alias}"
    fields = {
        "rollout": f"{name} from @{rollout.incumbent_number} to @{rollout.candidate_number}",
        "state": _state(rollout),
        "stages": _stages(rollout),
        "waits for": rollout.waits_for,
        "shadow": f"{rollout.shadow_percent:g} %" if rollout.shadow_percent else "",
        "started": f"{text_of(rollout.started_at)} by {rollout.started_by}",
        "ended": text_of(rollout.ended_at) if rollout.ended_at else "",
        "reason": rollout.reason,
    }
    lines = aligned([[f"{field}:", told] for field, told in fields.items() if told])
    if rollout.arms:
        head = ["ARM", "CALLS", "ERRORS", "P50", "P95", "AGREED"]
        lines += ["", *aligned([head, *map(_arm, rollout.arms)])]
    if rollout.guard_reports:
        head = ["GUARD", "STATE", "MEASURED", "BOUND", "LIMIT", "MARGIN", ""]
        lines += ["", *aligned([head, *map(_guard, rollout.guard_reports)])]
    return lines


def _state(rollout: Rollout) -> str:
    """Tell the state, and who brought it there and why."""
    by = f", by {rollout.state_by}" if rollout.state_by else ""
    why = f": {rollout.state_reason}" if rollout.state_reason else ""
    return f"{rollout.state.value}{by}{why}"


def _stages(rollout: Rollout) -> str:
    """Mark the stage that is reached."""
    told = [f"{stage.percent:g} %" for stage in rollout.stages]
    if rollout.is_going_on:
        told[rollout.stage] = f"[{told[rollout.stage]}]"
    return "  ".join(told)


def _arm(arm: ArmReport) -> list[str]:
    errors = f"{arm.num_errors} ({arm.num_errors / arm.num_calls:.1%})" if arm.num_calls else "-"
    return [
        arm.arm,
        str(arm.num_calls),
        errors,
        _seconds(arm.latency_p50_s),
        _seconds(arm.latency_p95_s),
        _agreed(arm) if arm.arm == "shadow" else "",
    ]


def _agreed(arm: ArmReport) -> str:
    answered = arm.num_calls - arm.num_errors
    told = f"{arm.num_agreed} ({arm.num_agreed / answered:.1%})" if answered else "-"
    if arm.first_difference_tokens is not None:
        told += f", others after {arm.first_difference_tokens:.1f} tokens"
    return told + (f", {arm.num_dropped} dropped" if arm.num_dropped else "")


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _guard(report: GuardReport) -> list[str]:
    """Give a guard's line; its margin is what the bound is below the limit."""
    numbers = (report.value, report.bound, report.limit)
    margin = None if report.bound is None else report.limit - report.bound
    return [
        report.guard,
        report.state.lower(),
        *(text_of(number) for number in (*numbers, margin)),
        report.message,
    ]
