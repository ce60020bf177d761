"""PEFT's set_adapter: requests of one adapter in a batch, adapters one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from arm import Job, Outputs, Run, run_arm
from arm_peft_mixed import load
from workload import Request


def prepare(job: Job) -> Run:
    """Load everything."""
    model: Any = load(job)
    length = job.workload.output_tokens
    size = job.workload.concurrency

    def run(requests: Sequence[Request]) -> Outputs:
        outputs: dict[int, list[int]] = {}
        order = sorted(range(len(requests)), key=lambda i: requests[i].adapter or "")
        for adapter, group in groupby(order, key=lambda i: requests[i].adapter or ""):
            model.set_adapter(adapter)
            indices = list(group)
            for start in range(0, len(indices), size):
                batch = indices[start : start + size]
                prompts = torch.tensor([requests[i].prompt for i in batch])
                made = model.generate(
                    input_ids=prompts,
                    attention_mask=torch.ones_like(prompts),
                    do_sample=False,
                    min_new_tokens=length,
                    max_new_tokens=length,
                    pad_token_id=0,
                )
                answers = made[:, prompts.shape[1] :].tolist()
                outputs |= dict(zip(batch, answers, strict=True))
        return [outputs[i] for i in range(len(requests))]

    return run


if __name__ == "__main__":
    run_arm(prepare)
