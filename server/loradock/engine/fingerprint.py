"""The three digests by which a base is known, of its files as stored, before any cast.

They do not depend on how weights are split into files, on the order in a file, or on anything that
names paths and versions of tools.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from loradock.engine.errors import BaseError
from loradock.engine.protocol import Fingerprint
from loradock.engine.stored import StoredBase, StoredTensor, canonical

CHUNK_BYTES = 1 << 20
MAX_THREADS = 4
# Of a config: what names tools and places, what only training or a caller's defaults read.
_NOISE = {
    *("dtype", "torch_dtype", "transformers_version", "use_cache", "auto_map", "pad_token_id"),
    *("initializer_range", "task_specific_params", "gradient_checkpointing", "pretraining_tp"),
    *("output_attentions", "output_hidden_states", "return_dict", "id2label", "label2id"),
}


def fingerprint(base: StoredBase) -> Fingerprint:
    """Digest a base in one pass over its files, in constant memory. Raises `BaseError`."""
    tensors = sorted(base.tensors, key=lambda tensor: tensor.name)
    described: list[list[object]] = [[t.name, t.dtype, list(t.shape)] for t in tensors]
    structure = {"config": _meaningful(base.config), "tensors": described}
    parts = [[name, _sha256(part)] for name, part in sorted(base.tokenizer.items())]
    return Fingerprint(
        structural="sha256:" + _sha256(canonical(structure)),
        weights="sha256:" + _sha256(canonical(_with_contents(described, tensors))),
        tokenizer="sha256:" + _sha256(canonical(parts)),
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _meaningful(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _meaningful(item) for key, item in value.items() if not _is_noise(key)}
    return value


def _is_noise(key: str) -> bool:
    return key in _NOISE or key.startswith("_") or key.endswith(("dropout", "_pdrop"))


def _with_contents(
    described: Iterable[list[object]], tensors: Iterable[StoredTensor]
) -> list[list[object]]:
    """Add the digest of each tensor's bytes; hashing lets go of the GIL, so threads share it."""
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
        contents = threads.map(_content, tensors)
        return [[*entry, content] for entry, content in zip(described, contents, strict=True)]


def _content(tensor: StoredTensor) -> str:
    digest, left, buffer = hashlib.sha256(), tensor.size_bytes, memoryview(bytearray(CHUNK_BYTES))
    try:
        with tensor.file.open("rb", buffering=0) as file:
            file.seek(tensor.offset)
            while left > 0:
                num_read = file.readinto(buffer[: min(left, CHUNK_BYTES)])
                if not num_read:
                    raise BaseError(f"{tensor.file} ends within {tensor.name}: fetch it again")
                digest.update(buffer[:num_read])
                left -= num_read
    except OSError as error:
        raise BaseError(f"{tensor.file} can't be read: {error}") from error
    return digest.hexdigest()
