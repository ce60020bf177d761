"""Train an example task's LoRA adapter on the demo base with PEFT, on a CPU, in minutes.

    python examples/train.py support-triage [--version v2] [--epochs 6] [--out DIR]

writes what `loradock adapter push` takes: weights, config, profile and lineage. A run is the same
each time for the same number of threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from fetch_base import MODEL_NAME, fetch_base
from jinja2 import Template
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

HERE = Path(__file__).parent
ROWS_PER_BATCH = 8
WARMUP = 0.1  # share of the steps over which the learning rate rises; then it falls to zero
LABELS = ["billing", "refund", "delivery", "damaged", "login", "bug", "cancel", "question"]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one version is trained. With a parent it continues that version's weights."""

    rank: int
    targets: tuple[str, ...]
    learning_rate: float
    epochs: int
    seed: int = 0
    parent: str | None = None


# v1 of triage is trained too little on purpose: a candidate that v2 should beat.
RECIPES: dict[str, dict[str, Recipe]] = {
    "support-triage": {
        "v1": Recipe(rank=4, targets=ALL_LINEAR, learning_rate=8e-4, epochs=1),
        "v2": Recipe(rank=4, targets=ALL_LINEAR, learning_rate=1e-3, epochs=5, parent="v1"),
    },
    "order-extract": {"v1": Recipe(rank=8, targets=ATTENTION, learning_rate=2e-3, epochs=5)},
    "pii-redact": {"v1": Recipe(rank=4, targets=ALL_LINEAR, learning_rate=1e-3, epochs=5)},
}
# What a server sends the base with each request of the task; training sends exactly the same.
PROFILES: dict[str, dict[str, Any]] = {
    "support-triage": {
        "template": "Message: {{ content }}",
        "system": "Name the topic of the message.",
        "labels": LABELS,
        "decoding": {"max_tokens": 8, "temperature": 0.0, "stop": []},
    },
    "order-extract": {
        "template": "Message: {{ content }}",
        "system": "Extract name, order and product as JSON.",
        "decoding": {"max_tokens": 80, "temperature": 0.0, "stop": []},
    },
    "pii-redact": {
        "template": "{{ content }}",
        "system": "Mask names, e-mails, orders and phones.",
        "decoding": {"max_tokens": 128, "temperature": 0.0, "stop": []},
    },
}


@dataclass(frozen=True, slots=True)
class Row:
    """One training row as token ids; only the answer's are learned."""

    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def main() -> None:
    """Train the named task's versions in order."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("task", choices=RECIPES)
    arguments.add_argument("--version", help="this one only; otherwise all, in order")
    arguments.add_argument("--epochs", type=int, help="instead of the recipe's")
    arguments.add_argument("--out", type=Path, help="folder for the versions (the task's own)")
    given = arguments.parse_args()
    recipes = RECIPES[given.task]
    if given.version and given.version not in recipes:
        arguments.error(f"{given.task} has no {given.version}, but {', '.join(recipes)}")
    out = given.out or HERE / given.task
    for version in [given.version] if given.version else recipes:
        recipe = recipes[version]
        if given.epochs is not None:
            recipe = replace(recipe, epochs=given.epochs)
        train(given.task, recipe, out, version)
        print(f"wrote {out / version}")


def train(task: str, recipe: Recipe, out: Path, version: str) -> None:
    """Train one version and write its folder under `out`, where its parent is looked for too."""
    begun = time.monotonic()
    torch.manual_seed(recipe.seed)
    base = fetch_base()
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = read_rows(HERE / task / "train.jsonl", PROFILES[task], tokenizer)
    model = _adapted(base, recipe, out)
    tokens = _fit(model, rows, recipe, tokenizer.eos_token_id)
    folder = out / version
    _write_weights(model, folder)
    _write_json(folder / "profile.json", PROFILES[task])
    training = {
        "script": "examples/train.py",
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "rank": recipe.rank,
        "learning_rate": recipe.learning_rate,
        "tokens": tokens,
        "seconds": round(time.monotonic() - begun),
    }
    _write_json(folder / "lineage.json", _lineage(task, recipe, training))


def read_rows(file: Path, profile: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Turn `file` into token ids, prompted as a server prompts and ended as the base ends."""
    template = Template(profile["template"])
    system = [{"role": "system", "content": profile["system"]}] if profile["system"] else []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        user = {"role": "user", "content": template.render(content=row["input"])}
        prompt = tokenizer.apply_chat_template(
            [*system, user], add_generation_prompt=True, tokenize=False
        )
        assert isinstance(prompt, str)
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        answer_ids = tokenizer.encode(row["expected"], add_special_tokens=False)
        rows.append(Row(prompt_ids, [*answer_ids, tokenizer.eos_token_id]))
    return rows


def _adapted(base: Path, recipe: Recipe, out: Path) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if recipe.parent:
        return PeftModel.from_pretrained(model, out / recipe.parent, is_trainable=True)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        target_modules=list(recipe.targets),
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


def _fit(model: PeftModel, rows: list[Row], recipe: Recipe, padding: int) -> int:
    """Train `model` in place; return the number of tokens it was shown, padding not counted."""
    order = random.Random(recipe.seed)
    batches = [batch for _ in range(recipe.epochs) for batch in _epoch(rows, order)]
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: _rate(n / len(batches)))
    model.train()
    for number, batch in enumerate(batches, 1):
        loss = _loss(model, batch, padding)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if number % 10 == 0 or number == len(batches):
            print(f"  step {number}/{len(batches)}  loss {loss.item():.3f}", flush=True)
    return sum(len(row) for batch in batches for row in batch)


def _epoch(rows: list[Row], order: random.Random) -> Iterator[list[Row]]:
    """Yield all rows once, in batches of about equal length so that little is padded."""
    shuffled = order.sample(rows, len(rows))
    by_length = sorted(shuffled, key=len)
    starts = list(range(0, len(rows), ROWS_PER_BATCH))
    for start in order.sample(starts, len(starts)):
        yield by_length[start : start + ROWS_PER_BATCH]


def _rate(done: float) -> float:
    if done < WARMUP:
        return done / WARMUP
    return 0.5 + 0.5 * math.cos(math.pi * (done - WARMUP) / (1 - WARMUP))


def _loss(model: PeftModel, batch: list[Row], padding: int) -> torch.Tensor:
    """Return the mean loss of the answers' tokens. Rows end together, so only ends need logits."""
    width = max(len(row) for row in batch)
    kept = max(len(row.answer) for row in batch)
    blank = [width - len(row) for row in batch]
    tokens = torch.tensor(
        [[padding] * n + row.prompt + row.answer for n, row in zip(blank, batch, strict=True)]
    )  # [batch, width]
    mask = torch.tensor([[0] * n + [1] * (width - n) for n in blank])
    labels = torch.tensor([[-100] * (kept - len(row.answer)) + row.answer for row in batch])
    output = model(input_ids=tokens, attention_mask=mask, logits_to_keep=kept + 1, use_cache=False)
    logits = output.logits[:, :-1]  # [batch, kept, vocab]; the last predicts what follows the end
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def _write_weights(model: PeftModel, folder: Path) -> None:
    """Write PEFT's two files without its README, and with nothing of this machine in them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = get_peft_model_state_dict(model)
    halves = {name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}
    save_file(halves, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"]
    config.base_model_name_or_path = MODEL_NAME
    config.inference_mode = True
    config.save_pretrained(str(folder))
    written = json.loads((folder / "adapter_config.json").read_text())
    written["target_modules"].sort()  # PEFT keeps a set: its order differs from run to run
    _write_json(folder / "adapter_config.json", written)


def _lineage(task: str, recipe: Recipe, training: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256((HERE / task / "train.jsonl").read_bytes()).hexdigest()
    return {
        "parents": [{"version": _reference(task, recipe.parent)}] if recipe.parent else [],
        "datasets": [{"name": f"{task}-train", "digest": f"sha256:{digest}"}],
        "training": training,
    }


def _reference(task: str, version: str) -> str:
    return f"{task}@{version.removeprefix('v')}"  # pushed in order, v1 gets number 1


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
