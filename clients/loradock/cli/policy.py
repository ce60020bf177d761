"""`loradock alias policy`: what an alias demands of a version before it may point there."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli.command import (
    DryRunOption,
    JsonOption,
    LimitOption,
    ReasonOption,
    command,
    noun,
)
from loradock.cli.names import dataset_digest, seconds_of, split_alias, version_number
from loradock.cli.output import note, print_json, show_record, show_table
from loradock.cli.refusal import PRECONDITION, CommandError
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.client import AliasPolicy, MetricDemand, SuiteDemand

app = noun("policy", "Say what an alias demands of a version before it may point there.")

AliasArgument = Annotated[str, typer.Argument(metavar="ADAPTER:ALIAS")]
_REQUIRED = re.compile(r"([^:]+)(?::([^<>=]+)(?:(>=|<=)(-?[0-9.]+(?:e-?\d+)?))?)?")
_NOT_WORSE = re.compile(r"([^:]+):([^=]+)=([0-9.]+(?:e-?\d+)?)(,lower)?")


@command(
    app,
    "set",
    "alias policy set support-triage:production --require 'held-out:accuracy>=0.9'",
    "alias policy set support-triage:production --require held-out "
    "--not-worse held-out:accuracy=0.02 --max-age 7d",
    gives="`AliasPolicy`",
)
def set_(
    context: typer.Context,
    alias: AliasArgument,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", help="SUITE, SUITE:METRIC>=0.9 or <=; repeatable."),
    ] = None,
    not_worse: Annotated[
        list[str] | None,
        typer.Option("--not-worse", help="SUITE:METRIC=MARGIN[,lower]; repeatable."),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="SUITE=the rows, a file or a digest; repeatable."),
    ] = None,
    max_age: Annotated[
        str | None, typer.Option("--max-age", help="How old an evaluation may be, as in 7d.")
    ] = None,
    rollback_window: Annotated[
        str | None,
        typer.Option("--rollback-window", help="How long a rollback needs no evaluations; 1d."),
    ] = None,
    approvals: Annotated[
        int, typer.Option("--approvals", min=0, help="How many others have to approve.")
    ] = 0,
    protect: Annotated[
        bool, typer.Option("--protect", help="Only who may set policies may move it.")
    ] = False,
    nothing: Annotated[bool, typer.Option("--nothing", help="Demand nothing any more.")] = False,
    etag: Annotated[str | None, typer.Option("--etag", help="Only if it is still this.")] = None,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Replace what an alias demands. Where it points now, it stays.

    A demanded suite must have been measured on the version's own base; the last evaluation counts.
    --not-worse compares with the version that the alias points at, on the same rows: it must be
    shown (at 95 %, one-sided) to be worse by no more than the margin; item by item if both records
    have items, as those of `eval run`, else by their intervals, else by the values alone. Approvals
    are those of others than who moves the alias and who published the version, no older than
    --max-age.
    """
    adapter, name = split_alias(alias)
    suites = read_suites(require or [], not_worse or [], dataset or [])
    if (bool(suites) or approvals > 0 or protect) is nothing:
        what = "--require, --not-worse, --approvals or --protect, or --nothing"
        raise CommandError(f"say what is demanded: {what}")
    with connect(context) as client:
        policy = client.policies.set(
            adapter,
            name,
            suites,
            max_age_s=seconds_of(max_age),
            rollback_window_s=seconds_of(rollback_window),
            num_approvals=approvals,
            is_protected=protect,
            etag=etag,
            reason=reason,
            validate_only=dry_run,
        )
    if dry_run:
        note("nothing was set")
    _show(policy, as_json)


def read_suites(require: list[str], not_worse: list[str], dataset: list[str]) -> list[SuiteDemand]:
    """Read `held-out:accuracy>=0.9`, `held-out:loss=0.1,lower` and `held-out=rows.jsonl`."""
    from loradock.client import SuiteDemand

    metrics: dict[str, dict[str, MetricDemand]] = {}
    for text in require:
        _require(text, metrics)
    for text in not_worse:
        _compare(text, metrics)
    rows = dict(_pair(text) for text in dataset)
    if unknown := sorted(rows.keys() - metrics.keys()):
        raise CommandError(f"nothing is demanded of the suite {unknown[0]!r}, only its rows named")
    return [
        SuiteDemand(
            suite,
            tuple(named.values()),
            dataset_digest(rows[suite]) if suite in rows else None,
        )
        for suite, named in metrics.items()
    ]


def _require(text: str, metrics: dict[str, dict[str, MetricDemand]]) -> None:
    from loradock.client import MetricDemand, MetricDirection

    found = _REQUIRED.fullmatch(text)
    if not found:
        raise CommandError(f"{text!r} demands nothing", "write it as held-out:accuracy>=0.9")
    suite, metric, sign, value = found.groups()
    named = metrics.setdefault(suite, {})
    if metric is not None:
        threshold = None if value is None else _number(value)
        direction = MetricDirection.LOWER if sign == "<=" else MetricDirection.HIGHER
        named[metric] = MetricDemand(metric, threshold, direction=direction)


def _compare(text: str, metrics: dict[str, dict[str, MetricDemand]]) -> None:
    from loradock.client import MetricDemand, MetricDirection

    found = _NOT_WORSE.fullmatch(text)
    if not found:
        raise CommandError(f"{text!r} is no margin", "write it as held-out:accuracy=0.02")
    suite, metric, margin, lower = found.groups()
    named = metrics.setdefault(suite, {})
    if metric not in named:
        direction = MetricDirection.LOWER if lower else MetricDirection.HIGHER
        named[metric] = MetricDemand(metric, direction=direction)
    named[metric] = replace(named[metric], margin=_number(margin))


def _number(text: str) -> float:
    if text.count(".") > 1 or text in (".", "-."):
        raise CommandError(f"{text!r} is no number")
    return float(text)


def _pair(text: str) -> tuple[str, str]:
    suite, sign, rows = text.partition("=")
    if not suite or not sign or not rows:
        raise CommandError(f"{text!r} names no rows", "write it as held-out=rows.jsonl")
    return suite, rows


@command(app, "show", "alias policy show support-triage:production", gives="`AliasPolicy`")
def show(
    context: typer.Context,
    alias: AliasArgument,
    revision: Annotated[
        int, typer.Option("--revision", min=0, help="What was demanded once; see `history`.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show what an alias demands, and since when."""
    adapter, name = split_alias(alias)
    with connect(context) as client:
        _show(client.policies.get(adapter, name, revision=revision), as_json)


@command(
    app,
    "history",
    "alias policy history support-triage:production",
    gives="a list of `AliasPolicy`",
)
def history(
    context: typer.Context,
    alias: AliasArgument,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what an alias demanded, the newest first: who said so, when, why."""
    adapter, name = split_alias(alias)
    with connect(context) as client:
        show_table(
            islice(client.policies.history(adapter, name), limit),
            {
                "revision": lambda p: p.etag,
                "demands": _demands_text,
                "set": lambda p: p.set_at,
                "by": lambda p: p.set_by,
                "reason": lambda p: p.reason,
            },
            as_json,
        )


def _demands_text(policy: AliasPolicy) -> str:
    told = [f"{suite.suite}: {_suite_text(suite)}" for suite in policy.suites]
    told += [f"{policy.num_approvals} approvals"] if policy.num_approvals else []
    told += ["protected"] if policy.is_protected else []
    return "; ".join(told) or "nothing"


def _show(policy: AliasPolicy, as_json: bool) -> None:
    fields: dict[str, object] = {"alias": f"{policy.adapter}:{policy.alias}"}
    for suite in policy.suites:
        fields[f"suite {suite.suite}"] = _suite_text(suite)
    more = {
        "approvals": policy.num_approvals or "",
        "protected": "yes" if policy.is_protected else "",
        "demands": "" if _demands_text(policy) != "nothing" else "nothing",
        "max age": "" if policy.max_age_s is None else f"{policy.max_age_s:g} s",
        "rollback window": f"{policy.rollback_window_s:g} s",
        "etag": policy.etag,
        "set": policy.set_at,
        "by": policy.set_by,
        "reason": policy.reason,
    }
    show_record(policy, fields | more, as_json)


def _suite_text(suite: SuiteDemand) -> str:
    told = [_metric_text(demand) for demand in suite.metrics] or ["measured"]
    if suite.dataset_digest:
        told.append(f"on {suite.dataset_digest}")
    return "; ".join(told)


def _metric_text(demand: MetricDemand) -> str:
    sign = "<=" if demand.direction.value == "lower" else ">="
    parts = [demand.metric]
    if demand.threshold is not None:
        parts.append(f"{sign} {demand.threshold:g}")
    if demand.margin is not None:
        parts.append(f"not worse than the incumbent by more than {demand.margin:g}")
    return " ".join(parts)


@command(
    app,
    "check",
    "alias policy check support-triage:production 2",
    gives="`PolicyReport`",
)
def check(
    context: typer.Context,
    alias: AliasArgument,
    version: Annotated[str, typer.Argument(metavar="N", help="The version's number.")],
    as_json: JsonOption = False,
) -> None:
    """Hold a version against what an alias demands; exit code 6 if it is not met."""
    adapter, name = split_alias(alias)
    with connect(context) as client:
        report = client.policies.check(adapter, name, version_number(version))
    if as_json:
        print_json(report)
    elif report.checks:
        show_table(
            report.checks,
            {
                "suite": lambda c: c.suite or "approvals",
                "metric": lambda c: c.metric,
                "result": lambda c: c.code,
                "value": lambda c: c.value,
                "wanted": lambda c: c.wanted,
                "why": lambda c: c.message,
            },
            as_json,
        )
    if not report.passed:
        missed = sum(not check.passed for check in report.checks)
        raise CommandError(
            f"{adapter}@{version_number(version)} misses {missed} of {len(report.checks)} demands",
            "measure it (`loradock eval run`), have it approved (`loradock alias approve`), or "
            "choose another version",
            PRECONDITION,
        )
    if report.checks:
        note(f"{adapter}@{version_number(version)} meets the policy of {alias}")
    else:
        note(f"{alias} demands nothing of {adapter}@{version_number(version)}")
