"""transformers' own generate, the base alone, in batches of as many as may be in flight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from arm import Job, Outputs, Run, run_arm
from transformers import AutoModelForCausalLM
from workload import Request


def prepare(job: Job) -> Run:
    """Load the base."""
    dtype = getattr(torch, job.workload.dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(job.base, dtype=dtype)
    length = job.workload.output_tokens
    size = job.workload.concurrency

    def run(requests: Sequence[Request]) -> Outputs:
        outputs: Outputs = []
        for start in range(0, len(requests), size):
            prompts = torch.tensor([r.prompt for r in requests[start : start + size]])
            made = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
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
