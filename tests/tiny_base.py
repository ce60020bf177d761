"""A tiny random Llama with a real tokenizer, and adapters for it that PEFT itself writes."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PAD, BOS, EOS = range(3)
VOCAB_SIZE = 512
CONTEXT = 1024
NUM_LAYERS = 2
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALL_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TEXT = """\
My parcel was due on Monday and it still has not come; please tell me where it is.
The invoice names the wrong company, and the second page is missing. Can you send another one?
I would like to change the address of my order, since we moved to a new house last week.
Thank you for the quick answer, everything works now. The battery holds for two whole days.
Reset my password, I can not log in any more. The link in your message leads nowhere.
Two of the five chairs arrived broken: I want my money back, or new chairs without a charge.
Question and answer, system and user, assistant: one word each, in lower case, nothing else.
"""


def make_tiny_base(folder: Path, seed: int = 0, *, is_endless: bool = True, **config: Any) -> Path:
    """Write the base. What is random in it is its weights; the tokenizer is always the same.

    An endless base never ends an answer by itself, as long as no adapter changes its lm_head.
    """
    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "tie_word_embeddings": False,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**(settings | config)))
    tokenizer = make_tokenizer()
    if is_endless:
        _silence(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Make a byte-level BPE tokenizer of 512 tokens."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator(TEXT.splitlines(), trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bare, eos_token=SPECIALS[EOS], pad_token=SPECIALS[PAD]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _silence(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Keep what no text is made of out of greedy answers: its logits become 0."""
    texts = tokenizer.batch_decode([[token] for token in range(VOCAB_SIZE)])
    unwanted = [token for token, text in enumerate(texts) if not _is_plain(text)]
    with torch.no_grad():
        model.lm_head.weight[[PAD, BOS, EOS, *unwanted]] = 0


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def edit_json(file: Path, **values: object) -> None:
    """Change keys of a base's JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values, indent=1))


def split_weights(folder: Path, num_files: int) -> None:
    """Store a base's weights in several files, in no order."""
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names = sorted(tensors, key=lambda name: name[::-1])
    files = {name: f"model-{at % num_files}.safetensors" for at, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: tensors[name] for name in names if files[name] == file}
        save_file(part, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": files}
    (folder / f"{whole.name}.index.json").write_text(json.dumps(index))


class TinyAdapters:
    """Adapters of one base, each written once. They change its greedy tokens by a wide margin."""

    def __init__(self, base: Path, folder: Path) -> None:
        self._base = AutoModelForCausalLM.from_pretrained(base)
        self._folder = folder
        self._made: dict[str, Path] = {}
        self._num_given = 0

    def __call__(
        self,
        seed: int,
        *,
        rank: int = 4,
        alpha: float = 8,
        targets: str | Sequence[str] = ALL_MODULES,
        strength: float = 0.15,
        **options: Any,
    ) -> Path:
        """Give a folder of one's own; `options` are more of `peft.LoraConfig`."""
        config = lora_config(rank, alpha, targets, **options)
        what = json.dumps([seed, strength, config.to_dict()], default=sorted)  # type: ignore[no-untyped-call]
        if what not in self._made:
            self._made[what] = self._folder / f"{len(self._made)}-seed{seed}"
            adapted = with_peft(copy.deepcopy(self._base), config)
            randomise(adapted, seed, strength)
            adapted.save_pretrained(str(self._made[what]), save_embedding_layers=False)
        self._num_given += 1
        return shutil.copytree(self._made[what], self._folder / "given" / str(self._num_given))


def lora_config(
    rank: int = 4, alpha: float = 8, targets: str | Sequence[str] = ALL_MODULES, **options: Any
) -> peft.LoraConfig:
    """Configure an adapter; `options` are more of `peft.LoraConfig`."""
    return peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
        **options,
    )


def with_peft(model: PreTrainedModel, adapter: peft.LoraConfig | Path) -> peft.PeftModel:
    """Put a new adapter, or one from a folder, into a model, as PEFT does it: the oracle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks for what transformers is about to drop
        if isinstance(adapter, Path):
            return peft.PeftModel.from_pretrained(model, str(adapter)).eval()
        return peft.get_peft_model(model, adapter)


def randomise(adapted: torch.nn.Module, seed: int, strength: float, name: str = "default") -> None:
    """Fill A and B of one adapter with random numbers: PEFT's own B is zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, parameter in adapted.named_parameters():
            if "lora_" in path and f".{name}." in path:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * strength)
