"""Filters of lists, as SQL."""

from __future__ import annotations

from sqlalchemy import (
    ColumnElement,
    Connection,
    Exists,
    Select,
    and_,
    exists,
    func,
    select,
    tuple_,
)

from loradock.registry.catalog.bases import id_of
from loradock.registry.catalog.lineage import check_node, versions_below
from loradock.registry.catalog.tables import (
    NEWEST_EVALUATION_FIRST,
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
FEW_ADAPTERS = 200
FEW_RECORDS = 500


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


def check_known(c: Connection, project: str, filter: Filter) -> None:
    """Raise NotFound for a base or an origin that is not there; a tag or text may match nothing."""
    if filter.base:
        id_of(c, filter.base)
    if filter.derived_from:
        check_node(c, project, filter.derived_from)


def adapter_conditions(c: Connection, project: str, filter: Filter) -> list[Condition]:
    """Let through adapters, by themselves and by their ready versions."""
    conditions = _by_adapter(filter)
    of_version = _by_version(project, filter)
    if filter.metric:
        of_version.append(_by_metric(c, filter.metric)[0])
    if of_version:
        mine = and_(versions.c.adapter_id == adapters.c.id, is_ready(), *of_version)
        conditions.append(exists().where(mine))
    return conditions


def matching_ids(
    c: Connection, project: str, filter: Filter, after: int | None, most: int
) -> Select[tuple[int]]:
    """Select the newest ids of ready versions that a filter lets through.

    Where few adapters or records come into question, these are what is looked at; otherwise the
    newest versions are, one by one, until enough match. So a page costs much the same, whether
    much or little matches, and whatever a planner believes.
    """
    of_adapter, is_narrow = _of_adapters(c, project, filter)
    conditions = [is_ready(), of_adapter, *_by_version(project, filter)]
    if filter.metric:
        of_metric, are_few = _by_metric(c, filter.metric)
        conditions.append(of_metric)
        is_narrow = is_narrow or are_few
    if after is not None:
        conditions.append(versions.c.id < after)
    # An expression has no index, so that a narrow search does not walk through all versions.
    order = versions.c.id + 0 if is_narrow else versions.c.id
    return select(versions.c.id).where(*conditions).order_by(order.desc()).limit(most)


def _of_adapters(c: Connection, project: str, filter: Filter) -> tuple[Condition, bool]:
    """Name the adapters that match, if they are few; otherwise ask of each version's own."""
    conditions = [adapters.c.project == project, ~adapters.c.deleted, *_by_adapter(filter)]
    if filter.tag or filter.text:
        some = select(adapters.c.id).where(*conditions).limit(FEW_ADAPTERS + 1)
        found = c.execute(some).scalars().all()
        if len(found) <= FEW_ADAPTERS:
            return versions.c.adapter_id.in_(found), True
    # Not a join, which a planner may begin with the adapters, to end it with sorting all versions.
    return exists().where(adapters.c.id == versions.c.adapter_id, *conditions), False


def _by_metric(c: Connection, metric: MetricFilter) -> tuple[Condition, bool]:
    """Say which versions pass: by the records that do, if they are few."""
    passing = and_(evaluation_metrics.c.name == metric.name, _compared(metric))
    some = select(evaluation_metrics.c.evaluation).where(passing).limit(FEW_RECORDS + 1)
    num_found = c.execute(select(func.count()).select_from(some.subquery())).scalar_one()
    if num_found > FEW_RECORDS:
        return _passes(metric), False
    record = evaluations.c.ordinal == evaluation_metrics.c.evaluation
    newer = evaluations.alias("newer")
    is_latest = ~exists().where(
        newer.c.version_id == evaluations.c.version_id,
        newer.c.suite == metric.suite,
        tuple_(newer.c.created_at, newer.c.ordinal)
        > tuple_(evaluations.c.created_at, evaluations.c.ordinal),
    )
    recorded = select(evaluations.c.version_id).join(evaluation_metrics, record)
    latest = recorded.where(passing, evaluations.c.suite == metric.suite, is_latest)
    return versions.c.id.in_(latest), True


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
    if filter.derived_from:
        below = versions_below(project, filter.derived_from)
        conditions.append(versions.c.digest.in_(below))
        conditions.append(versions.c.digest != filter.derived_from)
    return conditions


def _passes(metric: MetricFilter) -> Exists:
    latest = (
        select(evaluations.c.ordinal)
        .where(evaluations.c.version_id == versions.c.id, evaluations.c.suite == metric.suite)
        .order_by(*NEWEST_EVALUATION_FIRST)
        .limit(1)
        .correlate(versions)
        .scalar_subquery()
    )
    return exists().where(
        evaluation_metrics.c.evaluation == latest,
        evaluation_metrics.c.name == metric.name,
        _compared(metric),
    )


def _compared(metric: MetricFilter) -> Condition:
    value = evaluation_metrics.c.value
    return value >= metric.value if metric.op == ">=" else value <= metric.value
