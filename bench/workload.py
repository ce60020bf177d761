"""What every arm is asked to do: requests, and adapters of random weights in PEFT's own format."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STRENGTH = 0.2  # of an adapter's updates, whatever its rank: enough to change what is said


@dataclass(frozen=True, slots=True)
class Workload:
    """One cell of the benchmark. Immutable, and the same for all arms."""

    dtype: str = "bfloat16"
    num_requests: int = 64
    num_adapters: int = 16  # 0: the base alone
    ranks: tuple[int, ...] = (16,)  # adapter i has the i-th, round and round
    popularity: str = "zipf"  # zipf (exponent 1), uniform, or distinct (in turns)
    concurrency: int = 16
    prompt_tokens: int = 64
    output_tokens: int = 64
    seed: int = 0

    def to_json(self) -> str:
        """Give the workload as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Workload:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "ranks": tuple(fields["ranks"])})

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters."""
        return [f"a{i:03}-r{self.ranks[i % len(self.ranks)]}" for i in range(self.num_adapters)]

    def requests(self, vocab_size: int) -> list[Request]:
        """Draw the requests."""
        draw = random.Random(self.seed)
        return [
            Request(
                tuple(draw.randrange(1000, vocab_size) for _ in range(self.prompt_tokens)),
                self._adapter(draw, i),
            )
            for i in range(self.num_requests)
        ]

    def _adapter(self, draw: random.Random, index: int) -> str | None:
        names = self.adapters
        if not names:
            return None
        if self.popularity == "distinct":
            return names[index % len(names)]
        weights = [1 / (i + 1) if self.popularity == "zipf" else 1.0 for i in range(len(names))]
        return draw.choices(names, weights)[0]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, and who shall answer it; None is the base."""

    prompt: tuple[int, ...]
    adapter: str | None


def write_adapters(base: Path, folder: Path, workload: Workload) -> None:
    """Write the workload's adapters; those that are there already are left as they are."""
    config = json.loads((base / "config.json").read_text())
    for index, name in enumerate(workload.adapters):
        if not (folder / name / "adapter_config.json").exists():
            rank = int(name.rpartition("-r")[2])
            _write_adapter(folder / name, config, rank, seed=index)


def _write_adapter(folder: Path, config: dict[str, int], rank: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        f"base_model.model.{module}.lora_{factor}.weight": torch.randn(shape, generator=draw)
        * (STRENGTH * rank**-0.5 if factor == "B" else inputs**-0.5)
        for module, inputs, outputs in _shapes(config)
        for factor, shape in (("A", (rank, inputs)), ("B", (outputs, rank)))
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(MODULES),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def _shapes(config: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    """List module, inputs and outputs of a Llama-like base."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = (
        config["num_attention_heads"] * dim,
        config["num_key_value_heads"] * dim,
    )
    for layer in range(config["num_hidden_layers"]):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        yield f"{attention}.q_proj", hidden, queries
        yield f"{attention}.k_proj", hidden, keys
        yield f"{attention}.v_proj", hidden, keys
        yield f"{attention}.o_proj", queries, hidden
        yield f"{mlp}.gate_proj", hidden, wide
        yield f"{mlp}.up_proj", hidden, wide
        yield f"{mlp}.down_proj", wide, hidden
