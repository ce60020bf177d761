"""Loradock's own server over a tiny random base, as a process of its own, and adapters for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from processes import serving

BASE = "tiny-base"
HIDDEN = 64
LORADOCK = Path(sys.executable).parent / "loradock"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class RealServer:
    """Where it is, and what it serves."""

    address: str
    model: Path
    folder: Path
    said: list[str]  # every line so far, its log among them


@contextmanager
def run_server(folder: Path, *options: str) -> Iterator[RealServer]:
    """Start a server, wait until it is ready, stop it by SIGTERM."""
    said: list[str] = []
    model = make_base(folder / "model")
    base = ("--model", model, "--model-name", BASE, "--dtype", "float32")
    place = ("--port", "0", "--data-dir", folder / "data")
    command: list[str | Path] = [LORADOCK, "serve", *base, *place, *options]
    with serving(*command, says=r"^loradock is serving \S+ on (\S+)$", said=said) as address:
        yield RealServer(address, model, folder, said)


def make_base(folder: Path) -> Path:
    """Write a random Llama with a tokenizer of single bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*specials, *letters])}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=specials,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        eos_token_id=2,
        bos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass
class TinyAdapters:
    """PEFT folders for the base of a server, each with its own random weights."""

    server: RealServer
    made: dict[tuple[str, ...], Path] = field(default_factory=dict)

    def folder(self, name: str, rank: int = 4, **files: object) -> Path:
        """Write an adapter once; `files` are JSON beside it, by name without suffix."""
        key = (name, str(rank), json.dumps(files, sort_keys=True))
        if key in self.made:
            return self.made[key]
        folder = self.server.folder / "adapters" / f"{len(self.made)}-{name}"
        folder.mkdir(parents=True)
        self._write(folder, rank)
        for file, content in files.items():
            (folder / f"{file}.json").write_text(json.dumps(content))
        self.made[key] = folder
        return folder

    def _write(self, folder: Path, rank: int) -> None:
        """Write what PEFT's save_pretrained would."""
        import numpy as np
        from safetensors.numpy import save_file

        draw = np.random.default_rng(1 + len(self.made))
        tensors = {}
        for layer in range(2):
            for module, width in (("q_proj", HIDDEN), ("v_proj", HIDDEN // 2)):
                path = f"base_model.model.model.layers.{layer}.self_attn.{module}"
                a, b = (rank, HIDDEN), (width, rank)
                tensors[f"{path}.lora_A.weight"] = draw.normal(0, 0.3, a).astype("float32")
                tensors[f"{path}.lora_B.weight"] = draw.normal(0, 0.3, b).astype("float32")
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": BASE,
            "r": rank,
            "lora_alpha": 2 * rank,
            "target_modules": ["q_proj", "v_proj"],
            "bias": "none",
            "inference_mode": True,
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
