"""Loradock's engine, without the server around it."""

from __future__ import annotations

import itertools
import json
import queue
from collections.abc import Sequence
from pathlib import Path

from arm import Job, Outputs, run_arm
from workload import Request

from loradock.engine.cpu.decoder import Counts, CpuDecoder
from loradock.engine.engine import BuiltinEngine
from loradock.engine.loading import load_base
from loradock.engine.protocol import AdapterSource, Generate, LoraModule, RowEvent, Sampling


class Arm:
    """Keeps `concurrency` requests in flight."""

    def __init__(self, job: Job) -> None:
        self._job = job
        base = load_base(job.base, "base", dtype=job.workload.dtype)
        self._engine = BuiltinEngine(base, max_rows=job.workload.concurrency)
        for name in job.workload.adapters:
            self._engine.make_resident(source_of(job.adapters / name, list(base.info.modules)))
        self._events: queue.SimpleQueue[Sequence[RowEvent]] = queue.SimpleQueue()
        self._engine.start(self._events.put)
        self._names = itertools.count()
        self.facts: dict[str, float] = {}

    def __call__(self, requests: Sequence[Request]) -> Outputs:
        """Run requests; give their outputs."""
        before, steps = self._counts(), self._engine.state().num_steps
        outputs: dict[str, list[int]] = {}
        left = iter(requests)
        for request in itertools.islice(left, self._job.workload.concurrency):
            self._submit(request, outputs)
        num_ended = 0
        while num_ended < len(requests):
            for event in self._events.get():
                outputs[event.row] += event.tokens
                if event.finish is not None:
                    num_ended += 1
                    for request in itertools.islice(left, 1):
                        self._submit(request, outputs)
        num_tokens = sum(map(len, outputs.values()))
        after = self._counts()
        self.facts = {
            "steps": self._engine.state().num_steps - steps,
            "multiply_adds_per_token": (after.multiply_adds - before.multiply_adds) / num_tokens,
            "weight_bytes_per_token": (after.weight_bytes - before.weight_bytes) / num_tokens,
        }
        return list(outputs.values())

    def _submit(self, request: Request, outputs: dict[str, list[int]]) -> None:
        name = f"r{next(self._names)}"
        outputs[name] = []
        sampling = Sampling(max_tokens=self._job.workload.output_tokens, ignore_eos=True)
        salt = name  # no request finds another one's blocks: every arm computes every prompt
        self._engine.submit(Generate(name, request.prompt, sampling, request.adapter, salt))

    def _counts(self) -> Counts:
        decoder = self._engine.decoder
        assert isinstance(decoder, CpuDecoder), decoder.description
        return Counts(decoder.counts.multiply_adds, decoder.counts.weight_bytes)


def source_of(folder: Path, modules: Sequence[str]) -> AdapterSource:
    """Give a written adapter as the engine takes it."""
    config = json.loads((folder / "adapter_config.json").read_text())
    key = "base_model.model.{}.lora_{}.weight"
    targets = [m for m in modules if m.rpartition(".")[2] in config["target_modules"]]
    scaling = config["lora_alpha"] / config["r"]
    return AdapterSource(
        digest=folder.name,
        weights=folder / "adapter_model.safetensors",
        modules=[
            LoraModule(m, config["r"], scaling, key.format(m, "A"), key.format(m, "B"))
            for m in targets
        ],
    )


if __name__ == "__main__":
    run_arm(Arm)
