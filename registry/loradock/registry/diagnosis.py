"""What a registry needs, looked at: catalog, clock, store, disks, audit log. Nothing is assumed."""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select, text

from loradock.registry.catalog.audit import Audit
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.schema import found_schema, known_schema
from loradock.registry.catalog.tables import blobs, versions
from loradock.registry.catalog.types import now
from loradock.registry.errors import RegistryError
from loradock.registry.stores import BlobStore, Capabilities

SLOW_S = 0.25
CLOCK_WARN_S, CLOCK_FAIL_S = 2.0, 60.0
LOW_BYTES, LOW_SHARE = 2 << 30, 0.05
FULL_BYTES = 64 << 20


class Level(enum.Enum):
    """What a finding calls for."""

    OK = "ok"
    WARN = "warn"  # it works, and somebody should know
    FAIL = "fail"  # it does not work, or soon won't


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one thing came to."""

    subject: str  # "catalog", "store", "disk of the blobs"
    level: Level
    message: str
    facts: Mapping[str, str] = field(default_factory=dict)


class Diagnosis:
    """Looks at all that a registry stands on. Changes nothing but for the probe's own key."""

    def __init__(self, database: Database, store: BlobStore, audit: Audit) -> None:
        self._database = database
        self._store = store
        self._audit = audit

    def findings(self) -> Iterator[Finding]:
        """Look at everything, one after the other; what does not answer is a finding, too."""
        yield from _seen("catalog", self._catalog)
        yield from _seen("clock", self._clock)
        yield from _seen("audit log", self._audit_log)
        yield from _seen("store", self._store_findings)
        yield from _seen("blobs", self._blobs)
        disks = {
            "catalog": None if self._database.path is None else self._database.path.parent,
            "blobs": self._store.disk,
            "uploads": self._store.spool.folder,
        }
        for what, folder in disks.items():
            if folder is not None:
                yield disk_finding(f"disk of the {what}", folder)

    def _catalog(self) -> Iterator[Finding]:
        begun = time.monotonic()
        with self._database.read() as c:
            num_versions = c.execute(select(func.count()).select_from(versions)).scalar_one()
            answered_s = time.monotonic() - begun
            server = ".".join(map(str, c.dialect.server_version_info or ()))
            dialect = c.dialect.name
        found, known = found_schema(self._database) or "empty", known_schema()
        facts = {
            "dialect": dialect,
            "dialect_version": server,
            "schema_found": found,
            "schema_known": known,
            "num_versions": str(num_versions),
            "answered_ms": f"{answered_s * 1e3:.1f}",
        }
        told = f"{dialect} {server} with schema {found} and {num_versions} versions"
        if found != known:
            told += f"; this release knows {known}: run `loradock migrate`"
            yield Finding("catalog", Level.WARN, told, facts)
        elif answered_s > SLOW_S:
            told += f"; it took {answered_s:.2f} s to answer"
            yield Finding("catalog", Level.WARN, told, facts)
        else:
            yield Finding("catalog", Level.OK, told, facts)

    def _clock(self) -> Iterator[Finding]:
        with self._database.read() as c:
            if c.dialect.name != "postgresql":
                yield Finding("clock", Level.OK, f"{now().isoformat()}; the catalog shares it")
                return
            before = datetime.now(UTC)
            told = c.execute(text("SELECT clock_timestamp()")).scalar_one()
            middle = before + (datetime.now(UTC) - before) / 2
        yield clock_finding("clock", abs((told - middle).total_seconds()), "the catalog's host")

    def _audit_log(self) -> Iterator[Finding]:
        report = self._audit.verify()
        facts = {"num_events": str(report.num_events), "head": report.head_hash}
        if report.breaks:
            first = report.breaks[0]
            told = f"its chain is broken, first at event {first.sequence} ({first.what})"
            yield Finding("audit log", Level.FAIL, told + "; see `loradock audit verify`", facts)
        else:
            told = f"{report.num_events} events, each chained to the one before"
            yield Finding("audit log", Level.OK, told, facts)

    def _store_findings(self) -> Iterator[Finding]:
        begun = time.monotonic()
        can = self._store.probe(again=True)
        facts = {
            "conditional_put": _yes_no(can.conditional_put),
            "conditional_multipart": _yes_no(can.conditional_multipart),
            "verifies_checksums": _yes_no(can.verifies_checksums),
            "multipart": _yes_no(can.multipart),
            "probed_ms": f"{(time.monotonic() - begun) * 1e3:.1f}",
        }
        if self._store.disk is not None:
            told = f"{self._store.where}: blobs appear by a rename, whole or not at all"
            yield Finding("store", Level.OK, told, facts)
            return
        lacking = _lacking(can)
        told = f"{self._store.where}, probed: " + ("; ".join(lacking) or "it can all it should")
        level = Level.FAIL if not can.multipart else Level.WARN if lacking else Level.OK
        yield Finding("store", level, told, facts)

    def _blobs(self) -> Iterator[Finding]:
        query = select(func.count(), func.coalesce(func.sum(blobs.c.size_bytes), 0))
        with self._database.read() as c:
            count, size = c.execute(query).one()
            damaged = c.execute(query.where(blobs.c.damaged_at.is_not(None))).one()[0]
        left = list(self._store.spool.leftovers(datetime.now(UTC)))
        facts = {
            "num_blobs": str(count),
            "size_bytes": str(size),
            "num_damaged": str(damaged),
            "num_unfinished_uploads": str(len(left)),
            "unfinished_bytes": str(sum(one.size_bytes for one in left)),
        }
        told = f"{count} blobs, {len(left)} unfinished uploads on this host"
        if damaged:
            told += f"; {damaged} were found damaged: push what they belong to again"
            yield Finding("blobs", Level.FAIL, told, facts)
        else:
            yield Finding("blobs", Level.OK, told, facts)


def disk_finding(subject: str, folder: Path) -> Finding:
    """Tell how much room a folder's disk has, and whether it can be written."""
    try:
        about = os.statvfs(folder)
        probe = folder / f".loradock-{os.getpid()}-{time.monotonic_ns()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return Finding(subject, Level.FAIL, f"{folder}: {error.strerror or error}")
    free, size = about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize
    facts = {"folder": str(folder), "free_bytes": str(free), "size_bytes": str(size)}
    told = f"{folder} has {free / 2**30:.1f} of {size / 2**30:.1f} GiB left"
    if free < FULL_BYTES:
        return Finding(subject, Level.FAIL, told, facts)
    is_low = free < LOW_BYTES or free < LOW_SHARE * size
    return Finding(subject, Level.WARN if is_low else Level.OK, told, facts)


def clock_finding(subject: str, apart_s: float, whose: str) -> Finding:
    """Judge how far two clocks are apart."""
    level = (
        Level.FAIL if apart_s > CLOCK_FAIL_S else Level.WARN if apart_s > CLOCK_WARN_S else Level.OK
    )
    told = f"{apart_s:.2f} s apart from that of {whose}"
    return Finding(subject, level, told, {"apart_s": f"{apart_s:.3f}"})


def _seen(subject: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except RegistryError as error:
        yield Finding(subject, Level.FAIL, str(error))


def _lacking(can: Capabilities) -> list[str]:
    told = {
        "it overwrites without a word (writes are checked and keyed by content, so nothing is "
        "lost)": can.conditional_put,
        "it completes multipart uploads over what is there (the same holds)": (
            can.conditional_multipart
        ),
        "it takes bytes that do not match their checksum (`loradock verify` reads them again)": (
            can.verifies_checksums
        ),
        "it takes no multipart uploads, so no blobs over 64 MiB": can.multipart,
    }
    return [lack for lack, holds in told.items() if not holds]


def _yes_no(holds: bool) -> str:
    return "yes" if holds else "no"
