"""The registry's nouns to messages and back: bases, adapters, versions and their parts."""

from __future__ import annotations

from datetime import datetime

from google.protobuf import json_format, struct_pb2, timestamp_pb2

from loradock.registry import resources as nouns
from loradock.registry.errors import InvalidArgument
from loradock.server.services import names
from loradock.v1 import registry_service_pb2 as registry_wire
from loradock.v1 import resources_pb2 as wire

MAX_EXACT_INT = 2**53

STATES = {
    nouns.VersionState.READY: wire.VERSION_STATE_READY,
    nouns.VersionState.YANKED: wire.VERSION_STATE_YANKED,
    nouns.VersionState.DELETED: wire.VERSION_STATE_DELETED,
}


def timestamp(moment: datetime | None) -> timestamp_pb2.Timestamp | None:
    """Write a moment."""
    if moment is None:
        return None
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def base_digests(digests: nouns.BaseDigests) -> wire.BaseDigests:
    """Write the three digests of a base."""
    return wire.BaseDigests(
        structural=digests.structural, weights=digests.weights, tokenizer=digests.tokenizer
    )


def read_base_digests(message: wire.BaseDigests) -> nouns.BaseDigests:
    """Read the three digests of a base."""
    return nouns.BaseDigests(message.structural, message.weights, message.tokenizer)


def base_model(base: nouns.BaseModel, *, with_modules: bool = True) -> wire.BaseModel:
    """Write a base; lists leave its modules out."""
    modules = base.modules.items() if with_modules else ()
    return wire.BaseModel(
        name=names.base_name(base.name),
        digests=base_digests(base.digests),
        architecture=base.architecture,
        modules={
            path: wire.ModuleShape(in_features=s.in_features, out_features=s.out_features)
            for path, s in modules
        },
        context_length_tokens=base.context_length,
        num_parameters=base.num_parameters,
        description=base.description,
        created_by=base.created_by,
        created_at=timestamp(base.created_at),
    )


def read_base_model(message: wire.BaseModel) -> nouns.BaseModel:
    """Read a base as its registrant describes it."""
    return nouns.BaseModel(
        name=names.base_of(message.name),
        digests=read_base_digests(message.digests),
        architecture=message.architecture,
        modules={
            path: nouns.ModuleShape(shape.in_features, shape.out_features)
            for path, shape in message.modules.items()
        },
        context_length=message.context_length_tokens,
        num_parameters=message.num_parameters,
        description=message.description,
    )


def adapter(noun: nouns.Adapter) -> wire.Adapter:
    """Write an adapter."""
    return wire.Adapter(
        name=names.adapter_name(noun.project, noun.name),
        owner=noun.owner,
        description=noun.description,
        tags=sorted(noun.tags),
        num_versions=noun.num_versions,
        etag=noun.etag,
        created_by=noun.created_by,
        created_at=timestamp(noun.created_at),
        updated_at=timestamp(noun.updated_at),
    )


def blob(ref: nouns.BlobRef) -> wire.Blob:
    """Write a blob's name."""
    return wire.Blob(digest=ref.digest, size_bytes=ref.size_bytes)


def read_blob(message: wire.Blob) -> nouns.BlobRef:
    """Read a blob's name."""
    return nouns.BlobRef(message.digest, message.size_bytes)


def read_delta(message: wire.Delta) -> nouns.Delta:
    """Read the weights part; both of its blobs must be named."""
    for part in ("weights", "config"):
        if not message.HasField(part):
            raise InvalidArgument(f"delta.{part}", "is missing")
    return nouns.Delta(weights=read_blob(message.weights), config=read_blob(message.config))


def profile(noun: nouns.Profile) -> wire.Profile:
    """Write a profile."""
    decoding = noun.decoding
    return wire.Profile(
        template=noun.template,
        system=noun.system,
        labels=noun.labels,
        decoding=wire.Decoding(
            max_tokens=decoding.max_tokens,
            temperature=decoding.temperature,
            top_k=decoding.top_k,
            top_p=decoding.top_p,
            repetition_penalty=decoding.repetition_penalty,
            stop=decoding.stop,
        ),
    )


def read_profile(message: wire.Profile) -> nouns.Profile:
    """Read a profile; what is absent stays absent."""
    return nouns.Profile(
        template=message.template if message.HasField("template") else None,
        system=message.system if message.HasField("system") else None,
        labels=tuple(message.labels),
        decoding=_read_decoding(message.decoding),
    )


def _read_decoding(message: wire.Decoding) -> nouns.Decoding:
    return nouns.Decoding(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        temperature=_float(message.temperature) if message.HasField("temperature") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        top_p=_float(message.top_p) if message.HasField("top_p") else None,
        repetition_penalty=(
            _float(message.repetition_penalty) if message.HasField("repetition_penalty") else None
        ),
        stop=tuple(message.stop),
    )


def _float(value: float) -> float:
    """Give the shortest decimal that a 32-bit float stands for: 0.7, not 0.699999988."""
    return float(f"{value:.7g}")


def lineage(noun: nouns.Lineage) -> wire.Lineage:
    """Write a lineage."""
    training = struct_pb2.Struct()
    training.update(noun.training)
    return wire.Lineage(
        parents=noun.parents,
        datasets=[wire.Dataset(name=d.name, digest=d.digest) for d in noun.datasets],
        training=training,
        merge_of=noun.merge_of,
        distilled_from=noun.distilled_from,
    )


def read_lineage(message: wire.Lineage) -> nouns.Lineage:
    """Read a lineage. JSON has one kind of number: those without a fraction become integers."""
    facts = json_format.MessageToDict(message.training)
    return nouns.Lineage(
        parents=tuple(message.parents),
        datasets=tuple(nouns.Dataset(d.name, d.digest) for d in message.datasets),
        training={name: _fact(value) for name, value in facts.items()},
        merge_of=tuple(message.merge_of),
        distilled_from=tuple(message.distilled_from),
    )


def _fact(value: str | float | bool | None) -> str | int | float | bool | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT_INT:
        return int(value)
    return value


def version(noun: nouns.Version) -> wire.AdapterVersion:
    """Write a version."""
    return wire.AdapterVersion(
        name=names.version_name(noun.project, noun.adapter, noun.number),
        number=noun.number,
        digest=noun.digest,
        state=STATES[noun.state],
        state_reason=noun.state_reason,
        base_model=names.base_name(noun.base.name),
        base_digests=base_digests(noun.base.digests),
        delta=wire.Delta(weights=blob(noun.delta.weights), config=blob(noun.delta.config)),
        profile=profile(noun.profile),
        lineage=lineage(noun.lineage),
        num_modules=len(noun.modules),
        max_rank=noun.max_rank,
        created_by=noun.created_by,
        created_at=timestamp(noun.created_at),
        hold=None if noun.hold is None else _hold(noun.hold),
    )


def _hold(noun: nouns.Hold) -> wire.VersionHold:
    return wire.VersionHold(
        reason=noun.reason,
        held_by=noun.held_by,
        held_at=timestamp(noun.held_at),
        expires_at=timestamp(noun.expires_at),
    )


def resolved(noun: nouns.Resolved) -> registry_wire.ResolveVersionResponse:
    """Write what a reference meant."""
    return registry_wire.ResolveVersionResponse(
        version=version(noun.version), alias=noun.alias, generation=noun.generation
    )
