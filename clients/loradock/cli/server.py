"""`loradock server`: running servers, and what they have resident."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli.command import DryRunOption, JsonOption, LimitOption, command, noun
from loradock.cli.names import split_alias
from loradock.cli.output import note, print_json, show_record, show_table, size_text
from loradock.cli.refusal import NOT_FOUND, CommandError
from loradock.cli.server_top import ServerRates, lines_of, rates_of
from loradock.cli.server_view import LIVE_COLUMNS, RESIDENCY_COLUMNS, named, status_fields
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.client import Client, LiveAlias, Residency, ServerStatus

app = noun("server", "See running servers, and what they have resident.")


@command(app, "status", "server status", gives="`ServerStatus`")
def status(context: typer.Context, as_json: JsonOption = False) -> None:
    """Describe the server that answers."""
    with connect(context) as client:
        found = client.server.status()
    if as_json:
        print_json(found)
        return
    show_record(found, status_fields(found), as_json)
    if found.live_aliases:
        print()
        show_table(found.live_aliases, LIVE_COLUMNS, as_json)
    if found.server.residencies:
        print()
        show_table(found.server.residencies, RESIDENCY_COLUMNS, as_json)


@command(app, "list", "server list", gives="a list of `Server`")
def list_(context: typer.Context, limit: LimitOption = None, as_json: JsonOption = False) -> None:
    """List the servers that the catalog has heard of lately."""
    with connect(context) as client:
        show_table(
            islice(client.server.list(), limit),
            {
                "server": lambda s: s.server_id,
                "address": lambda s: s.address,
                "base": lambda s: s.base_model.removeprefix("baseModels/"),
                "sequence": lambda s: s.sequence,
                "resident": lambda s: len(s.residencies),
                "divergences": lambda s: s.divergences or "none",
                "drained": lambda s: "yes" if s.drained else "",
                "seen": lambda s: s.seen_at,
            },
            as_json,
        )


@command(app, "top", "server top", "server top --once --json", gives="`ServerRates`")
def top(
    context: typer.Context,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="Between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show one interval, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch what the server that answers does: rows, tokens a second, memory, and for whom.

    On a terminal it is shown again and again until interrupted; off it once. With --json it is a
    document a line until interrupted, or with --once one document.
    """
    with connect(context) as client:
        seen = _rates(client, interval)
        if as_json:
            for rates in islice(seen, 1 if once else None):
                print_json(rates, on_one_line=not once)
        elif once or not sys.stdout.isatty():
            print("\n".join(lines_of(next(seen))))
        else:
            _watch(seen)


def _rates(client: Client, interval_s: float) -> Iterator[ServerRates]:
    """Look at a server again and again."""
    before, looked_at = client.server.status(), time.monotonic()
    while True:
        time.sleep(interval_s)
        now, seconds = client.server.status(), time.monotonic() - looked_at
        looked_at += seconds
        if now.server.server_id == before.server.server_id:  # else it was started anew
            yield rates_of(before, now, seconds)
        before = now


def _watch(seen: Iterator[ServerRates]) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as screen:
        for rates in seen:
            screen.update(Text("\n".join(lines_of(rates))), refresh=True)


@command(app, "prefetch", "server prefetch support-triage:staging", gives="`Residency`")
def prefetch(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REFERENCE")],
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a version's weights to the disk of the server that answers, and no further."""
    with connect(context) as client:
        found = _resolved(client, reference, "would be fetched") if dry_run else None
        _show_residency(found or client.server.prefetch(reference), as_json)


@command(
    app, "pin", "server pin support-triage", "server pin support-triage@7", gives="`Residency`"
)
def pin(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REFERENCE")],
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a version resident, and keep it so whatever else is asked for.

    A pinned alias keeps whatever it is answered with. It holds until the server ends; `loradock
    serve --pin` pins from the start.
    """
    with connect(context) as client:
        found = _resolved(client, reference, "would be pinned") if dry_run else None
        _show_residency(found or client.server.pin(reference), as_json)


@command(app, "unpin", "server unpin support-triage", gives="`Residency`")
def unpin(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REFERENCE")],
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a pin back, by the reference that was pinned. What was pinned goes when it must."""
    with connect(context) as client:
        found = _resolved(client, reference, "would be unpinned") if dry_run else None
        _show_residency(found or client.server.unpin(reference), as_json)


@command(app, "drain", "server drain", "server drain --wait 60 --exit", gives="`ServerStatus`")
def drain(
    context: typer.Context,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="Wait for running requests.")
    ] = 10.0,
    exit_: Annotated[
        bool, typer.Option("--exit", help="Then end the process, as SIGTERM does.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take the server that answers out of traffic: it refuses what is new, and ends what runs.

    Health says NOT_SERVING. `loradock server undrain` takes it back.
    """
    with connect(context) as client:
        found = client.server.status()
        if dry_run:
            then = "drained, then end" if exit_ else "drained"
            note(f"{found.server.server_id} would be {then}")
        else:
            num_inside = client.server.drain(wait_s=wait, exit=exit_)
            note(f"{found.server.server_id} is drained; {num_inside} requests still run")
            found = replace(found, drained=True) if exit_ else client.server.status()
        _show_drained(found, as_json)


@command(app, "undrain", "server undrain", gives="`ServerStatus`")
def undrain(
    context: typer.Context, dry_run: DryRunOption = False, as_json: JsonOption = False
) -> None:
    """Take the server that answers back into traffic."""
    with connect(context) as client:
        if dry_run:
            note(f"{client.server.status().server.server_id} would be taken back")
        else:
            client.server.undrain()
        _show_drained(client.server.status(), as_json)


def _show_drained(found: ServerStatus, as_json: bool) -> None:
    fields = status_fields(found)
    show_record(found, {name: fields[name] for name in ("server", "rows", "drained")}, as_json)


@command(app, "load", "server load support-triage:staging", gives="`Residency`")
def load(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REFERENCE")],
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a version resident on the server that answers."""
    with connect(context) as client:
        found = _resolved(client, reference, "would be made resident") if dry_run else None
        _show_residency(found or client.server.load(reference), as_json)


@command(app, "unload", "server unload support-triage@1", gives="`Residency`")
def unload(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REFERENCE|DIGEST")],
    drain: Annotated[
        float, typer.Option("--drain", metavar="SECONDS", help="Wait for running requests.")
    ] = 10.0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let a version go once its last request has ended. The next request brings it back."""
    with connect(context) as client:
        known = reference.startswith("sha256:")
        digest = reference if known else client.versions.resolve(reference).version.digest
        if dry_run:
            note(f"{digest} would be let go")
            _show_residency(_held(client, digest), as_json)
        else:
            _show_residency(client.server.unload(digest, drain_s=drain), as_json)


def _resolved(client: Client, reference: str, what: str) -> Residency:
    """Say what would happen to a version; give its place as it is."""
    version = client.versions.resolve(reference).version
    note(f"{version.reference} {what}")
    return _held(client, version.digest)


def _held(client: Client, digest: str) -> Residency:
    """Give a version's place on the server that answers, also if it has none."""
    from loradock.client import Residency, ResidencyState

    held = client.server.status().server.residencies
    absent = Residency(digest, ResidencyState.UNSPECIFIED, 0, 0, "not resident here")
    return next((r for r in held if r.version_digest == digest), absent)


def _show_residency(residency: Residency, as_json: bool) -> None:
    show_record(
        residency,
        {
            "version": named(residency.adapter, residency.version_number, ""),
            "digest": residency.version_digest,
            "state": residency.state,
            "pinned": "yes" if residency.pinned else "no",
            "size": size_text(residency.size_bytes),
            "leases": residency.num_leases,
            "reason": residency.reason,
        },
        as_json,
    )


@command(
    app,
    "override",
    "server override support-triage:production --reason 'the catalog is down'",
    gives="`LiveAlias`",
)
def override(
    context: typer.Context,
    alias: Annotated[str, typer.Argument(metavar="ADAPTER:ALIAS")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")],
    to: Annotated[
        str | None, typer.Option("--to", metavar="DIGEST", help="Else where a rollback would go.")
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make this server answer an alias with another resident version, while the catalog is down.

    It is audited, reported as divergent, and reconciled when the catalog is back.
    """
    adapter, name = split_alias(alias)
    with connect(context) as client:
        if dry_run:
            note(f"{alias} would answer with {to or 'where a rollback would go'}")
            _show_live(_live(client, adapter, name), as_json)
            return
        _show_live(client.server.override(adapter, name, to=to, reason=reason), as_json)


def _live(client: Client, adapter: str, alias: str) -> LiveAlias:
    """Give what the server that answers has for an alias."""
    for live in client.server.status().live_aliases:
        if (live.adapter, live.alias) == (adapter, alias):
            return live
    raise CommandError(f"this server does not follow {adapter}:{alias}", exit_code=NOT_FOUND)


def _show_live(live: LiveAlias, as_json: bool) -> None:
    show_record(
        live,
        {
            "alias": f"{live.adapter}:{live.alias}",
            "live": f"{named(live.adapter, live.live_number, '')} {live.live_digest}",
            "desired": f"{named(live.adapter, live.desired_number, '')} {live.desired_digest}",
            "generation": live.generation,
            "overridden": "yes" if live.overridden else "no",
            "reason": live.reason,
        },
        as_json,
    )
