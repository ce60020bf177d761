"""Tiny valid LoRA adapters, as PEFT would write them, made without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

Shapes = Mapping[str, tuple[int, int]]  # module: in_features, out_features


def tensors(
    shapes: Shapes, *, rank: int = 4, seed: int = 0, prefix: str = "base_model.model."
) -> dict[str, np.ndarray]:
    """Random A and B for each module."""
    random = np.random.default_rng(seed)
    made = {}
    for module, (num_in, num_out) in shapes.items():
        made[f"{prefix}{module}.lora_A.weight"] = random.normal(size=(rank, num_in)).astype("f4")
        made[f"{prefix}{module}.lora_B.weight"] = random.normal(size=(num_out, rank)).astype("f4")
    return made


def config(shapes: Shapes, *, rank: int = 4, alpha: float = 8, **more: Any) -> dict[str, Any]:
    """The adapter_config.json that goes with them."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(shapes),
        "bias": "none",
        "inference_mode": True,
        **more,
    }


def adapter_bytes(
    shapes: Shapes, *, rank: int = 4, alpha: float = 8, seed: int = 0, **more: Any
) -> tuple[bytes, bytes]:
    """The bytes of adapter_model.safetensors and of adapter_config.json."""
    weights = save(tensors(shapes, rank=rank, seed=seed), {"format": "pt"})
    return weights, json.dumps(config(shapes, rank=rank, alpha=alpha, **more)).encode()


def write_adapter(folder: Path, shapes: Shapes, **options: Any) -> Path:
    """Write an adapter's folder; the options are those of adapter_bytes."""
    weights, text = adapter_bytes(shapes, **options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_bytes(text)
    return folder
