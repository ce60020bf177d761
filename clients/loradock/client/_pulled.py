"""What a pull leaves in a folder: the two files, and the rest of the version's identity."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from loradock.client._errors import AlreadyExists
from loradock.client._folder import (
    CONFIG_FILE,
    LINEAGE_FILE,
    PROFILE_FILE,
    VERSION_FILE,
    WEIGHTS_FILE,
)
from loradock.client._folder_json import lineage_json, profile_json
from loradock.client._values.registry import Blob, Version


def files_to_fetch(folder: Path, version: Version, overwrite: bool) -> list[tuple[Path, Blob]]:
    """Make the folder, and give what it lacks; raise `AlreadyExists` if files there differ."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {folder / CONFIG_FILE: version.config, folder / WEIGHTS_FILE: version.weights}
    lacking = [(path, blob) for path, blob in wanted.items() if not _holds(path, blob)]
    told = {folder / name: content for name, content in _told(version).items()}
    different = [path.name for path, _ in lacking if path.exists()]
    different += [p.name for p, content in told.items() if p.exists() and not _tells(p, content)]
    if different and not overwrite:
        raise AlreadyExists(
            f"{folder} has another {' and '.join(different)}: pull into an empty folder, or "
            "overwrite on purpose",
            reason="ALREADY_EXISTS",
            metadata={"kind": "file", "name": ", ".join(different)},
        )
    return lacking


def _holds(path: Path, blob: Blob) -> bool:
    if not path.is_file() or path.stat().st_size != blob.size_bytes:
        return False
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == blob.digest


def _told(version: Version) -> dict[str, dict[str, Any]]:
    return {
        PROFILE_FILE: profile_json(version.profile),
        LINEAGE_FILE: lineage_json(version.lineage),
    }


def _tells(path: Path, content: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == json.loads(_text(content)))
    except ValueError:
        return False


def finish_pull(folder: Path, version: Version) -> None:
    """Write the profile, the lineage, and `version.json`, which tells what this is."""
    for name, content in _told(version).items():
        _write_or_remove(folder / name, content)
    _write_or_remove(folder / VERSION_FILE, _version_json(version))


def _version_json(version: Version) -> dict[str, Any]:
    digests = version.base_digests
    return {
        "version": f"{version.project}/{version.reference}",
        "digest": version.digest,
        "base_model": version.base_model,
        "base_digests": {
            "structural": digests.structural,
            "weights": digests.weights,
            "tokenizer": digests.tokenizer,
        },
        "files": {
            CONFIG_FILE: {
                "digest": version.config.digest,
                "size_bytes": version.config.size_bytes,
            },
            WEIGHTS_FILE: {
                "digest": version.weights.digest,
                "size_bytes": version.weights.size_bytes,
            },
        },
    }


def _write_or_remove(path: Path, content: dict[str, Any]) -> None:
    if not content:
        path.unlink(missing_ok=True)
        return
    part = path.with_name(f".{path.name}.incomplete")
    part.write_text(_text(content), encoding="utf-8")
    part.replace(path)


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
