"""The judge: how far an arm's tokens are from what PEFT says in float32.

    python bench/check.py BASE ADAPTERS WORKLOAD < outputs.json

At every step of some requests, the logit of the arm's token is compared with the best one, given
the arm's own tokens so far. Prints the largest gap and the share of tokens that are PEFT's choice.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from arm import Job
from peft import PeftModel
from transformers import AutoModelForCausalLM
from workload import Request, Workload

NUM_CHECKED = 4


def main() -> None:
    """Read an arm's outputs; print the verdict."""
    base, adapters, text = sys.argv[1:4]
    workload = replace(Workload.from_json(text), dtype="float32")
    vocab_size = json.loads((Path(base) / "config.json").read_text())["vocab_size"]
    requests = workload.requests(vocab_size)
    job = Job(Path(base), Path(adapters), workload, requests)
    outputs = json.load(sys.stdin)
    some = [i for i, r in enumerate(requests) if r not in requests[:i] and i < len(outputs)]
    some = some[:NUM_CHECKED]
    gaps = torch.cat([_gaps(job, requests[i], outputs[i]) for i in some])
    agreement = (gaps == 0).float().mean().item()
    print(json.dumps({"worst_gap": gaps.max().item(), "agreement": agreement}))


@torch.inference_mode()
def _gaps(job: Job, request: Request, output: list[int]) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32)
    if request.adapter is not None:
        model = PeftModel.from_pretrained(model, job.adapters / request.adapter)
    tokens = torch.tensor([[*request.prompt, *output]])
    logits = model(input_ids=tokens).logits[0, len(request.prompt) - 1 : -1].float()
    chosen = logits.gather(1, torch.tensor(output)[:, None])[:, 0]
    gaps: torch.Tensor = logits.max(1).values - chosen
    return gaps


if __name__ == "__main__":
    main()
