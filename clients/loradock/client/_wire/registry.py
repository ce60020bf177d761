"""Bases, adapters, versions and aliases, from and to messages."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from loradock.client._errors import InvalidRequest
from loradock.client._names import base_name, part_after
from loradock.client._values import registry as values
from loradock.client._wire.built import built
from loradock.client._wire.scalars import enum_of, time_of
from loradock.v1 import alias_service_pb2, registry_service_pb2, server_service_pb2
from loradock.v1 import resources_pb2 as wire


def base_digests_of(message: wire.BaseDigests) -> values.BaseDigests:
    """Read the digests of a base."""
    return values.BaseDigests(message.structural, message.weights, message.tokenizer)


def base_digests_message(digests: values.BaseDigests | None) -> wire.BaseDigests | None:
    """Write the digests of a base."""
    if digests is None:
        return None
    return built(
        wire.BaseDigests,
        structural=digests.structural,
        weights=digests.weights,
        tokenizer=digests.tokenizer,
    )


def base_model_of(message: wire.BaseModel) -> values.BaseModel:
    """Read a base."""
    return values.BaseModel(
        name=message.name,
        digests=base_digests_of(message.digests),
        architecture=message.architecture,
        modules={
            path: values.ModuleShape(shape.in_features, shape.out_features)
            for path, shape in sorted(message.modules.items())
        },
        context_length_tokens=message.context_length_tokens,
        num_parameters=message.num_parameters,
        description=message.description,
        created_by=message.created_by,
        created_at=time_of(message, "created_at"),
    )


def adapter_of(message: wire.Adapter) -> values.Adapter:
    """Read an adapter."""
    return values.Adapter(
        project=part_after(message.name, "projects"),
        name=part_after(message.name, "adapters"),
        owner=message.owner,
        description=message.description,
        tags=tuple(message.tags),
        num_versions=message.num_versions,
        etag=message.etag,
        created_by=message.created_by,
        created_at=time_of(message, "created_at"),
        updated_at=time_of(message, "updated_at"),
    )


def version_of(message: wire.AdapterVersion) -> values.Version:
    """Read a version."""
    return values.Version(
        project=part_after(message.name, "projects"),
        adapter=part_after(message.name, "adapters"),
        number=message.number,
        digest=message.digest,
        state=enum_of(values.VersionState, wire.VersionState, message.state, "VERSION_STATE_"),
        state_reason=message.state_reason,
        base_model=message.base_model,
        base_digests=base_digests_of(message.base_digests),
        weights=_blob_of(message.delta.weights),
        config=_blob_of(message.delta.config),
        profile=_profile_of(message.profile),
        lineage=_lineage_of(message.lineage),
        num_modules=message.num_modules,
        max_rank=message.max_rank,
        created_by=message.created_by,
        created_at=time_of(message, "created_at"),
        hold=_hold_of(message.hold) if message.HasField("hold") else None,
    )


def _hold_of(message: wire.VersionHold) -> values.Hold:
    return values.Hold(
        reason=message.reason,
        held_by=message.held_by,
        held_at=time_of(message, "held_at"),
        expires_at=time_of(message, "expires_at"),
    )


def _blob_of(message: wire.Blob) -> values.Blob:
    return values.Blob(message.digest, message.size_bytes)


def blob_message(blob: values.Blob) -> wire.Blob:
    """Write a blob."""
    return built(wire.Blob, digest=blob.digest, size_bytes=blob.size_bytes)


def _profile_of(message: wire.Profile) -> values.Profile:
    return values.Profile(
        template=message.template if message.HasField("template") else None,
        system=message.system if message.HasField("system") else None,
        labels=tuple(message.labels),
        decoding=_decoding_of(message.decoding),
    )


def _decoding_of(message: wire.Decoding) -> values.Decoding:
    return values.Decoding(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        temperature=_short(message.temperature) if message.HasField("temperature") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        top_p=_short(message.top_p) if message.HasField("top_p") else None,
        repetition_penalty=(
            _short(message.repetition_penalty) if message.HasField("repetition_penalty") else None
        ),
        stop=tuple(message.stop),
    )


def _short(single: float) -> float:
    """Give the number that was meant: a float32 of 0.7 reads back as 0.699999988."""
    return float(f"{single:.7g}")


def profile_message(profile: values.Profile) -> wire.Profile:
    """Write a profile."""
    decoding = profile.decoding
    return built(
        wire.Profile,
        template=profile.template,
        system=profile.system,
        labels=profile.labels,
        decoding=built(
            wire.Decoding,
            max_tokens=decoding.max_tokens,
            temperature=decoding.temperature,
            top_k=decoding.top_k,
            top_p=decoding.top_p,
            repetition_penalty=decoding.repetition_penalty,
            stop=decoding.stop,
        ),
    )


def _lineage_of(message: wire.Lineage) -> values.Lineage:
    return values.Lineage(
        parents=tuple(message.parents),
        datasets=tuple(values.Dataset(d.name, d.digest) for d in message.datasets),
        training=_plain(json_format.MessageToDict(message.training)),
        merge_of=tuple(message.merge_of),
        distilled_from=tuple(message.distilled_from),
    )


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Give whole numbers back as they were written: a Struct knows only floats."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def lineage_message(lineage: values.Lineage) -> wire.Lineage:
    """Write a lineage."""
    training = Struct()
    try:
        training.update(dict(lineage.training))
    except (ValueError, TypeError) as error:
        raise InvalidRequest(
            f"training: only what JSON can hold ({error})",
            reason="INVALID_FIELD",
            metadata={"field": "training"},
        ) from None
    return built(
        wire.Lineage,
        parents=lineage.parents,
        datasets=[built(wire.Dataset, name=d.name, digest=d.digest) for d in lineage.datasets],
        training=training,
        merge_of=lineage.merge_of,
        distilled_from=lineage.distilled_from,
    )


def alias_of(message: wire.Alias) -> values.Alias:
    """Read an alias."""
    return values.Alias(
        project=part_after(message.name, "projects"),
        adapter=part_after(message.name, "adapters"),
        name=part_after(message.name, "aliases"),
        version_number=message.version_number,
        version_digest=message.version_digest,
        previous_number=(message.previous_number if message.HasField("previous_number") else None),
        previous_digest=(message.previous_digest if message.HasField("previous_digest") else None),
        etag=message.etag,
        generation=message.generation,
        moved_by=message.moved_by,
        moved_at=time_of(message, "moved_at"),
        split=split_of(message),
    )


def split_of(
    message: wire.Alias | wire.AliasMove | server_service_pb2.LiveAlias,
) -> values.Split | None:
    """Read how requests are shared out, if they are."""
    if not message.HasField("split"):
        return None
    split = message.split
    return values.Split(
        candidate_number=split.candidate_number,
        candidate_digest=split.candidate_digest,
        percent=split.weight_basis_points / 100,
        shadow_percent=split.shadow_basis_points / 100,
    )


def alias_move_of(message: wire.AliasMove) -> values.AliasMove:
    """Read a line of an alias's ledger."""
    return values.AliasMove(
        generation=message.generation,
        kind=enum_of(values.MoveKind, wire.MoveKind, message.kind, "MOVE_KIND_"),
        version_number=message.version_number if message.HasField("version_number") else None,
        version_digest=message.version_digest if message.HasField("version_digest") else None,
        moved_by=message.moved_by,
        reason=message.reason,
        moved_at=time_of(message, "moved_at"),
        split=split_of(message),
    )


def alias_change_of(
    message: alias_service_pb2.SetAliasResponse | alias_service_pb2.RollbackAliasResponse,
) -> values.AliasChange:
    """Read an alias after its move."""
    following = None
    if message.HasField("followed"):
        told = message.followed
        following = values.Following(told.num_servers, told.num_following, tuple(told.reasons))
    return values.AliasChange(alias_of(message.alias), following)


def filter_message(
    base: str, tag: str, text: str, metric: values.MetricFilter | None, derived_from: str
) -> registry_service_pb2.Filter:
    """Write a filter."""
    return built(
        registry_service_pb2.Filter,
        base_model=base_name(base) if base else "",
        tag=tag,
        text=text,
        metric=None if metric is None else _metric_filter_message(metric),
        derived_from=derived_from,
    )


def _metric_filter_message(metric: values.MetricFilter) -> registry_service_pb2.MetricFilter:
    at_least = metric.comparison == "at_least"
    return built(
        registry_service_pb2.MetricFilter,
        suite=metric.suite,
        metric=metric.metric,
        comparison=(
            registry_service_pb2.METRIC_COMPARISON_AT_LEAST
            if at_least
            else registry_service_pb2.METRIC_COMPARISON_AT_MOST
        ),
        value=metric.value,
    )
