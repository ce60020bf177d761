"""llama.cpp's server, asked over HTTP by as many callers as may be in flight."""

from __future__ import annotations

import atexit
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import peers
import torch
from arm import Job, Outputs, run_arm
from workload import Request

START_S = 120.0
SPARE_PLACES = 16


class Arm:
    """A server process and its callers."""

    def __init__(self, job: Job) -> None:
        self._workload = job.workload
        self._numbers = {name: index for index, name in enumerate(job.workload.adapters)}
        self._url = f"http://127.0.0.1:{_free_port()}"
        server = subprocess.Popen(
            _command(job, self._url), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        atexit.register(server.kill)
        self._wait(server)

    def __call__(self, requests: Sequence[Request]) -> Outputs:
        """Run requests; give their outputs."""
        with ThreadPoolExecutor(self._workload.concurrency) as callers:
            return list(callers.map(self._ask, requests))

    def _ask(self, request: Request) -> list[int]:
        adapters = [
            {"id": number, "scale": float(name == request.adapter)}
            for name, number in self._numbers.items()
        ]
        answer = self._post(
            "/completion",
            prompt=list(request.prompt),
            n_predict=self._workload.output_tokens,
            temperature=0.0,
            ignore_eos=True,
            cache_prompt=False,
            return_tokens=True,
            **({"lora": adapters} if adapters else {}),
        )
        return answer["tokens"]

    def _post(self, path: str, **body: object) -> dict[str, list[int]]:
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=START_S) as answer:
            made: dict[str, list[int]] = json.load(answer)
            return made

    def _wait(self, server: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until and server.poll() is None:
            try:
                with urllib.request.urlopen(f"{self._url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"llama-server did not come up (exit code {server.poll()})")


def _command(job: Job, url: str) -> list[str]:
    workload = job.workload
    places = workload.prompt_tokens + workload.output_tokens + SPARE_PLACES
    command = [str(peers.LLAMA_SERVER), "--model", str(peers.gguf_base(job.base, workload.dtype))]
    command += ["--port", url.rpartition(":")[2], "--threads", str(torch.get_num_threads())]
    command += ["--parallel", str(workload.concurrency), "--no-webui"]
    command += ["--ctx-size", str(places * workload.concurrency)]
    if workload.adapters:
        adapters = [peers.gguf_adapter(job.base, job.adapters / a) for a in workload.adapters]
        command += ["--lora-init-without-apply", "--lora", ",".join(map(str, adapters))]
    return command


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    run_arm(Arm)
