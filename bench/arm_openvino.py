"""OpenVINO GenAI's continuous batching. One set of adapters a batch: the caller splits by adapter.

A batch has one set of adapters, so whoever calls it must bring requests of one adapter together, as
this arm does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import openvino
import openvino_genai as genai
import peers
from arm import Job, Outputs, run_arm
from workload import Request

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
MEMORY_GB = 1


class Arm:
    """Runs requests in batches of as many as may be in flight, each batch adapter by adapter."""

    def __init__(self, job: Job) -> None:
        self._workload = job.workload
        self._adapters = {
            name: genai.Adapter(job.adapters / name / "adapter_model.safetensors")
            for name in job.workload.adapters
        }
        properties = {"INFERENCE_PRECISION_HINT": PRECISIONS[job.workload.dtype]}
        if self._adapters:
            known = genai.AdapterConfig(genai.AdapterConfig.Mode.MODE_DYNAMIC)
            for adapter in self._adapters.values():
                known.add(adapter, 1.0)
            properties["adapters"] = known
        self._pipeline = genai.ContinuousBatchingPipeline(
            peers.openvino_model(job.base), _scheduling(job), device="CPU", properties=properties
        )

    def __call__(self, requests: Sequence[Request]) -> Outputs:
        """Run requests; give their outputs."""
        outputs: dict[int, list[int]] = {}
        for indices in self._batches(requests):
            settings = self._settings(requests[indices[0]].adapter)
            results = self._pipeline.generate(
                [openvino.Tensor(np.array([requests[i].prompt], np.int64)) for i in indices],
                [settings] * len(indices),
            )
            for i, result in zip(indices, results, strict=True):
                outputs[i] = list(result.m_generation_ids[0])
        return [outputs[i] for i in range(len(requests))]

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        size = self._workload.concurrency if self._adapters else len(requests)
        for start in range(0, len(requests), size):
            groups: dict[str | None, list[int]] = {}
            for i in range(start, min(start + size, len(requests))):
                groups.setdefault(requests[i].adapter, []).append(i)
            yield from groups.values()

    def _settings(self, adapter: str | None) -> genai.GenerationConfig:
        settings = genai.GenerationConfig()
        settings.max_new_tokens = settings.min_new_tokens = self._workload.output_tokens
        settings.ignore_eos = True
        settings.do_sample = False
        if adapter is not None:
            settings.adapters = genai.AdapterConfig([(self._adapters[adapter], 1.0)])
        return settings


def _scheduling(job: Job) -> genai.SchedulerConfig:
    scheduling = genai.SchedulerConfig()
    scheduling.max_num_seqs = job.workload.concurrency
    scheduling.cache_size = MEMORY_GB
    scheduling.enable_prefix_caching = False
    return scheduling


if __name__ == "__main__":
    run_arm(Arm)
