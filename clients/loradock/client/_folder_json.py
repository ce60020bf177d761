"""The JSON beside an adapter's weights: the keys, and the sentence for each that is wrong.

profile.json: {"template", "system", "labels", "decoding": {"max_tokens", "temperature", "top_k",
    "top_p", "repetition_penalty", "stop"}}
lineage.json: {"parents": ["sha256:…" | {"version": "<reference or digest>"}],
    "datasets": [{"name", "digest"}], "training": {…}, "merge_of" and "distilled_from": as parents}
version.json, which a pull writes: {"version", "digest", "base_model", "files",
    "base_digests": {"structural", "weights", "tokenizer"}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loradock.client._errors import Problem
from loradock.client._values.registry import BaseDigests, Dataset, Decoding, Lineage, Profile

Check = tuple[Callable[[Any], bool], str]


@dataclass(frozen=True, slots=True)
class LineageFile:
    """A lineage whose parents may still be references."""

    parents: tuple[str, ...] = ()
    datasets: tuple[Dataset, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    merge_of: tuple[str, ...] = ()
    distilled_from: tuple[str, ...] = ()


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int) and not isinstance(value, bool)


def _are_strings(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_parent(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, dict):
        return set(value) == {"version"} and isinstance(value["version"], str)
    return isinstance(value, str) and value.startswith("sha256:")


def _is_dataset(value: Any) -> bool:  # noqa: ANN401
    return (
        isinstance(value, dict)
        and set(value) == {"name", "digest"}
        and all(isinstance(item, str) for item in value.values())
    )


def _are_base_digests(value: Any) -> bool:  # noqa: ANN401
    return (
        isinstance(value, dict)
        and set(value) == {"structural", "weights", "tokenizer"}
        and all(isinstance(item, str) for item in value.values())
    )


def _all(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(check(item) for item in value)


_TEXT: Check = (lambda value: value is None or isinstance(value, str), "a text")
_TEXTS: Check = (_are_strings, "a list of texts")
_NUMBER: Check = (_is_number, "a number")
_INTEGER: Check = (_is_integer, "a whole number")
_OBJECT: Check = (lambda value: isinstance(value, dict), "an object")

PROFILE_KEYS: dict[str, Check] = {
    "template": _TEXT,
    "system": _TEXT,
    "labels": _TEXTS,
    "decoding": _OBJECT,
}
DECODING_KEYS: dict[str, Check] = {
    "max_tokens": _INTEGER,
    "temperature": _NUMBER,
    "top_k": _INTEGER,
    "top_p": _NUMBER,
    "repetition_penalty": _NUMBER,
    "stop": _TEXTS,
}
_VERSIONS: Check = (_all(_is_parent), 'a list of "sha256:…" or {"version": "<reference>"}')
LINEAGE_KEYS: dict[str, Check] = {
    "parents": _VERSIONS,
    "merge_of": _VERSIONS,
    "distilled_from": _VERSIONS,
    "datasets": (_all(_is_dataset), 'a list of {"name", "digest"}'),
    "training": _OBJECT,
}

VERSION_KEYS: dict[str, Check] = {
    "version": _TEXT,
    "digest": _TEXT,
    "base_model": _TEXT,
    "base_digests": (_are_base_digests, "an object of structural, weights and tokenizer"),
    "files": _OBJECT,
}


def read_profile(path: Path, problems: list[Problem]) -> Profile:
    """Read a profile; without a file, the empty one. Add what is wrong to `problems`."""
    content = _read(path, PROFILE_KEYS, problems)
    decoding = content.get("decoding", {})
    if isinstance(decoding, dict):
        _check(decoding, DECODING_KEYS, f"{path.name} decoding", problems)
    if problems:
        return Profile()
    return Profile(
        template=content.get("template"),
        system=content.get("system"),
        labels=tuple(content.get("labels", ())),
        decoding=Decoding(**decoding | {"stop": tuple(decoding.get("stop", ()))}),
    )


def read_lineage(path: Path, problems: list[Problem]) -> LineageFile:
    """Read a lineage; without a file, the empty one. Add what is wrong to `problems`."""
    content = _read(path, LINEAGE_KEYS, problems)
    if problems:
        return LineageFile()
    return LineageFile(
        parents=_versions(content, "parents"),
        datasets=tuple(Dataset(**dataset) for dataset in content.get("datasets", ())),
        training=content.get("training", {}),
        merge_of=_versions(content, "merge_of"),
        distilled_from=_versions(content, "distilled_from"),
    )


def _versions(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = content.get(key, ())
    return tuple(one["version"] if isinstance(one, dict) else one for one in found)


def read_base_digests(path: Path, problems: list[Problem]) -> BaseDigests | None:
    """Read for which base the weights were admitted before; None without a file."""
    content = _read(path, VERSION_KEYS, problems)
    if problems or "base_digests" not in content:
        return None
    return BaseDigests(**content["base_digests"])


def _read(path: Path, keys: Mapping[str, Check], problems: list[Problem]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        problems.append(Problem(path.name, "NOT_JSON", f"can't be read as JSON: {error}"))
        return {}
    if not isinstance(content, dict):
        problems.append(Problem(path.name, "WRONG_TYPE", "must be an object"))
        return {}
    _check(content, keys, path.name, problems)
    return content


def _check(
    content: dict[str, Any], keys: Mapping[str, Check], where: str, problems: list[Problem]
) -> None:
    for key in content:
        if key not in keys:
            message = f"unknown key {key!r}; it may have {', '.join(keys)}"
            problems.append(Problem(where, "UNKNOWN_KEY", message))
    for key, (is_right, expected) in keys.items():
        if key in content and not is_right(content[key]):
            problems.append(Problem(where, "WRONG_TYPE", f"{key!r} must be {expected}"))


def profile_json(profile: Profile) -> dict[str, Any]:
    """Write a profile as `profile.json` has it, without what is not set."""
    decoding = {
        key: value
        for key in DECODING_KEYS
        if (value := getattr(profile.decoding, key)) not in (None, ())
    }
    content = {
        "template": profile.template,
        "system": profile.system,
        "labels": profile.labels or None,
        "decoding": decoding or None,
    }
    return {key: value for key, value in content.items() if value is not None}


def lineage_json(lineage: Lineage) -> dict[str, Any]:
    """Write a lineage as `lineage.json` has it, without what is empty."""
    content = {
        "parents": list(lineage.parents),
        "datasets": [{"name": d.name, "digest": d.digest} for d in lineage.datasets],
        "training": dict(lineage.training),
        "merge_of": list(lineage.merge_of),
        "distilled_from": list(lineage.distilled_from),
    }
    return {key: value for key, value in content.items() if value}
