"""Does what it is told in a child that kills itself at a named step: `python crashing.py`.

Reads one JSON job a line, forks (nothing here has threads), and answers how the child ended. The
registry is imported once, so that a hundred crashes take seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from tiny_registry import TinyRegistry

from loradock.registry import steps
from loradock.registry.arm_counts import ArmCounts, ArmTally
from loradock.registry.guards import Guards
from loradock.registry.registry import open_registry
from loradock.registry.resources import Heartbeat
from loradock.registry.rollout import Plan, Stage
from loradock.registry.split import Arm


def publish(tiny: TinyRegistry) -> None:
    tiny.publish(seed=1)


def move(tiny: TinyRegistry) -> None:
    tiny.point(2, 1)


def roll_back(tiny: TinyRegistry) -> None:
    tiny.roll_back(2)


def collect(tiny: TinyRegistry) -> None:
    list(tiny.registry.garbage.collect(tiny.project, grace_s=0.0, by="op"))


def start_rollout(tiny: TinyRegistry, generation: int = 1) -> None:
    tiny.registry.rollouts.start(
        *(tiny.project, "triage", "production"),
        version_number=2,
        expected_generation=generation,
        plan=Plan((Stage(100, 0.0), Stage(10_000, 0.0)), Guards(min_calls=1)),
        by="ann",
    )


def count_calls(tiny: TinyRegistry, adapter: str = "triage") -> None:
    """Let a server tell of one good call of each arm, at the stage that is reached."""
    rollout = tiny.registry.rollouts.get(tiny.project, adapter, "production").rollout
    counts = ArmCounts()
    counts.add_call(0.1, failed=False)
    beat = Heartbeat(
        server_id="a",
        address="here",
        base_name="tiny",
        base_digests=tiny.base.digests,
        sequence=tiny.registry.reader.latest_sequence(),
        residencies=(),
        divergences=(),
        started_at=rollout.started_at,
        tallies=tuple(
            ArmTally(rollout.id, rollout.generation, arm, counts)
            for arm in (Arm.INCUMBENT, Arm.CANDIDATE)
        ),
    )
    tiny.registry.fleet.beat(beat)


def step_rollout(tiny: TinyRegistry) -> None:
    count_calls(tiny)
    duty = tiny.registry.rollouts.duty("the one that dies", lasts_s=0.5)
    assert duty.take()
    for rollout_id in tiny.registry.rollouts.going_on():
        tiny.registry.rollouts.step(rollout_id, duty)


def abort_rollout(tiny: TinyRegistry) -> None:
    tiny.registry.rollouts.abort(tiny.project, "triage", "production", by="ann")


JOBS: dict[str, Callable[[TinyRegistry], None]] = {
    "publish": publish,
    "move": move,
    "roll_back": roll_back,
    "collect": collect,
    "start_rollout": start_rollout,
    "step_rollout": step_rollout,
    "abort_rollout": abort_rollout,
}


def kill_at(step: str, occurrence: int) -> Callable[[str], None]:
    """Die without a word when a step is reached for the n-th time."""
    left = occurrence

    def on_step(reached: str) -> None:
        nonlocal left
        left -= reached == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_step


def run(job: dict[str, Any]) -> None:
    os.environ.update(job["env"])
    tiny = TinyRegistry(open_registry(job["database_url"], job["blob_url"]))
    steps.on_step = kill_at(job["step"], job["occurrence"])
    JOBS[job["do"]](tiny)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else 1, flush=True)


if __name__ == "__main__":
    main()
