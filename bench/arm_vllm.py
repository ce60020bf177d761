"""vLLM on the CPU: its scheduler is given everything, and runs as many as may be in flight."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from arm import Job, Outputs, Run, run_arm  # noqa: E402 - after the settings that vLLM reads
from vllm import LLM, SamplingParams  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from workload import Request  # noqa: E402


def prepare(job: Job) -> Run:
    """Start the engine with a slot for every adapter."""
    workload = job.workload
    options = {}
    if workload.adapters:
        slots = len(workload.adapters)
        ranks = {"max_lora_rank": max(workload.ranks)}
        options = {"enable_lora": True, "max_loras": slots, "max_cpu_loras": slots, **ranks}
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result
        engine = LLM(
            str(job.base),
            dtype=workload.dtype,
            max_num_seqs=workload.concurrency,
            max_model_len=4 * (workload.prompt_tokens + workload.output_tokens),
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
            **options,
        )
    known = {
        name: LoRARequest(name, 1 + index, str(job.adapters / name))
        for index, name in enumerate(workload.adapters)
    }
    sampling = SamplingParams(
        temperature=0.0, max_tokens=workload.output_tokens, ignore_eos=True, detokenize=False
    )

    def run(requests: Sequence[Request]) -> Outputs:
        results = engine.generate(
            [{"prompt_token_ids": list(request.prompt)} for request in requests],
            sampling,
            lora_request=[known[r.adapter] if r.adapter else None for r in requests],
            use_tqdm=False,
        )
        return [list(result.outputs[0].token_ids) for result in results]

    return run


if __name__ == "__main__":
    run_arm(prepare)
