"""Loading a base, and describing it: its digests, its modules, how this engine runs it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from loradock.engine.errors import BaseError
from loradock.engine.fingerprint import fingerprint
from loradock.engine.protocol import BaseInfo, Fingerprint, LinearShape
from loradock.engine.stored import StoredBase, find_base, read_base

log = logging.getLogger(__name__)

T = TypeVar("T")
Report = Mapping[str, set[object]]  # what transformers says of a load: keys by problem

# Weights of "int8" are loaded as bfloat16; the decoder rounds them further as it packs them.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.bfloat16}
# What "auto" runs a stored dtype in. GGUF's quantised types, which are not here, are unpacked to
# bfloat16: its rounding is far below theirs.
_RUN_AS = {
    "F64": torch.float32,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# Never code out of a base's folder, and never a question about it on a terminal.
_ONLY_THESE_FILES = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A base in memory: dense, in one dtype, on one device, without gradients."""

    info: BaseInfo
    model: PreTrainedModel
    precision: str  # what its weights are multiplied in: a key of DTYPES, or "float16"
    load_again: Callable[[], PreTrainedModel]  # for who has taken the model's weights apart


def load_base(
    model: str | Path, name: str, *, device: str = "cpu", dtype: str = "auto"
) -> LoadedBase:
    """Load a base from a folder, a GGUF file or the hub. Raises `BaseError`.

    `dtype` "auto" keeps the one in which most of it is stored. Its digests are those of its files,
    whatever it is run in.
    """
    place = _available(device)
    base = read_base(find_base(model))
    precision = _precision(dtype, base)
    run_as = DTYPES.get(precision, torch.float16)
    with ThreadPoolExecutor(1, "fingerprint") as beside:
        digests = beside.submit(fingerprint, base)
        loaded = _load(base, run_as, place)
        info = _info(name, loaded, digests.result(), place, precision)
        return LoadedBase(info, loaded, precision, lambda: _load(base, run_as, place))


def describe_base(model: str | Path, name: str) -> BaseInfo:
    """Say what `load_base` would, without loading any weights. Raises `BaseError`."""
    base = read_base(find_base(model))
    empty = _made(base, lambda: _empty(base))
    precision = _precision("auto", base)
    return _info(name, empty, fingerprint(base), torch.device("cpu"), precision)


def _available(device: str) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(1, device=place).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BaseError(f"the device {device!r} can't be used: {error}") from error
    return place


def _precision(dtype: str, base: StoredBase) -> str:
    if dtype == "auto":
        stored = _RUN_AS.get(base.main_dtype)
        if stored is None and not base.is_gguf:
            raise BaseError(
                f"{base.path} is stored as {base.main_dtype}: name a dtype to run it in"
            )
        return str(stored or torch.bfloat16).removeprefix("torch.")
    if dtype not in DTYPES:
        raise BaseError(f"the dtype {dtype!r} is none of auto, {', '.join(DTYPES)}")
    return dtype


def _empty(base: StoredBase) -> PreTrainedModel:
    """Make the model without memory for its weights."""
    place, options = base.for_transformers
    config = AutoConfig.from_pretrained(place, **_ONLY_THESE_FILES, **options)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return cast(PreTrainedModel, model)


def _load(base: StoredBase, run_as: torch.dtype, device: torch.device) -> PreTrainedModel:
    with _no_progress_bars():
        model, report = _made(base, lambda: _from_files(base, run_as))
    _check_whole(base, report)
    model.requires_grad_(False)
    model.eval()  # type: ignore[no-untyped-call]
    model.to(device)  # type: ignore[arg-type]  # its stub knows no torch.device
    return model


def _from_files(base: StoredBase, run_as: torch.dtype) -> tuple[PreTrainedModel, Report]:
    place, options = base.for_transformers
    if base.is_gguf:
        options["quantization_config"] = GgufConfig(gguf_file=base.path.name, dequantize=True)
    else:
        options["use_safetensors"] = True
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        place,
        dtype=run_as,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        **_ONLY_THESE_FILES,
        **options,
    )
    return cast(tuple[PreTrainedModel, Report], loaded)


def _made(base: StoredBase, make: Callable[[], T]) -> T:
    try:
        return make()
    except Exception as error:  # whatever transformers raises is about the files that it was given
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BaseError(f"{base.path} can't be loaded: {reason}") from error


def _check_whole(base: StoredBase, report: Report) -> None:
    """Refuse a base of which transformers had to make up a part."""
    missing = sorted(map(str, report["missing_keys"]))
    if missing:
        raise BaseError(f"{base.path} lacks {_some(missing)}, which its config asks for")
    misfits = sorted(map(str, report["mismatched_keys"]))  # name, stored shape, wanted shape
    if misfits:
        raise BaseError(f"{base.path} has other shapes than its config asks for: {_some(misfits)}")
    unused = sorted(map(str, report["unexpected_keys"]))
    if unused:
        log.warning("%s: %d tensors are not used, %s first", base.path, len(unused), unused[0])


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + more


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _info(
    name: str,
    model: PreTrainedModel,
    digests: Fingerprint,
    device: torch.device,
    precision: str,
) -> BaseInfo:
    config = model.config.get_text_config()
    return BaseInfo(
        name=name,
        fingerprint=digests,
        architecture=type(model).__name__,
        modules=dict(_linear_modules(model)),
        context_length=_context_length(name, config),
        vocab_size=config.vocab_size,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        profile=f"{device}/{precision}",
    )


def _context_length(name: str, config: PreTrainedConfig) -> int:
    """Give the tokens that a text may have.

    LongRoPE turns all positions of a batch otherwise as soon as one text is longer than the base
    was first made for, which would let one row change another's tokens: it stays below that.
    """
    length = getattr(config, "max_position_embeddings", None)
    if length is None:
        raise BaseError(f"{name}: its config says no context length (max_position_embeddings)")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        first = rope.get("original_max_position_embeddings")
        length = min(length, first or getattr(config, "original_max_position_embeddings", length))
    return int(length)


def _linear_modules(model: PreTrainedModel) -> Iterator[tuple[str, LinearShape]]:
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            yield path, LinearShape(module.in_features, module.out_features)
        elif isinstance(module, Conv1D):  # GPT-2's linear, with its weight the other way round
            yield path, LinearShape(*module.weight.shape)
