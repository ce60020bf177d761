"""Throughput against the number of different adapters, as a picture."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402 - after the choice of what draws

LABELS = {
    "loradock": "Loradock",
    "transformers": "transformers generate",
    "peft_mixed": "PEFT mixed batch",
    "peft_switch": "PEFT set_adapter",
    "openvino": "OpenVINO GenAI, split by adapter",
    "vllm": "vLLM on the CPU",
    "llamacpp": "llama.cpp server",
}


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw what `bench/engine.py` has measured along the number of adapters."""
    figure, axes = pyplot.subplots(figsize=(9, 4.2), layout="constrained")
    points: dict[str, list[tuple[int, float]]] = {}
    for cell in record["cells"]:
        if cell["axis"] == "adapters":
            at = (cell["workload"]["num_adapters"], statistics.median(cell["tokens_per_s"]))
            points.setdefault(cell["arm"], []).append(at)
    for arm, found in points.items():
        axes.plot(*zip(*sorted(found), strict=True), marker="o", label=LABELS.get(arm, arm))
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks([0, 1, 4, 16, 64], ["0", "1", "4", "16", "64"])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("adapters (Zipf, rank 16, all linear modules)")
    axes.set_ylabel("output tokens/s")
    axes.set_title(f"16 requests at a time, bfloat16, {record['machine']}", fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
