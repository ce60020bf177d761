"""Adapters of all kinds that an engine must serve, as options of `peft.LoraConfig`.

Those of one module are stronger, so that each changes the base's tokens by a wide margin.
"""

from __future__ import annotations

from typing import Any

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = (*ATTENTION, *MLP)

# For the tiny Llama of tiny_base.py: 2 layers, 64 wide.
TINY_ZOO: dict[str, dict[str, Any]] = {
    "rank 4, attention": {"rank": 4, "targets": ATTENTION, "strength": 0.4},
    "rank 8, mlp": {"rank": 8, "targets": MLP, "strength": 0.3},
    "rank 16, all linear": {"rank": 16, "alpha": 16, "targets": "all-linear"},
    "rank 32, queries and down": {"rank": 32, "alpha": 40, "targets": ("q_proj", "down_proj")},
    "rank 64, all linear": {"rank": 64, "alpha": 32, "targets": ALL_LINEAR},
    "rank 1, all linear": {"rank": 1, "strength": 0.22},
    "rank 5, values": {"rank": 5, "targets": ("v_proj",), "strength": 0.8},
    "rank 21, one module": {"rank": 21, "targets": ("layers.1.mlp.down_proj",), "strength": 0.5},
    "rank 8, head": {"rank": 8, "targets": ("lm_head",), "strength": 0.5},
    "rank 4, head and all linear": {"rank": 4, "targets": (*ALL_LINEAR, "lm_head")},
    "rsLoRA": {"rank": 16, "targets": ALL_LINEAR, "use_rslora": True, "alpha": 4},
    "rank pattern": {
        "rank": 8,
        "targets": ALL_LINEAR,
        "rank_pattern": {"k_proj": 64, "layers.0.mlp.up_proj": 2, "layers.1.self_attn.o_proj": 17},
    },
    "alpha pattern": {
        "rank": 8,
        "targets": ALL_LINEAR,
        "alpha_pattern": {"gate_proj": 24, "layers.1.self_attn.v_proj": 1},
    },
    "rsLoRA, patterns": {
        "rank": 4,
        "targets": (*MLP, "q_proj", "v_proj"),
        "use_rslora": True,
        "rank_pattern": {"down_proj": 32},
        "alpha_pattern": {"q_proj": 16, "layers.0.mlp.gate_proj": 3},
    },
}

# For SmolLM2: 30 layers, 576 wide.
SMOLLM2_ZOO: dict[str, dict[str, Any]] = {
    "rank 4, attention": {"rank": 4, "alpha": 8, "targets": ATTENTION, "strength": 0.125},
    "rank 8, mlp": {"rank": 8, "alpha": 16, "targets": MLP, "strength": 0.115},
    "rank 16, all linear": {"rank": 16, "alpha": 16, "targets": ALL_LINEAR, "strength": 0.125},
    "rank 32, queries and down": {
        "rank": 32,
        "alpha": 32,
        "targets": ("q_proj", "down_proj"),
        "strength": 0.125,
    },
    "rank 64, all linear": {"rank": 64, "alpha": 64, "targets": ALL_LINEAR, "strength": 0.08},
    "rsLoRA": {
        "rank": 16,
        "alpha": 8,
        "targets": ALL_LINEAR,
        "use_rslora": True,
        "strength": 0.08,
    },
    "rank pattern": {
        "rank": 8,
        "alpha": 16,
        "targets": ALL_LINEAR,
        "rank_pattern": {"k_proj": 64, "layers.3.mlp.up_proj": 4, "layers.29.mlp.down_proj": 17},
        "strength": 0.1,
    },
    "rsLoRA, patterns": {
        "rank": 4,
        "alpha": 8,
        "targets": ("v_proj", "o_proj", "gate_proj"),
        "use_rslora": True,
        "rank_pattern": {"o_proj": 24},
        "alpha_pattern": {"v_proj": 16, "layers.7.mlp.gate_proj": 2},
        "strength": 0.08,
    },
    "rank 8, head": {"rank": 8, "alpha": 16, "targets": ("lm_head",), "strength": 0.125},
}
