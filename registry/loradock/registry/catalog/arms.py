"""What servers counted of the arms of splits: a row for each process, replaced as it counts on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, delete, or_, select

from loradock.registry.arm_counts import ArmCounts, ArmTally, total_of
from loradock.registry.catalog.tables import arm_counts, rollouts
from loradock.registry.catalog.types import now, upsert
from loradock.registry.split import Arm

KEPT = timedelta(days=90)  # of an ended rollout, unless the alias's next one begins before


def record_tallies(c: Connection, server_id: str, tallies: Sequence[ArmTally]) -> None:
    """Keep a process's latest word; of a rollout that ended, what it was ended by stays."""
    if not tallies:
        return
    ids = {tally.rollout_id for tally in tallies}
    mine = rollouts.c.id.in_(ids), rollouts.c.ended_at.is_(None)
    going_on = set(c.execute(select(rollouts.c.id).where(*mine)).scalars())
    for tally in tallies:
        if tally.rollout_id in going_on:
            counts = {"counts": _to_json(tally.counts)}
            key = {
                "rollout_id": tally.rollout_id,
                "generation": tally.generation,
                "server_id": server_id,
                "arm": tally.arm.value,
            }
            upsert(c, arm_counts, key | counts, counts)


def forget_counts(c: Connection, alias_id: int) -> None:
    """Drop what nobody is shown any more, as an alias's next rollout begins.

    That is what was counted of its earlier ones, and of those of any alias that ended long ago.
    """
    is_old = or_(rollouts.c.alias_id == alias_id, rollouts.c.ended_at < now() - KEPT)
    ended = select(rollouts.c.id).where(rollouts.c.ended_at.is_not(None), is_old)
    c.execute(delete(arm_counts).where(arm_counts.c.rollout_id.in_(ended)))


def counts_of(c: Connection, rollout_id: str) -> Mapping[int, Mapping[Arm, ArmCounts]]:
    """Add up, over all servers, what each generation of a rollout saw of each arm."""
    query = select(arm_counts).where(arm_counts.c.rollout_id == rollout_id)
    told: dict[int, dict[Arm, list[ArmCounts]]] = defaultdict(lambda: defaultdict(list))
    for row in c.execute(query):
        told[row.generation][Arm(row.arm)].append(_from_json(row.counts))
    return {
        generation: {arm: total_of(counts) for arm, counts in arms.items()}
        for generation, arms in told.items()
    }


def _to_json(counts: ArmCounts) -> dict[str, object]:
    latencies = sorted(counts.latencies.items())
    return asdict(counts) | {"latencies": [list(pair) for pair in latencies]}


def _from_json(document: Mapping[str, Any]) -> ArmCounts:
    latencies = {bucket: calls for bucket, calls in document["latencies"]}
    return ArmCounts(**{**document, "latencies": latencies})
