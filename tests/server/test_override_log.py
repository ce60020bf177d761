"""Overrides: what a kill or a full disk leaves of their file, and how they are settled."""

import dataclasses
import errno
from typing import Any

import pytest
from tiny_registry import TinyRegistry

from loradock.registry.errors import DiskFull
from loradock.registry.policy import Demands
from loradock.registry.registry import open_registry
from loradock.server.aliases import override_log
from loradock.server.aliases.live import Live
from loradock.server.aliases.override import Overrides
from loradock.server.aliases.override_log import Override, OverrideLog
from loradock.server.threads import Threads

FIRST = Override(
    id="1",
    at="2026-01-01T00:00:00+00:00",
    subject="ann",
    project="acme",
    adapter="triage",
    alias="production",
    from_digest=f"sha256:{'a' * 64}",
    to_digest=f"sha256:{'b' * 64}",
    to_number=1,
    generation=2,
    reason="v2 leaks",
)
SECOND = dataclasses.replace(FIRST, id="2")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "overrides.jsonl"


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_s6_a_line_that_a_kill_broke_off_spoils_no_other(path, kept):
    log = OverrideLog(path)
    log.append(FIRST)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: int(kept * len(whole))])
    assert log.open_ones() == [FIRST]
    log.append(SECOND)
    assert log.open_ones() == [FIRST, SECOND]
    log.close(FIRST, "applied")
    assert OverrideLog(path).open_ones() == [SECOND]


def test_r18_a_decision_that_finds_no_room_leaves_nothing_behind(path, monkeypatch):
    log = OverrideLog(path)
    log.append(FIRST)
    before = path.read_bytes()

    def fill(file, content):
        file.write(content[:50])
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as full:
        full.setattr(override_log, "_write_all", fill)
        with pytest.raises(DiskFull, match="no space"):
            log.append(SECOND)
    assert path.read_bytes() == before
    log.append(SECOND)
    assert log.open_ones() == [FIRST, SECOND]


@pytest.mark.contract("S6")
async def test_s6_an_override_of_a_protected_alias_is_not_undone_when_it_is_reconciled(path):
    folder = path.parent
    registry = open_registry(f"sqlite:///{folder}/catalog.db", f"file://{folder}/b", migrate=True)
    tiny = TinyRegistry(registry)
    tiny.publish(seed=0)
    tiny.publish(seed=1)
    tiny.point(1)
    tiny.point(2, 1)
    key = FIRST.key
    registry.policies.set(*key, Demands(is_protected=True), expected_revision=0, by="olga")
    log, threads = OverrideLog(path), Threads("catalog", 1)
    unused: Any = None
    to = registry.versions.get("acme", "triage", 1).digest
    log.append(dataclasses.replace(FIRST, to_digest=to))
    live = Live(registry.reader, threads)
    await Overrides(registry, live, unused, unused, threads, threads, log).reconcile()
    await threads.close()
    assert registry.aliases.get(*key).version_number == 1
    assert log.open_ones() == []
    registry.close()
