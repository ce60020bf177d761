"""A bundle's index: what is in it, in canonical JSON. Names, times and measurements stand here.

The versions' own identity does not: that is in their manifests, which are blobs of the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from loradock.registry.catalog.evaluations import checked_metrics
from loradock.registry.errors import InvalidArgument, RegistryError
from loradock.registry.items import check_items
from loradock.registry.limits import Limits
from loradock.registry.manifest import canonical_json, digests_to_json
from loradock.registry.names import check_digest, check_name, check_number, check_text
from loradock.registry.resources import (
    BaseDigests,
    BaseModel,
    BlobRef,
    Direction,
    Evaluation,
    ItemScores,
    Metric,
    ModuleShape,
)
from loradock.registry.strict_json import parse_json

SCHEMA = "loradock.bundle.v1"
INDEX_NAME = "loradock-bundle.json"
MAX_INDEX_BYTES = 64 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BundledAdapter:
    """A series, as it is described where it comes from."""

    name: str
    owner: str
    description: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BundledVersion:
    """A version by its manifest; a yank goes along."""

    adapter: str
    number: int
    manifest: BlobRef
    yanked: str | None  # why

    @property
    def source(self) -> str:
        """What it is called where it comes from."""
        return f"{self.adapter}@{self.number}"


@dataclass(frozen=True, slots=True)
class BundledAlias:
    """Where an alias pointed."""

    adapter: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Index:
    """All of a bundle but its blobs. Versions stand behind those that they grew from."""

    bases: tuple[BaseModel, ...]
    adapters: tuple[BundledAdapter, ...]
    versions: tuple[BundledVersion, ...]
    blobs: tuple[BlobRef, ...]  # in the order in which they follow
    evaluations: tuple[Evaluation, ...]
    aliases: tuple[BundledAlias, ...]

    def to_bytes(self) -> bytes:
        """Give the canonical document."""
        return canonical_json(
            {
                "schema": SCHEMA,
                "bases": [_base_to_json(base) for base in self.bases],
                "adapters": [
                    {
                        "name": adapter.name,
                        "owner": adapter.owner,
                        "description": adapter.description,
                        "tags": list(adapter.tags),
                    }
                    for adapter in self.adapters
                ],
                "versions": [
                    {
                        "adapter": version.adapter,
                        "number": version.number,
                        "manifest": _ref_to_json(version.manifest),
                        "yanked": version.yanked,
                    }
                    for version in self.versions
                ],
                "blobs": [_ref_to_json(ref) for ref in self.blobs],
                "evaluations": [_evaluation_to_json(one) for one in self.evaluations],
                "aliases": [
                    {"adapter": alias.adapter, "name": alias.name, "digest": alias.digest}
                    for alias in self.aliases
                ],
            }
        )


def parse_index(content: bytes) -> Index:
    """Read an index from outside; InvalidArgument for anything that is none."""
    try:
        document = parse_json(content)
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']!r:.80}, not {SCHEMA!r}")
        index = Index(
            bases=tuple(_base_from_json(one) for one in document["bases"]),
            adapters=tuple(_adapter_from_json(one) for one in document["adapters"]),
            versions=tuple(_version_from_json(one) for one in document["versions"]),
            blobs=tuple(_ref_from_json(one) for one in document["blobs"]),
            evaluations=tuple(_evaluation_from_json(one) for one in document["evaluations"]),
            aliases=tuple(_alias_from_json(one) for one in document["aliases"]),
        )
        _check_whole(index)
        return index
    except RegistryError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidArgument("bundle", f"its index can't be read: {error!r:.200}") from None


def _check_whole(index: Index) -> None:
    """Raise ValueError unless all that is spoken of is in it."""
    if not index.versions:
        raise ValueError("there is no version")
    versions = {(version.adapter, version.manifest.digest) for version in index.versions}
    spoken_of = [(one.adapter, one.version_digest) for one in index.evaluations]
    spoken_of += [(alias.adapter, alias.digest) for alias in index.aliases]
    if unknown := [
        f"{name}@{digest}" for name, digest in spoken_of if (name, digest) not in versions
    ]:
        raise ValueError(f"it speaks of {unknown[0]}, which is not in it")
    if len(set(index.blobs)) < len(index.blobs):
        raise ValueError("a blob is there twice")


def _ref_to_json(ref: BlobRef) -> dict[str, object]:
    return {"digest": ref.digest, "size_bytes": ref.size_bytes}


def _ref_from_json(document: Mapping[str, Any]) -> BlobRef:
    size = _of(int, document["size_bytes"])
    if size < 0:
        raise ValueError(f"a size of {size}")
    return BlobRef(check_digest("bundle", document["digest"]), size)


def _base_to_json(base: BaseModel) -> dict[str, object]:
    return {
        "name": base.name,
        "digests": digests_to_json(base.digests),
        "architecture": base.architecture,
        "modules": {
            path: [shape.in_features, shape.out_features] for path, shape in base.modules.items()
        },
        "context_length": base.context_length,
        "num_parameters": base.num_parameters,
        "description": base.description,
    }


def _base_from_json(document: Mapping[str, Any]) -> BaseModel:
    return BaseModel(
        name=check_name("base", document["name"]),
        digests=_digests_from_json(document["digests"]),
        architecture=_of(str, document["architecture"]),
        modules={
            _of(str, path): ModuleShape(_of(int, num_in), _of(int, num_out))
            for path, (num_in, num_out) in document["modules"].items()
        },
        context_length=_of(int, document["context_length"]),
        num_parameters=_of(int, document["num_parameters"]),
        description=_of(str, document["description"]),
    )


def _digests_from_json(document: Mapping[str, Any]) -> BaseDigests:
    parts = ("structural", "weights", "tokenizer")
    return BaseDigests(*(check_digest("bundle", document[part]) for part in parts))


def _adapter_from_json(document: Mapping[str, Any]) -> BundledAdapter:
    return BundledAdapter(
        check_name("adapter", document["name"]),
        check_text("bundle", _of(str, document["owner"]), 256),
        _of(str, document["description"]),
        tuple(_of(str, tag) for tag in document["tags"]),
    )


def _version_from_json(document: Mapping[str, Any]) -> BundledVersion:
    yanked = document["yanked"]
    return BundledVersion(
        check_name("adapter", document["adapter"]),
        check_number("bundle", _of(int, document["number"])),
        _ref_from_json(document["manifest"]),
        None if yanked is None else _of(str, yanked),
    )


def _alias_from_json(document: Mapping[str, Any]) -> BundledAlias:
    return BundledAlias(
        check_name("adapter", document["adapter"]),
        check_name("alias", document["name"]),
        check_digest("bundle", document["digest"]),
    )


def _evaluation_to_json(one: Evaluation) -> dict[str, object]:
    return {
        "id": one.id,
        "suite": one.suite,
        "dataset_digest": one.dataset_digest,
        "base_name": one.base_name,
        "base": digests_to_json(one.base_digests),
        "adapter": one.adapter,
        "version": one.version_digest,
        "metrics": [
            {
                "name": metric.name,
                "value": metric.value,
                "num_items": metric.num_items,
                "low": metric.low,
                "high": metric.high,
                "direction": metric.direction.value,
            }
            for metric in one.metrics
        ],
        "items": None if one.items is None else _items_to_json(one.items),
        "cost": dict(one.cost),
        "harness": one.harness,
        "engine_profile": one.engine_profile,
        "created_by": one.created_by,
        "created_at_us": (one.created_at - _EPOCH) // _MICROSECOND,
    }


def _items_to_json(items: ItemScores) -> dict[str, object]:
    scores = {metric: list(scores) for metric, scores in items.scores.items()}
    return {"ids": list(items.ids), "scores": scores}


def _items_from_json(document: Mapping[str, Any], metrics: tuple[Metric, ...]) -> ItemScores:
    items = ItemScores(
        tuple(_of(str, name) for name in document["ids"]),
        {
            _of(str, metric): tuple(map(_number, scores))
            for metric, scores in document["scores"].items()
        },
    )
    check_items(items, metrics, Limits().max_items)
    return items


def _evaluation_from_json(document: Mapping[str, Any]) -> Evaluation:
    metrics, items = _metrics_from_json(document["metrics"]), document.get("items")
    return Evaluation(
        id=check_text("bundle", _of(str, document["id"]), 36),
        project="",
        suite=check_name("suite", document["suite"]),
        dataset_digest=check_digest("bundle", document["dataset_digest"]),
        base_digests=_digests_from_json(document["base"]),
        base_name=check_name("base", document["base_name"]),
        adapter=check_name("adapter", document["adapter"]),
        version_number=None,
        version_digest=check_digest("bundle", document["version"]),
        metrics=metrics,
        items=None if items is None else _items_from_json(items, metrics),
        cost={_of(str, name): _number(value) for name, value in document["cost"].items()},
        harness=check_text("bundle", _of(str, document["harness"])),
        engine_profile=check_text("bundle", _of(str, document["engine_profile"])),
        created_by=check_text("bundle", _of(str, document["created_by"]), 256),
        created_at=_EPOCH + _of(int, document["created_at_us"]) * _MICROSECOND,
    )


def _metrics_from_json(document: list[Mapping[str, Any]]) -> tuple[Metric, ...]:
    metrics = tuple(_metric_from_json(metric) for metric in document)
    checked_metrics(metrics, Limits().max_metrics)
    return metrics


def _metric_from_json(document: Mapping[str, Any]) -> Metric:
    low, high = document["low"], document["high"]
    return Metric(
        check_text("bundle", _of(str, document["name"]), 128),
        _number(document["value"]),
        _of(int, document["num_items"]),
        None if low is None else _number(low),
        None if high is None else _number(high),
        Direction(document["direction"]),
    )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r:.80} is no number")
    return float(value)


def _of(kind: type[T], value: object) -> T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{value!r:.80} is no {kind.__name__}")
    return value
