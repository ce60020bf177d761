"""Fills a catalog with many versions, in bulk: rows as the registry itself would have written them.

Every adapter has fifty versions, a tag, an alias on its newest version, a chain of parents, and one
evaluation a version; one of ten chains begins with one of a hundred datasets. No bytes are stored.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select, text

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.tables import (
    adapter_tags,
    adapters,
    alias_moves,
    aliases,
    evaluation_metrics,
    evaluations,
    lineage_edges,
    lineage_nodes,
    versions,
)

PROJECT = "bench"
VERSIONS_OF_ONE = 50
NUM_TAGS, NUM_DATASETS = 50, 100
_START = datetime(2026, 1, 1, tzinfo=UTC)
_PAGE = 5000  # rows of one statement


def digest(name: str) -> str:
    """Give a digest that stands for some content."""
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def adapter_name(number: int) -> str:
    """Name an adapter."""
    return f"task-{number:05d}"


def tag_name(number: int) -> str:
    """Name a tag."""
    return f"team-{number:02d}"


def dataset(number: int) -> str:
    """Give the digest of a dataset."""
    return digest(f"dataset {number}")


def version(adapter: int, number: int) -> str:
    """Give the digest of a version."""
    return digest(f"version {adapter} {number}")


def seed(database: Database, first: int, last: int, base_ids: list[int]) -> None:
    """Add adapters from one number up to another, with all that belongs to them."""
    for start in range(first, last, 100):
        numbers = range(start, min(start + 100, last))
        database.write(lambda c, numbers=numbers: _add(c, numbers, base_ids))  # type: ignore[misc]
    statement = "ANALYZE" if database.path is None else "PRAGMA optimize=0x10002"
    database.write(lambda c: c.execute(text(statement)))


def _add(c: Connection, numbers: range, base_ids: list[int]) -> None:
    ids = {table: _next_id(c, table) for table in (adapters, versions, aliases)}
    ordinal = (c.execute(select(func.max(evaluations.c.ordinal))).scalar() or 0) + 1
    rows: dict[Any, list[dict[str, Any]]] = {
        table: []
        for table in (
            *(adapters, adapter_tags, versions, aliases, alias_moves),
            *(evaluations, evaluation_metrics, lineage_nodes, lineage_edges),
        )
    }
    for place, number in enumerate(numbers):
        adapter_id = ids[adapters] + place
        first_version = ids[versions] + place * VERSIONS_OF_ONE
        rows[adapters].append(_adapter(adapter_id, number))
        rows[adapter_tags].append({"adapter_id": adapter_id, "tag": tag_name(number % NUM_TAGS)})
        base_id = base_ids[number % len(base_ids)]
        rows[versions] += _versions(first_version, adapter_id, number, base_id)
        newest = first_version + VERSIONS_OF_ONE - 1
        rows[aliases].append(_alias(ids[aliases] + place, adapter_id, newest))
        rows[alias_moves].append(_move(ids[aliases] + place, newest))
        first_ordinal = ordinal + place * VERSIONS_OF_ONE
        rows[evaluations] += _evaluations(first_ordinal, first_version, base_id)
        rows[evaluation_metrics] += _metrics(first_ordinal, number)
        nodes, edges = _lineage(number)
        rows[lineage_nodes] += nodes
        rows[lineage_edges] += edges
    for table, some in rows.items():
        fresh = _fresh(c, table, some) if table is lineage_nodes else some
        for at in range(0, len(fresh), _PAGE):
            c.execute(insert(table), fresh[at : at + _PAGE])
    if c.dialect.name == "postgresql":
        for table in (adapters, versions, aliases):
            c.execute(text(f"SELECT setval('{table.name}_id_seq', (SELECT max(id) FROM {table}))"))
        c.execute(
            text("SELECT setval('evaluations_ordinal_seq', (SELECT max(ordinal) FROM evaluations))")
        )


def _next_id(c: Connection, table: Any) -> int:  # noqa: ANN401 - tables of many kinds
    return int(c.execute(select(func.max(table.c.id))).scalar() or 0) + 1


def _fresh(c: Connection, table: Any, some: list[dict[str, Any]]) -> list[dict[str, Any]]:  # noqa: ANN401
    unique = {row["id"]: row for row in some}
    shared = [dataset(number) for number in range(NUM_DATASETS)]
    known = set(c.execute(select(table.c.id).where(table.c.id.in_(shared))).scalars())
    return [row for key, row in unique.items() if key not in known]


def _adapter(adapter_id: int, number: int) -> dict[str, Any]:
    return {
        "id": adapter_id,
        "project": PROJECT,
        "name": adapter_name(number),
        "owner": f"owner-{number % 20}",
        "description": f"Does task {number} of the {number % 7} kind",
        "last_number": VERSIONS_OF_ONE,
        "num_versions": VERSIONS_OF_ONE,
        "revision": 1,
        "deleted": False,
        "created_by": "seed",
        "created_at": _START,
        "updated_at": _START,
    }


def _versions(
    first_id: int, adapter_id: int, number: int, base_id: int
) -> Iterator[dict[str, Any]]:
    modules = [
        [f"model.layers.{layer}.self_attn.q_proj", 8, 2, f"a{layer}", f"b{layer}"]
        for layer in range(8)
    ]
    for n in range(1, VERSIONS_OF_ONE + 1):
        yield {
            "id": first_id + n - 1,
            "adapter_id": adapter_id,
            "number": n,
            "digest": version(number, n),
            "state": "ready",
            "state_reason": "",
            "base_id": base_id,
            "weights_digest": digest(f"weights {number} {n}"),
            "weights_size": 1 << 20,
            "config_digest": digest("config"),
            "config_size": 200,
            "manifest_size": 900,
            "profile": {"template": "{{ content }}"},
            "lineage": {},
            "modules": modules,
            "max_rank": 8,
            "created_by": "seed",
            "created_at": _START + timedelta(seconds=first_id + n),
        }


def _alias(alias_id: int, adapter_id: int, version_id: int) -> dict[str, Any]:
    key = {"id": alias_id, "adapter_id": adapter_id, "name": "production"}
    return {**key, "generation": 1, "version_id": version_id}


def _move(alias_id: int, version_id: int) -> dict[str, Any]:
    return {
        "alias_id": alias_id,
        "generation": 1,
        "kind": "set",
        "version_id": version_id,
        "beneath": None,
        "moved_by": "seed",
        "reason": "",
        "moved_at": _START,
    }


def _evaluations(first_ordinal: int, first_version: int, base_id: int) -> Iterator[dict[str, Any]]:
    for n in range(VERSIONS_OF_ONE):
        yield {
            "ordinal": first_ordinal + n,
            "id": f"seed-{first_ordinal + n}",
            "project": PROJECT,
            "suite": "held-out",
            "dataset_digest": dataset(0),
            "base_id": base_id,
            "version_id": first_version + n,
            "cost": {"tokens": 1000, "seconds": 10},
            "harness": "seed",
            "engine_profile": "cpu/float32",
            "created_by": "seed",
            "created_at": _START,
        }


def _metrics(first_ordinal: int, number: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(number)
    for n in range(VERSIONS_OF_ONE):
        yield {
            "evaluation": first_ordinal + n,
            "name": "accuracy",
            "position": 0,
            "value": draw.random(),
            "num_items": 100,
            "low": None,
            "high": None,
            "direction": "higher",
        }


def _lineage(number: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    nodes, edges = [], []
    if number % 10 == 0:
        rows = dataset(number // 10 % NUM_DATASETS)
        nodes.append({"project": PROJECT, "id": rows, "kind": "dataset", "label": "rows"})
        edges.append(_edge(version(number, 1), rows, "dataset"))
    for n in range(1, VERSIONS_OF_ONE + 1):
        label = f"{adapter_name(number)}@{n}"
        nodes.append(
            {"project": PROJECT, "id": version(number, n), "kind": "version", "label": label}
        )
        if n > 1:
            edges.append(_edge(version(number, n), version(number, n - 1), "parent"))
    return nodes, edges


def _edge(child: str, parent: str, kind: str) -> dict[str, Any]:
    return {"project": PROJECT, "child": child, "parent": parent, "kind": kind}
