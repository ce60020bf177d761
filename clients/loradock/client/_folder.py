"""What a folder with an adapter holds: the files that are published, and those that never are.

A PEFT folder is `adapter_config.json` and `adapter_model.safetensors`. Beside them, `profile.json`
and `lineage.json` may say how the version is asked and where it came from, and the `version.json`
that a pull left, for which exact base the weights are. Everything that is wrong is told at once.
Whether the weights fit the base is the server's to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loradock.client._errors import NotAdmitted, Problem
from loradock.client._folder_json import (
    LineageFile,
    read_base_digests,
    read_lineage,
    read_profile,
)
from loradock.client._values.registry import BaseDigests, Blob, Profile

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PROFILE_FILE = "profile.json"
LINEAGE_FILE = "lineage.json"
VERSION_FILE = "version.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that is published."""

    path: Path
    blob: Blob


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """A folder that can be pushed."""

    config: LocalFile
    weights: LocalFile
    profile: Profile
    lineage: LineageFile
    base_digests: BaseDigests | None


def read_folder(folder: Path) -> AdapterFolder:
    """Read and hash what is published; raise `NotAdmitted` with all that is wrong."""
    problems: list[Problem] = [*_missing(folder), *_pickles(folder)]
    profile = read_profile(folder / PROFILE_FILE, problems)
    lineage = read_lineage(folder / LINEAGE_FILE, problems)
    base_digests = read_base_digests(folder / VERSION_FILE, problems)
    if problems:
        raise refused(folder, problems)
    return AdapterFolder(
        config=_local_file(folder / CONFIG_FILE),
        weights=_local_file(folder / WEIGHTS_FILE),
        profile=profile,
        lineage=lineage,
        base_digests=base_digests,
    )


def refused(folder: Path, problems: list[Problem]) -> NotAdmitted:
    """Give the error for a folder that can't be pushed as it is."""
    told = "; ".join(f"{p.subject}: {p.message}" for p in problems)
    return NotAdmitted(
        f"{folder} can't be published: {told}", reason="NOT_ADMITTED", problems=problems
    )


def _missing(folder: Path) -> Iterator[Problem]:
    if not folder.is_dir():
        yield Problem("folder", "NO_FOLDER", "there is no such folder")
        return
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            yield Problem(
                name,
                "FILE_MISSING",
                "missing; PEFT's `model.save_pretrained(folder)` writes it",
            )


def _pickles(folder: Path) -> Iterator[Problem]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLE_SUFFIXES:
            yield Problem(
                path.name,
                "PICKLE_REFUSED",
                "pickle can run code when it is loaded, so it is never published: save with "
                "`model.save_pretrained(folder, safe_serialization=True)` and push a folder "
                "without this file",
            )


def _local_file(path: Path) -> LocalFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return LocalFile(path, Blob(f"sha256:{digest}", path.stat().st_size))


def chunks_of(path: Path, offset: int = 0) -> Iterator[bytes]:
    """Read a file from an offset on, in pieces that fit a message."""
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
