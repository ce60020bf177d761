"""The keys of PEFT's adapter_config.json: those read, those without effect, those refused.

PEFT writes every key it knows. What changes nothing in a forward pass is let through, what can't be
served is refused by name unless it has its default, and a key that nobody here has heard of is
refused too: it might mean something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from loradock.registry.errors import Problem

READ = frozenset(
    {
        "r",
        "lora_alpha",
        "use_rslora",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
    }
)
# They speak of training, or of how to find the base. The base is known by its digests alone.
# fan_in_fan_out says how the base's own weight is stored; A and B have the same shapes either way.
IGNORED = frozenset(
    {
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
        "lora_dropout",
        "fan_in_fan_out",
        "megatron_core",
        "qalora_group_size",
        "eva_config",
        "runtime_config",
    }
)
# Not servable unless as PEFT writes it when it is not used.
UNSET: Mapping[str, tuple[object, ...]] = {
    "modules_to_save": (None, []),
    "bias": ("none",),
    "use_dora": (False, None),
    "alora_invocation_tokens": (None,),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "lora_bias": (False, None),
    "megatron_config": (None,),
    "loftq_config": (None, {}),
    "corda_config": (None,),
    "lora_ga_config": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "use_bdlora": (None, False),
    "use_qalora": (False, None),
    "ensure_weight_tying": (False, None),
}
# Ways to begin training that leave the base as it is. Others (pissa, olora, loftq, corda, lora_ga)
# move a part of the base's weights into the adapter, which is then worth nothing on the base
# itself, unless PEFT converted it on saving, and then the config says `true`.
_HARMLESS_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "kaiming")
_CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,200}")


def key_problems(config: Mapping[str, object]) -> list[Problem]:
    """Find every key that keeps a config from being served."""
    problems: list[Problem] = []
    for key, value in config.items():
        if key in UNSET:
            problems += _unset_problems(key, value)
        elif key in _CHECKS:
            problems += _CHECKS[key](value)
        elif key not in READ and key not in IGNORED:
            problems.append(Problem(f"{key:.100}", "CONFIG_KEY_UNKNOWN", "is not known here"))
    if "peft_type" not in config:
        problems.append(Problem("peft_type", "CONFIG_KEY_MISSING", "is missing"))
    return problems


def _unset_problems(key: str, value: object) -> Iterator[Problem]:
    if not any(value == unset and type(value) is type(unset) for unset in UNSET[key]):
        message = f"is {value!r:.60}, which can't be served"
        yield Problem(key, "NOT_SERVABLE", message)


def _peft_type(value: object) -> Iterator[Problem]:
    if value != "LORA":
        yield Problem("peft_type", "NOT_SERVABLE", f"is {value!r:.60}; only LORA can be served")


def _task_type(value: object) -> Iterator[Problem]:
    if value not in (None, "CAUSAL_LM"):
        message = f"is {value!r:.60}; only CAUSAL_LM can be served"
        yield Problem("task_type", "NOT_SERVABLE", message)


def _init_lora_weights(value: object) -> Iterator[Problem]:
    if not isinstance(value, bool | str | None) or value not in _HARMLESS_INITS:
        message = (
            f"is {value!r:.60}, which changes the base's own weights; convert the adapter when "
            "saving it (path_initial_model_for_weight_conversion)"
        )
        yield Problem("init_lora_weights", "NOT_SERVABLE", message)


def _auto_mapping(value: object) -> Iterator[Problem]:
    # PEFT notes the class of a model here when no task type was given. Nothing here imports it.
    if value is None:
        return
    known = {"base_model_class", "parent_library", "unsloth_fixed"}
    if (
        not isinstance(value, Mapping)
        or not value.keys() <= known
        or not all(
            isinstance(name, bool) or isinstance(name, str) and _CLASS_NAME.fullmatch(name)
            for name in value.values()
        )
    ):
        message = "is more than the base's class and library"
        yield Problem("auto_mapping", "NOT_SERVABLE", message)


_CHECKS: Mapping[str, Callable[[object], Iterator[Problem]]] = {
    "peft_type": _peft_type,
    "task_type": _task_type,
    "init_lora_weights": _init_lora_weights,
    "auto_mapping": _auto_mapping,
}
