"""Evaluations: append-only records of what was measured."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select

from loradock.registry.catalog.adapters import adapter_id
from loradock.registry.catalog.bases import id_of
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.journal import Deed, record_deed
from loradock.registry.catalog.pages import AnyRow, fetch_page, page_request
from loradock.registry.catalog.requests import Request
from loradock.registry.catalog.tables import (
    NEWEST_EVALUATION_FIRST,
    adapters,
    base_models,
    evaluation_items,
    evaluation_metrics,
    evaluations,
    versions,
)
from loradock.registry.catalog.types import now
from loradock.registry.catalog.versions import row_by_number
from loradock.registry.errors import InvalidArgument, NotFound
from loradock.registry.items import check_items
from loradock.registry.limits import Limits
from loradock.registry.names import check_digest, check_name, check_number, check_text
from loradock.registry.resources import BaseDigests, Direction, Evaluation, ItemScores, Metric, Page


class Evaluations:
    """How good versions are."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def record(
        self,
        project: str,
        *,
        suite: str,
        dataset_digest: str,
        base_name: str,
        base_digests: BaseDigests | None = None,
        adapter: str | None = None,
        version_number: int | None = None,
        metrics: Sequence[Metric],
        items: ItemScores | None = None,
        cost: Mapping[str, float] | None = None,
        harness: str = "",
        engine_profile: str = "",
        by: str,
        request_id: str = "",
    ) -> Evaluation:
        """Append a measurement of a version, or of the base alone if no adapter is named.

        With `items`, what each of the dataset's items was worth, versions are compared in pairs.
        """
        fields: dict[str, Any] = {
            "suite": check_name("suite", suite),
            "dataset_digest": check_digest("dataset_digest", dataset_digest),
            "cost": checked_cost(cost or {}),
            "harness": check_text("harness", harness),
            "engine_profile": check_text("engine_profile", engine_profile),
        }
        check_name("project", project)
        check_name("base", base_name)
        by = check_text("by", by, 256)
        _check_version(adapter, version_number)
        measured = checked_metrics(metrics, self._limits.max_metrics)
        payload: dict[str, object] = {
            "do": "evaluation.record",
            "base": base_name,
            "adapter": adapter,
        }
        payload |= {"number": version_number, "metrics": measured, **fields}
        content: dict[str, object] | None = None
        if items is not None:
            check_items(items, metrics, self._limits.max_items)
            content = {"ids": list(items.ids), "scores": dict(items.scores)}
            payload["items"] = content
        request = Request(project, request_id, payload)

        def work(c: Connection) -> Evaluation:
            earlier = request.earlier_outcome(c)
            if earlier is not None:
                return _one(c, project, earlier["evaluation"])
            fields["base_id"] = _base_id(c, base_name, base_digests)
            if adapter is not None and version_number is not None:
                fields["version_id"] = row_by_number(c, project, adapter, version_number).id
            evaluation_id = str(uuid.uuid4())
            row = {"id": evaluation_id, "project": project, "created_by": by, "created_at": now()}
            _insert(c, {**row, **fields}, measured, content)
            request.settle(c, evaluation=evaluation_id)
            record_deed(c, Deed(project, by, "evaluation.record", evaluation_id))
            return _one(c, project, evaluation_id)

        return self._database.write(work)

    def get(self, project: str, evaluation_id: str) -> Evaluation:
        """Give one record."""
        check_name("project", project)
        check_text("evaluation", evaluation_id, 36)
        with self._database.read() as c:
            return _one(c, project, evaluation_id)

    def list(
        self,
        project: str,
        *,
        adapter: str = "",
        version_number: int | None = None,
        base: str = "",
        suite: str = "",
        page_size: int = 50,
        page_token: str = "",
    ) -> Page[Evaluation]:
        """List records, newest first; NotFound if an adapter, version or base is not there."""
        check_name("project", project)
        scope = ["evaluations", project, adapter, version_number, base, suite]
        query = _query(project)
        if adapter or version_number is not None:
            mine = _of_versions(project, adapter, version_number)
            query = query.where(evaluations.c.ordinal.in_(mine))
        if base:
            query = query.where(base_models.c.name == check_name("base", base))
        if suite:
            query = query.where(evaluations.c.suite == check_name("suite", suite))
        request = page_request(int, scope, page_size, page_token)
        ordinal = evaluations.c.ordinal
        with self._database.read() as c:
            _check_known(c, project, adapter, version_number, base)
            rows, token = fetch_page(c, query, request, ordinal, newest_first=True)
            return Page(_read(c, rows), token)


def _of_versions(project: str, adapter: str, number: int | None) -> Select[tuple[int]]:
    """Select the ordinals of an adapter's evaluations, or of one of its versions."""
    owner = adapters.c.id == versions.c.adapter_id
    known = select(versions.c.id).join(adapters, owner).where(adapters.c.project == project)
    if adapter:
        known = known.where(adapters.c.name == check_name("adapter", adapter))
    if number is not None:
        known = known.where(versions.c.number == check_number("version_number", number))
    return select(evaluations.c.ordinal).where(evaluations.c.version_id.in_(known))


def _check_known(c: Connection, project: str, adapter: str, number: int | None, base: str) -> None:
    """Raise NotFound for a name that is not there: an empty list would say it wasn't measured."""
    if adapter and number is not None:
        row_by_number(c, project, adapter, number)
    elif adapter:
        adapter_id(c, project, adapter)
    if base:
        id_of(c, base)


def _check_version(adapter: str | None, number: int | None) -> None:
    if (adapter is None) != (number is None):
        raise InvalidArgument("version", "an adapter and a number go together")
    if adapter is not None and number is not None:
        check_name("adapter", adapter)
        check_number("version_number", number)


def checked_cost(cost: Mapping[str, float]) -> dict[str, float]:
    """Return costs that can be kept, or raise InvalidArgument."""
    for name, value in cost.items():
        check_text("cost", name, 128)
        if not math.isfinite(value):
            raise InvalidArgument(f"cost[{name}]", f"{value} is not finite")
    return dict(cost)


def checked_metrics(metrics: Sequence[Metric], most: int) -> list[dict[str, object]]:
    """Return the rows of metrics, or raise InvalidArgument."""
    if not 0 < len(metrics) <= most:
        raise InvalidArgument("metrics", f"{len(metrics)} is not in 1..{most}")
    if len({metric.name for metric in metrics}) < len(metrics):
        raise InvalidArgument("metrics", "a name is there twice")
    return [_checked_metric(metric, i) for i, metric in enumerate(metrics)]


def _checked_metric(metric: Metric, position: int) -> dict[str, object]:
    field = f"metrics[{metric.name!r:.80}]"
    if not metric.name:
        raise InvalidArgument(field, "has no name")
    check_text(field, metric.name, 128)
    bounds = [bound for bound in (metric.low, metric.high) if bound is not None]
    if not all(math.isfinite(number) for number in (metric.value, *bounds)):
        raise InvalidArgument(field, "is not finite")
    if len(bounds) == 2 and bounds[0] > bounds[1]:
        raise InvalidArgument(field, f"its interval is from {bounds[0]:g} down to {bounds[1]:g}")
    if not 0 <= metric.num_items < 2**31:
        raise InvalidArgument(field, f"{metric.num_items} is not a number of items")
    return {
        "name": metric.name,
        "position": position,
        "value": metric.value,
        "num_items": metric.num_items,
        "low": metric.low,
        "high": metric.high,
        "direction": metric.direction.value,
    }


def _base_id(c: Connection, name: str, digests: BaseDigests | None) -> int:
    base_id = id_of(c, name)
    row = c.execute(select(base_models).where(base_models.c.id == base_id)).one()
    registered = BaseDigests(row.structural, row.weights, row.tokenizer)
    if digests is not None and digests != registered:
        raise InvalidArgument("base_digests", f"are not those of the base {name!r}")
    return base_id


def _insert(
    c: Connection,
    row: dict[str, Any],
    measured: list[dict[str, object]],
    items: dict[str, object] | None,
) -> None:
    ordinal = c.execute(insert(evaluations).values(row).returning(evaluations.c.ordinal))
    number = ordinal.scalar_one()
    c.execute(insert(evaluation_metrics), [{"evaluation": number, **one} for one in measured])
    if items is not None:
        c.execute(insert(evaluation_items).values(evaluation=number, items=items))


def _query(project: str) -> Select[Any]:
    return (
        select(
            evaluations,
            base_models.c.name.label("base_name"),
            base_models.c.structural,
            base_models.c.weights,
            base_models.c.tokenizer,
            adapters.c.name.label("adapter"),
            versions.c.number,
            versions.c.digest,
        )
        .join(base_models, base_models.c.id == evaluations.c.base_id)
        .outerjoin(versions, versions.c.id == evaluations.c.version_id)
        .outerjoin(adapters, adapters.c.id == versions.c.adapter_id)
        .where(evaluations.c.project == project)
    )


def latest_evaluations(
    c: Connection,
    project: str,
    version_id: int,
    suites: Sequence[str],
    *,
    with_items: bool = False,
) -> list[Evaluation]:
    """Find a version's newest evaluation of each suite, base and dataset, the newest first."""
    alike = (evaluations.c.suite, evaluations.c.base_id, evaluations.c.dataset_digest)
    place = func.row_number().over(partition_by=alike, order_by=NEWEST_EVALUATION_FIRST)
    placed = (
        select(evaluations.c.ordinal, place.label("place"))
        .where(evaluations.c.version_id == version_id, evaluations.c.suite.in_(suites))
        .subquery()
    )
    newest = select(placed.c.ordinal).where(placed.c.place == 1)
    query = _query(project).where(evaluations.c.ordinal.in_(newest))
    rows = c.execute(query.order_by(*NEWEST_EVALUATION_FIRST)).all()
    return _read(c, rows, with_items=with_items)


def _one(c: Connection, project: str, evaluation_id: str) -> Evaluation:
    rows = c.execute(_query(project).where(evaluations.c.id == evaluation_id)).all()
    if not rows:
        raise NotFound("evaluation", evaluation_id)
    return _read(c, rows, with_items=True)[0]


def _read(c: Connection, rows: Sequence[AnyRow], *, with_items: bool = False) -> list[Evaluation]:
    found: dict[int, list[Metric]] = {row.ordinal: [] for row in rows}
    query = select(evaluation_metrics).where(evaluation_metrics.c.evaluation.in_(found))
    for metric in c.execute(query.order_by(evaluation_metrics.c.position)):
        found[metric.evaluation].append(
            Metric(
                metric.name,
                metric.value,
                metric.num_items,
                metric.low,
                metric.high,
                Direction(metric.direction),
            )
        )
    items = _items_of(c, list(found)) if with_items else {}
    return [_read_one(row, tuple(found[row.ordinal]), items.get(row.ordinal)) for row in rows]


def _items_of(c: Connection, ordinals: Sequence[int]) -> dict[int, ItemScores]:
    query = select(evaluation_items).where(evaluation_items.c.evaluation.in_(ordinals))
    return {
        row.evaluation: ItemScores(
            ids=tuple(row.items["ids"]),
            scores={
                metric: tuple(map(float, scores)) for metric, scores in row.items["scores"].items()
            },
        )
        for row in c.execute(query)
    }


def _read_one(row: AnyRow, metrics: tuple[Metric, ...], items: ItemScores | None) -> Evaluation:
    return Evaluation(
        id=row.id,
        project=row.project,
        suite=row.suite,
        dataset_digest=row.dataset_digest,
        base_digests=BaseDigests(row.structural, row.weights, row.tokenizer),
        base_name=row.base_name,
        adapter=row.adapter,
        version_number=row.number,
        version_digest=row.digest,
        metrics=metrics,
        cost={name: float(value) for name, value in row.cost.items()},
        harness=row.harness,
        engine_profile=row.engine_profile,
        created_by=row.created_by,
        created_at=row.created_at,
        items=items,
    )
