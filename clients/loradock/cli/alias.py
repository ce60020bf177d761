"""`loradock alias`: which version is live, and which was."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli import policy
from loradock.cli.command import (
    DryRunOption,
    JsonOption,
    LimitOption,
    ReasonOption,
    YesOption,
    command,
    noun,
)
from loradock.cli.names import split_alias, version_number
from loradock.cli.output import note, print_json, show_record, show_table, split_text
from loradock.cli.refusal import UNAVAILABLE, CommandError
from loradock.cli.session import confirm, connect

if TYPE_CHECKING:
    from loradock.client import Alias, AliasChange, AliasMove, Approval

app = noun("alias", "Say which version is live, and see which was.")
app.add_typer(policy.app)

AliasArgument = Annotated[str, typer.Argument(metavar="ADAPTER:ALIAS")]
WaitOption = Annotated[
    float | None,
    typer.Option("--wait", metavar="SECONDS", help="Wait until the live servers follow."),
]
OverrideOption = Annotated[
    bool,
    typer.Option("--override", help="Though its policy is not met: needs a role and --reason."),
]
EtagOption = Annotated[
    str | None, typer.Option("--etag", help="Move only what was read under this etag.")
]


@command(
    app,
    "set",
    "alias set support-triage:production 2 --reason 'beats v1' --wait 10",
    "alias set support-triage:production 2 --validate-only",
    gives="`AliasChange`",
)
def set_(
    context: typer.Context,
    alias: AliasArgument,
    version: Annotated[str, typer.Argument(metavar="N", help="The version's number.")],
    reason: ReasonOption = "",
    wait: WaitOption = None,
    etag: EtagOption = None,
    override: OverrideOption = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "--validate-only", help="Tell whether it would be moved."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create an alias, or move it to another version, one that meets the alias's policy."""
    adapter, name = split_alias(alias)
    number = version_number(version)
    with connect(context) as client:
        change = client.aliases.set(
            adapter,
            name,
            number,
            etag=etag,
            reason=reason,
            wait_s=wait,
            validate_only=dry_run,
            override_policy=override,
        )
    if dry_run:
        note(f"{alias} could be moved to @{number}; nothing was moved")
    _show_change(change, as_json)


@command(
    app,
    "rollback",
    "alias rollback support-triage:production --reason 'wrong labels'",
    gives="`AliasChange`",
)
def rollback(
    context: typer.Context,
    alias: AliasArgument,
    reason: ReasonOption = "",
    wait: WaitOption = None,
    etag: EtagOption = None,
    override: OverrideOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Walk an alias back by one move. Twice walks back twice; it never toggles."""
    from loradock.client import AliasChange

    adapter, name = split_alias(alias)
    with connect(context) as client:
        if dry_run:
            current = client.aliases.get(adapter, name)
            note(f"{alias} would go back to {_numbered(current.previous_number)}")
            _show_change(AliasChange(current, None), as_json)
            return
        change = client.aliases.rollback(
            adapter, name, etag=etag, reason=reason, wait_s=wait, override_policy=override
        )
    _show_change(change, as_json)


def _show_change(change: AliasChange, as_json: bool) -> None:
    if as_json:
        print_json(change)
    else:
        _show_alias(change.alias, as_json)
    following = change.following
    if following is None:
        return
    note(f"{following.num_following} of {following.num_servers} live servers follow")
    if not following.is_complete:
        raise CommandError(
            "the alias was moved, but not every live server follows: "
            + ("; ".join(following.reasons) or "no reason was told"),
            "`loradock server list` tells where each one is",
            UNAVAILABLE,
        )


@command(app, "show", "alias show support-triage:production", gives="`Alias`")
def show(context: typer.Context, alias: AliasArgument, as_json: JsonOption = False) -> None:
    """Show where an alias points, and where a rollback would go."""
    adapter, name = split_alias(alias)
    with connect(context) as client:
        _show_alias(client.aliases.get(adapter, name), as_json)


def _show_alias(alias: Alias, as_json: bool) -> None:
    show_record(
        alias,
        {
            "alias": f"{alias.adapter}:{alias.name}",
            "version": f"{alias.adapter}@{alias.version_number}",
            "digest": alias.version_digest,
            "split": split_text(alias.split),
            "previous": _numbered(alias.previous_number),
            "generation": alias.generation,
            "etag": alias.etag,
            "moved": alias.moved_at,
            "by": alias.moved_by,
        },
        as_json,
    )


def _numbered(number: int | None) -> str:
    return "-" if number is None else f"@{number}"


@command(app, "list", "alias list support-triage", gives="a list of `Alias`")
def list_(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument()],
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """List an adapter's aliases."""
    with connect(context) as client:
        show_table(
            islice(client.aliases.list(adapter), limit),
            {
                "alias": lambda a: f"{a.adapter}:{a.name}",
                "version": lambda a: _numbered(a.version_number),
                "previous": lambda a: _numbered(a.previous_number),
                "generation": lambda a: a.generation,
                "moved": lambda a: a.moved_at,
                "by": lambda a: a.moved_by,
            },
            as_json,
        )


@command(
    app,
    "history",
    "alias history support-triage:production",
    "alias history support-triage:production --at 2026-11-24T12:00",
    gives="a list of `AliasMove`",
)
def history(
    context: typer.Context,
    alias: AliasArgument,
    at: Annotated[
        datetime | None, typer.Option("--at", help="Only the move that was in force then.")
    ] = None,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """List an alias's moves, the newest first: who, when, why."""
    adapter, name = split_alias(alias)
    with connect(context) as client:
        if at is None:
            _show_moves(list(islice(client.aliases.history(adapter, name), limit)), as_json)
        else:
            move = client.aliases.at(adapter, name, at)
            if move is None:
                note(f"{alias} was first set after that")
            _show_moves([] if move is None else [move], as_json)


def _show_moves(moves: list[AliasMove], as_json: bool) -> None:
    show_table(
        moves,
        {
            "generation": lambda m: m.generation,
            "kind": lambda m: m.kind,
            "version": lambda m: _numbered(m.version_number),
            "split": lambda m: split_text(m.split),
            "moved": lambda m: m.moved_at,
            "by": lambda m: m.moved_by,
            "reason": lambda m: m.reason,
        },
        as_json,
    )


@command(
    app,
    "approve",
    "alias approve support-triage:production 2 --reason 'looked at 50 answers'",
    gives="a list of `Approval`",
)
def approve(
    context: typer.Context,
    alias: AliasArgument,
    version: Annotated[str, typer.Argument(metavar="N", help="The version's number.")],
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Agree to an alias's move to a version, where its policy asks for approvals.

    An approval is valid as long as an evaluation is (the policy's --max-age); again is anew. That
    of who publishes the version or moves the alias does not count. A server with one token, or with
    none, takes all its callers for one; give it a callers file (docs/configuration.md).
    """
    adapter, name = split_alias(alias)
    number = version_number(version)
    with connect(context) as client:
        if dry_run:
            note(f"{adapter}@{number} would be approved for {alias}")
            found = client.aliases.approvals(adapter, name, number)
        else:
            found = client.aliases.approve(adapter, name, number, reason=reason)
    _show_approvals(found, as_json)


@command(
    app,
    "withdraw",
    "alias withdraw support-triage:production 2 --reason 'it leaks order numbers'",
    gives="a list of `Approval`",
)
def withdraw(
    context: typer.Context,
    alias: AliasArgument,
    version: Annotated[str, typer.Argument(metavar="N", help="The version's number.")],
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take your own approval back; exit code 3 if there is none."""
    adapter, name = split_alias(alias)
    number = version_number(version)
    with connect(context) as client:
        if dry_run:
            note(f"your approval of {adapter}@{number} would be withdrawn")
            found = client.aliases.approvals(adapter, name, number)
        else:
            found = client.aliases.withdraw(adapter, name, number, reason=reason)
    _show_approvals(found, as_json)


@command(
    app,
    "approvals",
    "alias approvals support-triage:production 2",
    gives="a list of `Approval`",
)
def approvals(
    context: typer.Context,
    alias: AliasArgument,
    version: Annotated[str, typer.Argument(metavar="N", help="The version's number.")],
    as_json: JsonOption = False,
) -> None:
    """List who agreed to a version, and did not take it back."""
    adapter, name = split_alias(alias)
    with connect(context) as client:
        _show_approvals(client.aliases.approvals(adapter, name, version_number(version)), as_json)


def _show_approvals(found: Sequence[Approval], as_json: bool) -> None:
    show_table(
        found,
        {
            "version": lambda a: _numbered(a.version_number),
            "by": lambda a: a.approver,
            "approved": lambda a: a.approved_at,
            "reason": lambda a: a.reason,
        },
        as_json,
    )


@command(
    app,
    "delete",
    "alias delete support-triage:staging --yes",
    gives='`{"deleted": true or false, "name": …, "was": Alias}`',
)
def delete(
    context: typer.Context,
    alias: AliasArgument,
    reason: ReasonOption = "",
    etag: EtagOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove an alias; its history stays."""
    adapter, name = split_alias(alias)
    with connect(context) as client:
        current = client.aliases.get(adapter, name)
        if not dry_run:
            confirm(f"Delete the alias {alias}, which points to @{current.version_number}?", yes)
            client.aliases.delete(
                adapter, name, etag=current.etag if etag is None else etag, reason=reason
            )
    note(f"{alias} {'would be' if dry_run else 'was'} deleted")
    if as_json:
        print_json({"deleted": not dry_run, "name": alias, "was": current})
