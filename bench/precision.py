"""What narrower weights cost: prints a table, and writes it to docs/performance.md.

    python bench/precision.py

The base's distributions after every token of held-out texts, compared with float32's; and the
scores of the examples' adapters on all their held-out rows, through a running server.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import page
import torch
from engine import demo_base
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoTokenizer

from loradock.engine.batch import Batch
from loradock.engine.choice import choose_decoder
from loradock.engine.loading import load_base
from loradock.engine.memory import BLOCK_TOKENS
from loradock.engine.protocol import Generate, Sampling
from loradock.engine.rows import Chunk, GenerateRow

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
DTYPES = ("float32", "bfloat16", "int8")
NUM_TEXTS = 60


class EveryToken(GenerateRow):
    """A text whose every next token's distribution is asked for."""

    def wants(self, place: int) -> bool:
        return True


def main() -> None:
    """Measure, print, write."""
    base = demo_base()
    texts = _texts(base)
    logits = {dtype: _logits(base, dtype, texts) for dtype in DTYPES}
    figures: dict[str, dict[str, Any]] = {
        dtype: _distance(logits["float32"], found) | _scores(base, dtype)
        for dtype, found in logits.items()
    }
    _show(figures)
    rows = [[name, *(f"{figures[d][name]:.3g}" for d in DTYPES)] for name in figures["float32"]]
    page.fill("precision", ("figure", *DTYPES), rows)


def _texts(base: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = (EXAMPLES / "pii-redact" / "heldout.jsonl").read_text().splitlines()[:NUM_TEXTS]
    return [tokenizer(json.loads(row)["input"])["input_ids"] for row in rows]


@torch.inference_mode()
def _logits(base: Path, dtype: str, texts: Sequence[Sequence[int]]) -> Tensor:
    """Give the logits after every token of all texts, [tokens, vocab]."""
    decoder = choose_decoder(load_base(base, "base", dtype=dtype), max_rows=1, kv_tokens=1024)
    found = []
    for text in texts:
        row = EveryToken(Generate("text", tuple(text), Sampling(max_tokens=1)), seed=0)
        row.blocks = list(range(-(-len(text) // BLOCK_TOKENS)))
        decoder.clear(row.blocks)
        found.append(decoder.forward(Batch([Chunk(row, 0, len(text))], {}, torch.device("cpu"))))
    return torch.cat(found)


def _distance(exact: Tensor, found: Tensor) -> dict[str, float]:
    """Compare distributions: divergence in nats a token, and the share of the same first choice."""
    wanted, given = exact.log_softmax(-1), found.log_softmax(-1)
    divergence = (wanted.exp() * (wanted - given)).sum(-1)
    same = exact.argmax(-1) == found.argmax(-1)
    return {
        "mean KL divergence, nats": divergence.mean().item(),
        "largest KL divergence, nats": divergence.max().item(),
        "same first choice": same.float().mean().item(),
    }


def _scores(base: Path, dtype: str) -> dict[str, float]:
    """Run the examples' suites against their latest versions; give each suite's first metric."""
    from demo_publish import TASKS
    from demo_server import BASE, server

    scores = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        server(base, Path(folder), dtype=dtype) as running,
    ):
        for task, versions in TASKS.items():
            for version in versions:
                running.cli_json("adapter", "push", task, EXAMPLES / task / version, "--base", BASE)
            latest = f"{task}@{len(versions)}"
            suite = EXAMPLES / task / "suite.toml"
            metric = running.cli_json("eval", "run", suite, "--adapter", latest)["metrics"][0]
            scores[f"{latest}, {metric['name']}"] = metric["value"]
    return scores


def _show(figures: dict[str, dict[str, Any]]) -> None:
    table = Table(title="what narrower weights cost")
    table.add_column("figure")
    for dtype in DTYPES:
        table.add_column(dtype, justify="right")
    for name in figures["float32"]:
        table.add_row(name, *(f"{figures[dtype][name]:.4g}" for dtype in DTYPES))
    Console().print(table)


if __name__ == "__main__":
    main()
