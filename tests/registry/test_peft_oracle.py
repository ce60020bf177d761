"""Ranks and scalings are PEFT's own, for what PEFT itself writes (A3)."""

import warnings
from typing import Any

import pytest
from tiny_admission import admit
from tiny_registry import SHAPES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft
    import torch


class Tree(torch.nn.Module):
    """Modules in a tree, as a model has them."""


def model():
    """A model with the tiny base's linear modules."""
    root = Tree()
    for name, (num_in, num_out) in SHAPES.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            if not hasattr(node, part):
                setattr(node, part, Tree())
            node = getattr(node, part)
        setattr(node, last, torch.nn.Linear(num_in, num_out, bias=False))
    return root


CONFIGS: dict[str, Any] = {
    "list": {"target_modules": ["q_proj", "mlp.up_proj"]},
    "full names": {"target_modules": list(SHAPES)[:3]},
    "regex": {"target_modules": r".*\.(q|k)_proj"},
    "regex of layers": {"target_modules": r"model\.layers\.[\d]{1,}\.(?:self_attn|mlp)\..*"},
    "all-linear": {"target_modules": "all-linear"},
    "excluded": {
        "target_modules": ["q_proj", "k_proj"],
        "exclude_modules": ["layers.0.self_attn.q_proj"],
    },
    "excluded by regex": {"target_modules": "all-linear", "exclude_modules": r".*\.1\..*"},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": 1},
    "layers": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [0],
        "layers_pattern": "layers",
    },
    "layers by list": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [1],
        "layers_pattern": ["h", "layers"],
    },
    "rslora": {"target_modules": ["q_proj"], "use_rslora": True, "lora_alpha": 7},
    "rank pattern": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 3, "proj": 5},
    },
    "rank regex": {
        "target_modules": "all-linear",
        "rank_pattern": {r"(q|k)_proj": 2, r"layers\.0\..*": 3},
    },
    "rank anchored": {
        "target_modules": "all-linear",
        "rank_pattern": {r"^model.layers.0.self_attn.q_proj": 2, r"^q_proj": 3},
    },
    "alpha pattern": {
        "target_modules": "all-linear",
        "alpha_pattern": {"down_proj": 1, "layers.0.self_attn.q_proj": 32},
    },
    "dots in names": {
        "target_modules": "all-linear",
        "rank_pattern": {"self.attn.q.proj": 2, "self_attn.q_proj": 3},
    },
    "patterns and rslora": {
        "target_modules": "all-linear",
        "use_rslora": True,
        "rank_pattern": {"q_proj": 9},
        "alpha_pattern": {"q_proj": 5},
    },
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal", "r": 4},
    "dropout": {"target_modules": ["q_proj"], "lora_dropout": 0.3},
    "no task type": {"target_modules": ["q_proj"], "task_type": None},
}


@pytest.mark.contract("A3")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CONFIGS)
def test_a3_ranks_and_scalings_are_pefts(name, tmp_path):
    options: dict[str, Any] = {"r": 4, "lora_alpha": 16, "task_type": None} | CONFIGS[name]
    wrapped = peft.get_peft_model(model(), peft.LoraConfig(**options))
    for parameter in wrapped.parameters():
        torch.nn.init.normal_(parameter.data)
    wrapped.save_pretrained(tmp_path)
    weights = (tmp_path / "adapter_model.safetensors").read_bytes()
    found = {m.module: m for m in admit(weights, (tmp_path / "adapter_config.json").read_bytes())}
    layers = {
        module.removeprefix("base_model.model."): layer
        for module, layer in wrapped.named_modules()
        if isinstance(layer, peft.tuners.lora.LoraLayer)
    }
    assert found.keys() == layers.keys()
    for module, layer in layers.items():
        assert found[module].rank == layer.r["default"]
        assert found[module].scaling == pytest.approx(layer.scaling["default"], rel=1e-12)
