"""`loradock doctor`: what a server stands on, and whether it holds."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version as release_of
from typing import TYPE_CHECKING

import typer

from loradock.cli.command import JsonOption, command
from loradock.cli.output import note, print_aligned, print_json
from loradock.cli.refusal import PRECONDITION, CommandError
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.client import Diagnosis, Finding

CLOCK_WARN_S = 2.0


def add_commands(app: typer.Typer) -> None:
    """Add the command at the top, beside the nouns."""
    command(app, "doctor", "doctor", "doctor --json", gives="a list of `Finding`")(doctor)


def doctor(context: typer.Context, as_json: JsonOption = False) -> None:
    """Look at a server and all that it stands on; exit code 6 if something fails.

    The server answers, and looks at its catalog and schema, its store (what the endpoint can do is
    tried out, not assumed), its disks, clock, base, cache and audit log. A warning tells of what
    works, and should be known: the exit code stays 0.
    """
    with connect(context) as client:
        diagnosis = client.admin.diagnose()
    findings = [*diagnosis.findings, *_about_this_host(diagnosis)]
    if as_json:
        print_json(findings)
    else:
        print_aligned([[one.level.value, one.subject, one.message] for one in findings])
    failed = [one.subject for one in findings if one.level.value == "fail"]
    warned = [one.subject for one in findings if one.level.value == "warn"]
    note(f"{len(findings)} findings: {len(failed)} fail, {len(warned)} warn")
    if failed:
        raise CommandError(
            f"{', '.join(failed)}: not as it should be", "see the lines above", PRECONDITION
        )


def _about_this_host(diagnosis: Diagnosis) -> list[Finding]:
    """Compare clock and release of this command's host with the server's."""
    from loradock.client import Finding, FindingLevel

    mine, theirs = release_of("loradock"), diagnosis.release
    same = FindingLevel.OK if mine == theirs else FindingLevel.WARN
    told = f"loradock {mine} here, {theirs} at the server"
    findings = [Finding("client", same, told, {"client": mine, "server": theirs})]
    if diagnosis.at is not None:
        apart_s = abs((datetime.now(UTC) - diagnosis.at).total_seconds())
        level = FindingLevel.WARN if apart_s > CLOCK_WARN_S else FindingLevel.OK
        told = f"{apart_s:.2f} s apart from the server's"
        findings.append(Finding("client's clock", level, told, {"apart_s": f"{apart_s:.3f}"}))
    return findings
