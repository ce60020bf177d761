"""Commands of `loradock adapter` about what may become of a version; and how one is shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli.command import DryRunOption, JsonOption, ReasonOption, command
from loradock.cli.names import seconds_of, split_version
from loradock.cli.output import note, short_digest, show_record, size_text, text_of
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.client import Hold, Version

VersionArgument = Annotated[str, typer.Argument(metavar="ADAPTER@N")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands beside the noun's others."""
    command(
        app,
        "yank",
        "adapter yank support-triage@2 --reason 'leaks order numbers'",
        gives="`Version`",
    )(yank)
    command(
        app,
        "unyank",
        "adapter unyank support-triage@2 --reason 'it was another version'",
        gives="`Version`",
    )(unyank)
    command(
        app,
        "hold",
        "adapter hold support-triage@2 --reason 'evidence in case 17'",
        "adapter hold support-triage@2 --reason 'audit of Q3' --for 90d",
        gives="`Version`",
    )(hold)
    example = "adapter unhold support-triage@2 --reason 'case closed'"
    command(app, "unhold", example, gives="`Version`")(unhold)


def yank(
    context: typer.Context,
    version: VersionArgument,
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a version unresolvable; it stays auditable, and `unyank` takes it back."""
    adapter, number = split_version(version)
    with connect(context) as client:
        if dry_run:
            note(f"{version} would be yanked")
            found = client.versions.get(adapter, number)
        else:
            found = client.versions.yank(adapter, number, reason=reason)
        for alias in client.aliases.list(adapter):
            if alias.version_number == number:
                name = f"{adapter}:{alias.name}"
                note(f"{name} points at {version}: until it is moved, nobody answers by it")
    show_version(found, as_json)


def unyank(
    context: typer.Context,
    version: VersionArgument,
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a yanked version resolvable again."""
    adapter, number = split_version(version)
    with connect(context) as client:
        if dry_run:
            note(f"{version} would be resolvable again")
            found = client.versions.get(adapter, number)
        else:
            found = client.versions.unyank(adapter, number, reason=reason)
    show_version(found, as_json)


def hold(
    context: typer.Context,
    version: VersionArgument,
    reason: ReasonOption,
    lasts: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="End by itself, as in 90d.")
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Keep a version from being deleted or collected though nothing points at it.

    A version has one hold; holding it again replaces reason and time. Both are audited.
    """
    adapter, number = split_version(version)
    seconds = seconds_of(lasts)
    until = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
    with connect(context) as client:
        if dry_run:
            note(f"{version} would be held{'' if until is None else f' until {text_of(until)}'}")
            found = client.versions.get(adapter, number)
        else:
            found = client.versions.hold(adapter, number, reason=reason, expires_at=until)
    show_version(found, as_json)


def unhold(
    context: typer.Context,
    version: VersionArgument,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a hold back; without one nothing happens."""
    adapter, number = split_version(version)
    with connect(context) as client:
        if dry_run:
            note(f"{version} would not be held any more")
            found = client.versions.get(adapter, number)
        else:
            found = client.versions.unhold(adapter, number, reason=reason)
    show_version(found, as_json)


def show_version(version: Version, as_json: bool) -> None:
    """Give one version."""
    profile, lineage = version.profile, version.lineage
    show_record(
        version,
        {
            "version": version.reference,
            "state": ": ".join(filter(None, (version.state.value, version.state_reason))),
            "digest": version.digest,
            "base": version.base_model.removeprefix("baseModels/"),
            "weights": size_text(version.weights.size_bytes),
            "rank": version.max_rank,
            "modules": version.num_modules,
            "template": repr(profile.template) if profile.template else "",
            "labels": profile.labels or "",
            "parents": lineage.parents or "",
            "merge of": lineage.merge_of or "",
            "distilled from": lineage.distilled_from or "",
            "datasets": [f"{d.name} {short_digest(d.digest)}" for d in lineage.datasets] or "",
            "published": version.created_at,
            "by": version.created_by,
            "held": _hold_text(version.hold) if version.hold else "",
        },
        as_json,
    )


def _hold_text(hold: Hold) -> str:
    until = "" if hold.expires_at is None else f" until {text_of(hold.expires_at)}"
    return f"by {hold.held_by} since {text_of(hold.held_at)}{until}: {hold.reason}"
