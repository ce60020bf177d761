"""Evaluations that another registry recorded: kept under their ids, with their time and author.

None is later than its import. They are a bundle's word; the audit log says who brought them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.evaluations import checked_cost, checked_metrics
from loradock.registry.catalog.journal import Deed, record_deed
from loradock.registry.catalog.publishing import find_twin
from loradock.registry.catalog.tables import (
    base_models,
    evaluation_items,
    evaluation_metrics,
    evaluations,
)
from loradock.registry.catalog.types import now
from loradock.registry.errors import InvalidArgument
from loradock.registry.limits import Limits
from loradock.registry.resources import BaseDigests, Evaluation


class EvaluationImport:
    """Takes in what was measured elsewhere, once."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def take(
        self, project: str, measured: Sequence[Evaluation], by: str, validate_only: bool
    ) -> int:
        """Keep what is not here yet; give how many those are."""

        def work(c: Connection) -> int:
            new = [(id, one) for one in measured if (id := _new_id(c, project, one.id))]
            for evaluation_id, one in new if not validate_only else ():
                self._insert(c, project, evaluation_id, one, by)
            return len(new)

        return self._database.write(work)

    def _insert(
        self, c: Connection, project: str, evaluation_id: str, one: Evaluation, by: str
    ) -> None:
        version = find_twin(c, project, one.adapter or "", one.version_digest or "")
        if version is None:
            raise InvalidArgument("bundle", f"evaluation {one.id} is of no version of it")
        row = {
            "id": evaluation_id,
            "project": project,
            "suite": one.suite,
            "dataset_digest": one.dataset_digest,
            "base_id": _base_id(c, one.base_digests),
            "version_id": version.id,
            "cost": checked_cost(one.cost),
            "harness": one.harness,
            "engine_profile": one.engine_profile,
            "created_by": one.created_by,
            # A date to come would never be too old for a policy. The audit log has it as told.
            "created_at": min(one.created_at, now()),
        }
        rows = checked_metrics(one.metrics, self._limits.max_metrics)
        inserted = c.execute(insert(evaluations).values(row).returning(evaluations.c.ordinal))
        ordinal = inserted.scalar_one()
        c.execute(
            insert(evaluation_metrics), [{"evaluation": ordinal, **metric} for metric in rows]
        )
        if one.items is not None:
            scores = {name: list(values) for name, values in one.items.scores.items()}
            content = {"ids": list(one.items.ids), "scores": scores}
            c.execute(insert(evaluation_items).values(evaluation=ordinal, items=content))
        details = {"recorded_by": one.created_by, "recorded_at": one.created_at.isoformat()}
        record_deed(c, Deed(project, by, "evaluation.import", evaluation_id, details=details))


def _new_id(c: Connection, project: str, evaluation_id: str) -> str | None:
    """Give the id to keep a record under: its own, or, where a project has that, one made of it."""
    derived = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{project}/{evaluation_id}"))
    query = select(evaluations.c.id, evaluations.c.project)
    found = c.execute(query.where(evaluations.c.id.in_((evaluation_id, derived)))).all()
    if any(row.project == project for row in found):
        return None
    return derived if found else evaluation_id


def _base_id(c: Connection, digests: BaseDigests) -> int:
    mine = (
        (base_models.c.structural == digests.structural)
        & (base_models.c.weights == digests.weights)
        & (base_models.c.tokenizer == digests.tokenizer)
    )
    found = c.execute(select(base_models.c.id).where(mine)).scalar_one_or_none()
    if found is None:
        raise InvalidArgument("bundle", f"speaks of a base that is not in it: {digests.weights}")
    return int(found)
