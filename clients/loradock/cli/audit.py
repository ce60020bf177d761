"""`loradock audit`: who did what, when and why, and whether the log is as it was written."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli.command import JsonOption, LimitOption, command, noun
from loradock.cli.output import note, print_json, show_table
from loradock.cli.refusal import INTEGRITY, CommandError
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.client import AuditHead

app = noun("audit", "See who did what, and prove that the log is as it was written.")


@command(app, "list", "audit list --limit 20", gives="a list of `AuditEvent`")
def list_(context: typer.Context, limit: LimitOption = None, as_json: JsonOption = False) -> None:
    """List what was done in the project, the newest first."""
    with connect(context) as client:
        show_table(
            islice(client.admin.audit_events(), limit),
            {
                "sequence": lambda event: event.sequence,
                "at": lambda event: event.at,
                "by": lambda event: event.subject,
                "action": lambda event: event.action,
                "resource": lambda event: event.resource,
                "reason": lambda event: event.reason,
            },
            as_json,
        )


@command(
    app,
    "verify",
    "audit verify",
    "audit verify --head 4711:sha256:…",
    gives="`AuditReport`",
)
def verify(
    context: typer.Context,
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="SEQUENCE:HASH", help="As an earlier run told it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Follow the log's chain of hashes; exit code 7 if an event was edited or is missing.

    Keep the head that it tells elsewhere: with --head it proves later that nothing up to there was
    changed, not even by who owns the database.
    """
    known = None if head is None else read_head(head)
    with connect(context) as client:
        report = client.admin.verify_audit(known)
    if as_json:
        print_json(report)
    elif report.breaks:
        columns = {"sequence": lambda b: b.sequence, "what": lambda b: b.what}
        show_table(report.breaks, columns, as_json)
    else:
        print(f"{report.head.sequence}:{report.head.hash}")
    if report.breaks:
        first = report.breaks[0]
        raise CommandError(
            f"the audit log is not as it was written: event {first.sequence} is {first.what}",
            "compare it with a backup of the catalog",
            INTEGRITY,
        )
    note(f"{report.num_events} events, none edited and none missing")


def read_head(text: str) -> AuditHead:
    """Read `4711:sha256:…`."""
    from loradock.client import AuditHead

    found = re.fullmatch(r"(\d{1,18}):(sha256:[0-9a-f]{64})", text)
    if not found:
        raise CommandError(f"{text!r} is no head", "write it as `loradock audit verify` tells it")
    return AuditHead(int(found[1]), found[2])
