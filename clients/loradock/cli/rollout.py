"""`loradock rollout`: bring a version under an alias in stages."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli.command import DryRunOption, JsonOption, ReasonOption, command, noun
from loradock.cli.names import split_alias, stage, version_number
from loradock.cli.output import note, print_json
from loradock.cli.refusal import CommandError
from loradock.cli.rollout_view import lines_of
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.client import Client, PolicyCheck, Rollout

app = noun("rollout", "Bring a version under an alias in stages, guarded.")

WATCH_S = 1.0

AliasArgument = Annotated[str, typer.Argument(metavar="ADAPTER:ALIAS")]
OverrideOption = Annotated[
    bool,
    typer.Option("--override", help="Though its policy is not met: needs a role and --reason."),
]


@command(
    app,
    "start",
    "rollout start support-triage:production 2 --reason 'beats v1'",
    "rollout start support-triage:production 2 --stage 5:1h --stage 50:1h --stage 100:30m",
    "rollout start support-triage:production 2 --stage 0:1d --stage 100:1h --shadow 10",
    gives="`StartedRollout`",
)
def start(
    context: typer.Context,
    alias: AliasArgument,
    version: Annotated[str, typer.Argument(metavar="N", help="The version's number.")],
    stages: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            metavar="PERCENT:HOLD",
            help="Repeatable; without any: 1, 10, 50 and 100 % for ten minutes each.",
        ),
    ] = None,
    shadow: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            metavar="PERCENT",
            help="Of other requests, computed too, seen by nobody.",
        ),
    ] = 0.0,
    max_error_increase: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of failed calls. By default 0.01.")
    ] = None,
    max_latency_ratio: Annotated[
        float | None, typer.Option(metavar="RATIO", help="At p50 and p95. By default 1.5.")
    ] = None,
    min_calls: Annotated[
        int | None, typer.Option(metavar="N", help="Of each arm, to conclude. By default 20.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of a guard. By default 0.999.")
    ] = None,
    reason: ReasonOption = "",
    etag: Annotated[
        str | None, typer.Option("--etag", help="Start only at what was read under this etag.")
    ] = None,
    override: OverrideOption = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "--validate-only", help="Tell whether it would start."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give a version a first share of an alias's requests, and let it grow by itself.

    It is taken back by itself where it fails its callers, or keeps them waiting, more than the
    version does that it is to replace. At the end the alias is moved, if its policy is met.
    """
    from loradock.client import RolloutGuards, RolloutStage

    adapter, name = split_alias(alias)
    with connect(context) as client:
        started = client.rollouts.start(
            adapter,
            name,
            version_number(version),
            stages=[RolloutStage(*stage(text)) for text in stages or ()],
            guards=RolloutGuards(max_error_increase, max_latency_ratio, min_calls, confidence),
            shadow_percent=shadow,
            etag=etag,
            reason=reason,
            validate_only=dry_run,
            override_policy=override,
        )
    if as_json:
        print_json(started)
    else:
        _print(started.rollout)
    for check in started.report.checks:
        met = "met" if check.passed else "NOT MET"
        note(f"policy {met}: {_subject(check)} {check.message}")
    if dry_run:
        note("nothing was started")


@command(
    app,
    "status",
    "rollout status support-triage:production",
    "rollout status support-triage:production --watch",
    gives="`Rollout`",
)
def status(
    context: typer.Context,
    alias: AliasArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again and again, on a terminal.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show an alias's rollout, or its last one: stages, calls and errors of each arm, guards."""
    adapter, name = split_alias(alias)
    if watch and (as_json or not sys.stdout.isatty()):
        raise CommandError("--watch needs a terminal", "ask again and again for --json instead")
    with connect(context) as client:
        if watch:
            _watch(client, adapter, name)
        else:
            _show(client.rollouts.get(adapter, name), as_json)


def _watch(client: Client, adapter: str, name: str) -> None:
    """Show a rollout until it ends, or whoever watches interrupts."""
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as screen:
        while True:
            rollout = client.rollouts.get(adapter, name)
            screen.update(Text("\n".join(lines_of(rollout))), refresh=True)
            if not rollout.is_going_on:
                return
            time.sleep(WATCH_S)


@command(
    app,
    "pause",
    "rollout pause support-triage:production --reason 'until Monday'",
    gives="`Rollout`",
)
def pause(
    context: typer.Context,
    alias: AliasArgument,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stay at the stage that is reached. The guards go on."""
    adapter, name = split_alias(alias)
    with connect(context) as client:
        if _tells_only(client, adapter, name, dry_run, "paused", as_json):
            return
        _show(client.rollouts.pause(adapter, name, reason=reason), as_json)


@command(app, "resume", "rollout resume support-triage:production", gives="`Rollout`")
def resume(
    context: typer.Context,
    alias: AliasArgument,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go on where it was paused, or stopped by a policy; the stage's hold begins anew."""
    adapter, name = split_alias(alias)
    with connect(context) as client:
        if _tells_only(client, adapter, name, dry_run, "resumed", as_json):
            return
        _show(client.rollouts.resume(adapter, name, reason=reason), as_json)


@command(
    app,
    "promote",
    "rollout promote support-triage:production --reason 'seen enough'",
    gives="`Rollout`",
)
def promote(
    context: typer.Context,
    alias: AliasArgument,
    reason: ReasonOption = "",
    etag: Annotated[
        str, typer.Option("--etag", help="Only from the stage that was read under this etag.")
    ] = "",
    override: OverrideOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Move the alias to the candidate now, if its policy is met."""
    adapter, name = split_alias(alias)
    with connect(context) as client:
        if _tells_only(client, adapter, name, dry_run, "promoted", as_json):
            return
        promoted = client.rollouts.promote(
            adapter, name, reason=reason, etag=etag, override_policy=override
        )
        _show(promoted, as_json)


@command(
    app,
    "abort",
    "rollout abort support-triage:production --reason 'wrong labels'",
    gives="`Rollout`",
)
def abort(
    context: typer.Context,
    alias: AliasArgument,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give all requests back to the version that the alias points at."""
    adapter, name = split_alias(alias)
    with connect(context) as client:
        if _tells_only(client, adapter, name, dry_run, "aborted", as_json):
            return
        _show(client.rollouts.abort(adapter, name, reason=reason), as_json)


def _tells_only(
    client: Client, adapter: str, name: str, dry_run: bool, what: str, as_json: bool
) -> bool:
    if dry_run:
        rollout = client.rollouts.get(adapter, name)
        if rollout.is_going_on:
            note(f"the rollout of @{rollout.candidate_number} would be {what}; nothing was done")
        else:
            note(f"the rollout was {rollout.state.value} already; nothing would be done")
        _show(rollout, as_json)
    return dry_run


def _show(rollout: Rollout, as_json: bool) -> None:
    if as_json:
        print_json(rollout)
    else:
        _print(rollout)


def _subject(check: PolicyCheck) -> str:
    """Name what is demanded: a metric of a suite, a suite, or the approvals, which have neither."""
    return " ".join(filter(None, (check.suite or "approvals", check.metric)))


def _print(rollout: Rollout) -> None:
    print("\n".join(lines_of(rollout)))
