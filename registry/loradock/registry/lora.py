"""Maps an adapter's tensors to a base's modules, or says all that keeps them from fitting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from loradock.registry.errors import Problem
from loradock.registry.limits import Limits
from loradock.registry.lora_config import LoraConfig, MalformedConfig, read_config
from loradock.registry.patterns import PatternRefused
from loradock.registry.resources import LoraModule, ModuleShape
from loradock.registry.safetensors_header import TensorInfo
from loradock.registry.tensor_values import Values

# What PEFT writes: `base_model.model.<module>.lora_A.weight`; older ones and bare state dicts have
# the adapter's name in it, or lack the prefix.
_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_KNOWN_PARTS = {
    "lora_embedding_": "an embedding's LoRA can't be served",
    "lora_magnitude_vector": "DoRA can't be served",
    "modules_to_save": "modules_to_save can't be served",
    "original_module": "modules_to_save can't be served",
    "trainable_tokens": "trainable tokens can't be served",
    ".bias": "a trained bias can't be served",
    "base_layer": "a base layer's own weight can't be served",
}


@dataclass(frozen=True, slots=True)
class _Pair:
    """A module's two tensors, as far as they were found."""

    a: str | None = None
    b: str | None = None


def read_lora(
    config: bytes,
    tensors: Mapping[str, TensorInfo],
    modules: Mapping[str, ModuleShape],
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> tuple[tuple[LoraModule, ...], list[Problem]]:
    """Give the modules of an adapter in the base's order, and every problem."""
    try:
        parsed = read_config(config, limits)
    except MalformedConfig as error:
        _, problems = _pair_up(tensors, modules)
        return (), [*error.problems, *problems]
    pairs, problems = _pair_up(tensors, modules)
    try:
        problems += _target_problems(parsed, pairs, modules)
        found = []
        for module, shape in modules.items():
            if module in pairs:
                lora, wrong = _fit(parsed, module, pairs[module], shape, tensors)
                problems += wrong
                found += [lora] if lora else []
    except PatternRefused as error:
        return (), [*problems, Problem("adapter_config.json", "CONFIG_VALUE_WRONG", str(error))]
    return tuple(found), problems


def value_problems(modules: tuple[LoraModule, ...], values: Mapping[str, Values]) -> list[Problem]:
    """Say which numbers keep an adapter from being served."""
    problems = [
        Problem(key, "TENSOR_NOT_FINITE", "has an infinity or a NaN")
        for key, seen in values.items()
        if not seen.is_finite
    ]
    if all(values[m.a_key].is_zero or values[m.b_key].is_zero for m in modules):
        message = "changes nothing: in every module A or B is all zero"
        problems.append(Problem("adapter_model.safetensors", "UPDATE_ALL_ZERO", message))
    return problems


def _pair_up(
    tensors: Mapping[str, TensorInfo], modules: Mapping[str, ModuleShape]
) -> tuple[dict[str, _Pair], list[Problem]]:
    pairs: dict[str, _Pair] = {}
    problems: list[Problem] = []
    for key in tensors:
        parts = _KEY.fullmatch(key)
        if not parts:
            problems.append(Problem(key, "TENSOR_UNKNOWN", _why_unknown(key)))
            continue
        module, side = parts[1], parts[2]
        pair = pairs.get(module, _Pair())
        if module not in modules:
            message = f"the base has no linear module {module!r}"
            problems.append(Problem(key, "MODULE_UNKNOWN", message))
        elif (pair.a if side == "A" else pair.b) is not None:
            message = f"{module!r} has this tensor already under another key"
            problems.append(Problem(key, "TENSOR_REPEATED", message))
        else:
            pairs[module] = _Pair(key, pair.b) if side == "A" else _Pair(pair.a, key)
    return pairs, problems


def _why_unknown(key: str) -> str:
    for part, why in _KNOWN_PARTS.items():
        if part in key:
            return why
    return "is neither a lora_A nor a lora_B weight"


def _target_problems(
    config: LoraConfig, pairs: Mapping[str, _Pair], modules: Mapping[str, ModuleShape]
) -> Iterator[Problem]:
    for module in modules:
        is_target = config.is_target(module)
        if module in pairs and not is_target:
            message = "has tensors, but the config does not target it"
            yield Problem(module, "MODULE_NOT_TARGETED", message)
        if is_target and module not in pairs and not config.is_all_linear:
            message = "is targeted by the config, but the file has no tensors for it"
            yield Problem(module, "TENSORS_MISSING", message)
    if not pairs:
        yield Problem("adapter_model.safetensors", "MAPS_TO_NOTHING", "has no module of the base")


def _fit(
    config: LoraConfig,
    module: str,
    pair: _Pair,
    shape: ModuleShape,
    tensors: Mapping[str, TensorInfo],
) -> tuple[LoraModule | None, list[Problem]]:
    if pair.a is None or pair.b is None:
        missing = "lora_A" if pair.a is None else "lora_B"
        return None, [Problem(module, "TENSOR_MISSING", f"has no {missing}")]
    rank = config.rank_of(module)
    expected = {pair.a: (rank, shape.in_features), pair.b: (shape.out_features, rank)}
    problems = [
        Problem(key, "SHAPE_WRONG", f"is {_show(tensors[key].shape)}, not {_show(wanted)}")
        for key, wanted in expected.items()
        if tensors[key].shape != wanted
    ]
    return LoraModule(module, rank, config.scaling_of(module), pair.a, pair.b), problems


def _show(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
