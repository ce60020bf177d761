"""What a version is: one canonical JSON document whose sha256 is the version's identity.

Canonical means: UTF-8, keys sorted, no white space, no NaN or infinity, and a number that is whole
is written as an integer: 1 and 1.0, which a wire may turn into each other, are one content.
Other floats are written as the shortest decimal that reads back as the same double.

What is absent has its default, so that a field added later changes no digest made before.
Parents and datasets are sets: their order does not matter. Labels and stops are ordered.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loradock.registry.errors import InvalidArgument
from loradock.registry.resources import (
    BaseDigests,
    BlobRef,
    Dataset,
    Decoding,
    Delta,
    Lineage,
    Profile,
)

SCHEMA = "loradock.manifest.v1"
_MAX_EXACT = 2**53


def digest_bytes(content: bytes) -> str:
    """`sha256:<hex>` of the content."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def canonical_json(value: object) -> bytes:
    """Give the one spelling of a JSON value; InvalidArgument if it has none."""
    try:
        text = json.dumps(
            _plain(value),
            ensure_ascii=False,
            allow_nan=False,
            sort_keys=True,
            separators=(",", ":"),
        )
        return text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidArgument("content", f"has no canonical JSON: {error}") from None


def _plain(value: object) -> object:
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
        return int(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a key is not text")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class Manifest:
    """A version's content: the parts, and where they came from. No name, number, time or author."""

    base: BaseDigests
    delta: Delta
    profile: Profile
    lineage: Lineage

    def to_bytes(self) -> bytes:
        """Give the canonical document."""
        return canonical_json(
            {
                "schema": SCHEMA,
                "base": digests_to_json(self.base),
                "delta": _delta_to_json(self.delta),
                "profile": profile_to_json(self.profile),
                "lineage": lineage_to_json(self.lineage),
            }
        )


def parse_manifest(content: bytes) -> Manifest:
    """Read a canonical document back; anything else is InvalidArgument."""
    try:
        document = json.loads(content)
        manifest = Manifest(
            base=BaseDigests(**document["base"]),
            delta=_delta_from_json(document["delta"]),
            profile=profile_from_json(document["profile"]),
            lineage=lineage_from_json(document["lineage"]),
        )
        is_canonical = _is_well_typed(manifest) and manifest.to_bytes() == content
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise InvalidArgument("manifest", f"can't be read: {error!r:.200}") from None
    if not is_canonical:
        raise InvalidArgument("manifest", "is not canonical, or of a schema not known here")
    return manifest


def _is_well_typed(manifest: Manifest) -> bool:
    """Whether the document's values are of the kinds that everybody takes them for."""
    base, delta, profile, lineage = (
        manifest.base,
        manifest.delta,
        manifest.profile,
        manifest.lineage,
    )
    decoding = profile.decoding
    digests = [base.structural, base.weights, base.tokenizer, *lineage.versions]
    digests += [delta.weights.digest, delta.config.digest, *(d.digest for d in lineage.datasets)]
    texts = [*profile.labels, *decoding.stop, *(d.name for d in lineage.datasets)]
    texts += [text for text in (profile.template, profile.system) if text is not None]
    counts = [delta.weights.size_bytes, delta.config.size_bytes]
    counts += [n for n in (decoding.max_tokens, decoding.top_k) if n is not None]
    return (
        all(isinstance(text, str) for text in (*digests, *texts, *lineage.training))
        and all(type(count) is int for count in counts)
        and all(map(is_plain_fact, lineage.training.values()))
    )


def digests_to_json(digests: BaseDigests) -> dict[str, str]:
    """Spell out a base's three digests."""
    return {
        "structural": digests.structural,
        "weights": digests.weights,
        "tokenizer": digests.tokenizer,
    }


def base_identity(digests: BaseDigests) -> str:
    """One digest that stands for the three, e.g. as a node of the lineage graph."""
    return digest_bytes(canonical_json(digests_to_json(digests)))


def profile_to_json(profile: Profile) -> dict[str, object]:
    """Spell out what is set."""
    decoding = profile.decoding
    fields: dict[str, object] = {
        "template": profile.template,
        "system": profile.system,
        "labels": list(profile.labels) or None,
        "decoding": _set_only(
            {
                "max_tokens": decoding.max_tokens,
                "temperature": decoding.temperature,
                "top_k": decoding.top_k,
                "top_p": decoding.top_p,
                "repetition_penalty": decoding.repetition_penalty,
                "stop": list(decoding.stop) or None,
            }
        )
        or None,
    }
    return _set_only(fields)


def profile_from_json(document: Mapping[str, Any]) -> Profile:
    """Invert profile_to_json."""
    decoding = dict(document.get("decoding", {}))
    for name in ("temperature", "top_p", "repetition_penalty"):
        if name in decoding:
            decoding[name] = float(decoding[name])
    decoding["stop"] = tuple(decoding.get("stop", ()))
    return Profile(
        template=document.get("template"),
        system=document.get("system"),
        labels=tuple(document.get("labels", ())),
        decoding=Decoding(**decoding),
    )


def lineage_to_json(lineage: Lineage) -> dict[str, object]:
    """Spell out what is set; parents and datasets in one order."""
    datasets = sorted({(d.digest, d.name) for d in lineage.datasets})
    fields: dict[str, object] = {
        "parents": sorted(set(lineage.parents)) or None,
        "datasets": [{"digest": digest, "name": name} for digest, name in datasets] or None,
        "training": dict(lineage.training) or None,
        "merge_of": sorted(set(lineage.merge_of)) or None,
        "distilled_from": sorted(set(lineage.distilled_from)) or None,
    }
    return _set_only(fields)


def lineage_from_json(document: Mapping[str, Any]) -> Lineage:
    """Invert lineage_to_json."""
    return Lineage(
        parents=tuple(document.get("parents", ())),
        datasets=tuple(Dataset(d["name"], d["digest"]) for d in document.get("datasets", ())),
        training=dict(document.get("training", {})),
        merge_of=tuple(document.get("merge_of", ())),
        distilled_from=tuple(document.get("distilled_from", ())),
    )


def is_plain_fact(value: object) -> bool:
    """Whether a training fact is text, a finite number, a truth or nothing."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def _set_only(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _delta_to_json(delta: Delta) -> dict[str, object]:
    return {"kind": "lora", "weights": _blob(delta.weights), "config": _blob(delta.config)}


def _delta_from_json(document: Mapping[str, Any]) -> Delta:
    weights, config = document["weights"], document["config"]
    return Delta(weights=BlobRef(**weights), config=BlobRef(**config))


def _blob(ref: BlobRef) -> dict[str, object]:
    return {"digest": ref.digest, "size_bytes": ref.size_bytes}
