"""PEFT's mixed batches: generate with a name of an adapter for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from arm import Job, Outputs, Run, run_arm
from peft import PeftModel
from transformers import AutoModelForCausalLM
from workload import Request


def load(job: Job) -> PeftModel:
    """Load the base and all adapters."""
    dtype = getattr(torch, job.workload.dtype)
    base = AutoModelForCausalLM.from_pretrained(job.base, dtype=dtype)
    first, *others = job.workload.adapters
    model = PeftModel.from_pretrained(
        base, job.adapters / first, adapter_name=first, autocast_adapter_dtype=False
    )
    for name in others:
        model.load_adapter(job.adapters / name, name, autocast_adapter_dtype=False)
    return model.to(dtype).eval()


def prepare(job: Job) -> Run:
    """Load everything."""
    model: Any = load(job)
    length = job.workload.output_tokens
    size = job.workload.concurrency

    def run(requests: Sequence[Request]) -> Outputs:
        outputs: Outputs = []
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            prompts = torch.tensor([request.prompt for request in batch])
            made = model.generate(
                input_ids=prompts,
                attention_mask=torch.ones_like(prompts),
                adapter_names=[request.adapter or "__base__" for request in batch],
                do_sample=False,
                min_new_tokens=length,
                max_new_tokens=length,
                pad_token_id=0,
            )
            outputs += made[:, prompts.shape[1] :].tolist()
        return outputs

    return run


if __name__ == "__main__":
    run_arm(prepare)
