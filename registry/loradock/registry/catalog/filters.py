"""Filters of lists, as SQL."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Exists, and_, exists, func, select

from loradock.registry.catalog.lineage import versions_below
from loradock.registry.catalog.tables import (
    adapter_tags,
    adapters,
    base_models,
    evaluation_metrics,
    evaluations,
    versions,
)
from loradock.registry.names import check_digest, check_name, check_text
from loradock.registry.resources import VersionState
from loradock.registry.search import Filter, MetricFilter

Condition = ColumnElement[bool]


def check_filter(filter: Filter) -> None:
    """Refuse what no name or text could be."""
    if filter.base:
        check_name("base", filter.base)
    check_text("filter.tag", filter.tag, 63)
    check_text("filter.text", filter.text, 256)
    if filter.derived_from:
        check_digest("filter.derived_from", filter.derived_from)
    if filter.metric:
        check_text("filter.metric.suite", filter.metric.suite, 63)
        check_text("filter.metric.name", filter.metric.name, 128)


def adapter_conditions(project: str, filter: Filter) -> list[Condition]:
    """Let through adapters, by themselves and by their ready versions."""
    conditions = _by_adapter(filter)
    of_version = _by_version(project, filter)
    if of_version:
        mine = and_(versions.c.adapter_id == adapters.c.id, is_ready(), *of_version)
        conditions.append(exists().where(mine))
    return conditions


def version_conditions(project: str, filter: Filter) -> list[Condition]:
    """Let through versions, by themselves and by their adapters."""
    return [*_by_adapter(filter), *_by_version(project, filter)]


def is_ready() -> Condition:
    """Let through what can be resolved."""
    return versions.c.state == VersionState.READY.value


def _by_adapter(filter: Filter) -> list[Condition]:
    conditions: list[Condition] = []
    if filter.tag:
        tagged = (adapter_tags.c.adapter_id == adapters.c.id) & (adapter_tags.c.tag == filter.tag)
        conditions.append(exists().where(tagged))
    if filter.text:
        needle = filter.text.lower()
        conditions.append(
            func.lower(adapters.c.name).contains(needle, autoescape=True)
            | func.lower(adapters.c.description).contains(needle, autoescape=True)
        )
    return conditions


def _by_version(project: str, filter: Filter) -> list[Condition]:
    conditions: list[Condition] = []
    if filter.base:
        base = select(base_models.c.id).where(base_models.c.name == filter.base)
        conditions.append(versions.c.base_id == base.scalar_subquery())
    if filter.metric:
        conditions.append(_passes(filter.metric))
    if filter.derived_from:
        below = versions_below(project, filter.derived_from)
        conditions.append(versions.c.digest.in_(below))
        conditions.append(versions.c.digest != filter.derived_from)
    return conditions


def _passes(metric: MetricFilter) -> Exists:
    latest = (
        select(func.max(evaluations.c.ordinal))
        .where(evaluations.c.version_id == versions.c.id, evaluations.c.suite == metric.suite)
        .correlate(versions)
        .scalar_subquery()
    )
    value = evaluation_metrics.c.value
    compared = value >= metric.value if metric.op == ">=" else value <= metric.value
    return exists().where(
        evaluation_metrics.c.evaluation == latest,
        evaluation_metrics.c.name == metric.name,
        compared,
    )
