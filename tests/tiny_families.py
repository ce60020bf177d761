"""Tiny random bases of each family, with windows and caps short enough to change what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from engine_zoo import ALL_LINEAR
from tiny_base import EOS, VOCAB_SIZE, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

WINDOW = 12
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
    "tie_word_embeddings": False,
}
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
NEOX = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
GPT2 = ("c_attn", "c_proj", "c_fc")
# The config, and the linear modules of a layer.
FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "llama": ({}, ALL_LINEAR),
    "llama3 rope": (
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            "attention_bias": True,
            "mlp_bias": True,
        },
        ALL_LINEAR,
    ),
    "mistral": ({"sliding_window": None}, ALL_LINEAR),
    "mistral, windows": ({"sliding_window": WINDOW}, ALL_LINEAR),
    "qwen2": ({}, ALL_LINEAR),
    "qwen2, windows": (
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["full_attention", "sliding_attention"],
        },
        ALL_LINEAR,
    ),
    "qwen3": ({}, ALL_LINEAR),
    "gemma2": (
        {
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 1.0,
            "final_logit_softcapping": 20.0,
            "query_pre_attn_scalar": 16,
            "initializer_range": 0.1,
        },
        ALL_LINEAR,
    ),
    "gemma3_text": (
        {
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 16,
            "initializer_range": 0.1,
        },
        ALL_LINEAR,
    ),
    "phi3": ({"partial_rotary_factor": 0.5, "sliding_window": WINDOW}, FUSED),
    "gpt_neox": ({"rotary_pct": 0.25}, NEOX),
    "gpt2": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}, GPT2),
}


def make_base(folder: Path, family: str) -> Path:
    """Write a tiny random base; norms and biases are random too, so that none can be left out."""
    settings, _ = FAMILIES[family]
    model_type = family.split()[0].strip(",").replace("llama3", "llama")
    config = AutoConfig.for_model(model_type, **(SIZES | settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += torch.randn_like(parameter) * 0.1
        head = model.get_output_embeddings().weight.data
        head *= 0.4 / head.std()
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
