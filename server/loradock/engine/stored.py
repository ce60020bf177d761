"""What a base's files hold, before anything is loaded or cast: its config, tensors, tokenizer.

Knows no model. Only safetensors and GGUF files are read: other formats can run code when opened.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradock.engine.errors import BaseError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_HUB_NOT = ["*/*", "consolidated*", "adapter_*"]
_TOKENIZER_TEXTS = ("merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")
_TOKENIZER_NOISE = {
    *("name_or_path", "tokenizer_file", "special_tokens_map_file", "is_local", "local_files_only"),
    *("transformers_version", "model_max_length", "processor_class", "backend"),
}
_TOKENIZER_STATE = {"version", "truncation", "padding"}  # of tokenizer.json; set anew by each call


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as a file holds it."""

    name: str
    dtype: str  # as the file calls it: "BF16", "Q4_1"
    shape: tuple[int, ...]
    file: Path
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoredBase:
    """A base on disk: a folder, or one GGUF file. Of its tensors, only where they are."""

    path: Path
    config: Mapping[str, Any]
    tensors: Sequence[StoredTensor]
    tokenizer: Mapping[str, bytes]  # what tokenising and chat templates depend on, by part

    @property
    def is_gguf(self) -> bool:
        """Whether it is one GGUF file."""
        return self.path.is_file()

    @property
    def for_transformers(self) -> tuple[Path, dict[str, Any]]:
        """The arguments by which transformers finds it."""
        if self.is_gguf:
            return self.path.parent, {"gguf_file": self.path.name}
        return self.path, {}

    @property
    def main_dtype(self) -> str:
        """The dtype of most of its bytes."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.dtype] += tensor.size_bytes
        return sizes.most_common(1)[0][0]


def find_base(model: str | Path) -> Path:
    """Give the folder or GGUF file of a base; a hub id is fetched, or found in the hub's cache.

    Raises `BaseError`.
    """
    path = Path(model).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return _refuse_no_model(path).resolve()
    if path.is_file():
        raise BaseError(f"{model} is no base: give the folder that holds it, or a GGUF file")
    if isinstance(model, Path) or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise BaseError(f"there is no folder and no GGUF file {model}")
    return _from_hub(model)


def _refuse_no_model(path: Path) -> Path:
    """Refuse a folder that holds no model, before anything looks for a part of one."""
    if path.is_dir():
        if (path / "adapter_config.json").exists():
            raise BaseError(f"{path} holds an adapter: give the folder of the base it was made for")
        if not (path / "config.json").exists():
            raise BaseError(f"there is no model (config.json) in {path}")
    return path


def read_base(path: Path) -> StoredBase:
    """Read what a base's files say of themselves. Raises `BaseError`."""
    base = _read_gguf(path) if path.is_file() else _read_folder(path)
    if not base.tensors:
        raise BaseError(f"{path} holds no tensors")
    method = (base.config.get("quantization_config") or {}).get("quant_method")
    if method:
        raise BaseError(f"{path} is stored quantised ({method}): give its unquantised weights")
    return base


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_NOT))
    except Exception as error:  # the hub's errors share no class, and all are about the name
        raise BaseError(
            f"{model} is no folder, and the hub does not give it: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read_folder(folder: Path) -> StoredBase:
    config = _json(folder / "config.json")
    tensors = [t for file in _weight_files(folder) for t in _safetensors(file)]
    names = Counter(tensor.name for tensor in tensors)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise BaseError(f"{folder} holds {twice[0]} in more than one file")
    return StoredBase(folder, config, tensors, _tokenizer_parts(folder))


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise BaseError(f"{file.parent} is no base: it has no {file.name}") from error
    except (OSError, ValueError) as error:
        raise BaseError(f"{file} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise BaseError(f"{file} is no JSON object")
    return content


def _weight_files(folder: Path) -> list[Path]:
    """List the files that hold the weights, chosen as transformers chooses them."""
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        raise BaseError(
            f"{folder} has no safetensors weights. Pickled ones (.bin, .pt) are never opened: "
            "convert them once, where you trust them, with "
            "`model.save_pretrained(folder)` of transformers"
        )
    names = _json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(map(_is_plain_name, names.values())):
        raise BaseError(f"{folder / INDEX} has no weight_map of files beside it")
    return [folder / name for name in sorted(set(names.values()))]


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name


def _safetensors(file: Path) -> Iterator[StoredTensor]:
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(length, MAX_HEADER_BYTES)))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            yield StoredTensor(name, entry["dtype"], shape, file, 8 + length + start, end - start)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise BaseError(f"{file} is no whole safetensors file: {_first_line(error)}") from error


def _tokenizer_parts(folder: Path) -> dict[str, bytes]:
    parts = dict(_vocabulary(folder))
    if not parts:
        raise BaseError(f"{folder} has no tokenizer")
    file = folder / "tokenizer_config.json"
    config = _json(file) if file.exists() else {}
    template = config.pop("chat_template", None)
    if _has(folder, "chat_template.jinja"):
        template = (folder / "chat_template.jinja").read_text()
    kept = {key: value for key, value in config.items() if key not in _TOKENIZER_NOISE}
    parts["tokenizer_config.json"] = canonical(kept)
    parts["chat_template"] = canonical(template)
    return parts


def _has(folder: Path, name: str) -> bool:
    return (folder / name).exists()


def _vocabulary(folder: Path) -> Iterable[tuple[str, bytes]]:
    if _has(folder, "tokenizer.json"):
        content = _json(folder / "tokenizer.json")
        kept = {key: value for key, value in content.items() if key not in _TOKENIZER_STATE}
        yield "tokenizer.json", canonical(kept)
    else:
        texts = [*_TOKENIZER_TEXTS, *(file.name for file in folder.glob("*.tiktoken"))]
        yield from ((name, (folder / name).read_bytes()) for name in texts if _has(folder, name))
        if _has(folder, "vocab.json"):
            yield "vocab.json", canonical(_json(folder / "vocab.json"))
    for name in ("added_tokens.json", "special_tokens_map.json"):
        if _has(folder, name):
            yield name, canonical(_json(folder / name))


def canonical(value: object) -> bytes:
    """Write a JSON value in the one way in which it is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _read_gguf(file: Path) -> StoredBase:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        fields = [field for field in reader.fields.values() if not field.name.startswith("GGUF.")]
        config = {f.name: f.contents() for f in fields if not _is_gguf_extra(f.name)}
        tokenizer = {
            f.name: b"".join(part.tobytes() for part in f.parts)
            for f in fields
            if f.name.startswith("tokenizer.")
        }
        tensors = [
            StoredTensor(
                t.name,
                t.tensor_type.name,
                tuple(map(int, t.shape)),
                file,
                int(t.data_offset),
                int(t.n_bytes),
            )
            for t in reader.tensors
        ]
    except Exception as error:  # the reader checks nothing: a damaged file ends in any of them
        raise BaseError(f"{file} is no whole GGUF file: {_first_line(error)}") from error
    if not tokenizer:
        raise BaseError(f"{file} has no tokenizer")
    return StoredBase(file, config, tensors, tokenizer)


def _is_gguf_extra(key: str) -> bool:
    """Whether a key is about the tokenizer, or about the file and not the model."""
    return key.startswith(("tokenizer.", "general.")) and key != "general.architecture"
