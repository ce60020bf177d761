"""Who steps rollouts: what is wrong with one of them keeps no other from its guards."""

import asyncio
import threading
import time

import pytest
from crashing import count_calls
from sqlalchemy import update
from tiny_registry import TinyRegistry

from loradock.registry.catalog.tables import rollouts
from loradock.registry.guards import Guards
from loradock.registry.registry import open_registry
from loradock.registry.rollout import Plan, RolloutState, Stage
from loradock.server.aliases import rollout_controller
from loradock.server.aliases.rollout_controller import RolloutController
from loradock.server.threads import Threads


@pytest.fixture
def tiny(tmp_path):
    registry = open_registry(
        f"sqlite:///{tmp_path}/catalog.db", f"file://{tmp_path}/blobs", migrate=True
    )
    yield TinyRegistry(registry)
    registry.close()


def started(tiny, name):
    for seed in (0, 1):
        tiny.version(name, seed=seed)
    key = (tiny.project, name, "production")
    aliases, by = tiny.registry.aliases, "ann"
    aliases.set(*key, version_number=1, expected_generation=None, by=by)
    plan = Plan((Stage(100, 0.0), Stage(200, 0.0)), Guards(min_calls=1))
    begun = tiny.registry.rollouts.start(
        *key, version_number=2, expected_generation=1, plan=plan, by=by
    )
    return key, begun.rollout.id


async def test_a_rollout_that_can_not_be_read_keeps_no_other_from_its_step(tiny):
    (_, odd), (key, _) = started(tiny, "odd"), started(tiny, "even")
    database = tiny.registry._database
    told_by_another_release = update(rollouts).where(rollouts.c.id == odd)
    database.write(lambda c: c.execute(told_by_another_release.values(plan={"waves": 3})))
    count_calls(tiny, "even")
    threads = Threads("catalog", 1)
    controller = RolloutController(tiny.registry, threads, "one", interval_s=1.0)
    await controller._look()
    await threads.close()
    going_on = tiny.registry.rollouts.get(*key).rollout
    assert (going_on.state, going_on.stage) == (RolloutState.RUNNING, 1)


async def test_s14_a_catalog_that_hangs_holds_up_no_end(tiny, monkeypatch):
    monkeypatch.setattr(rollout_controller, "LAY_DOWN_S", 0.1)
    threads, answers = Threads("catalog", 2), threading.Event()
    controller = RolloutController(tiny.registry, threads, "one", interval_s=10.0)
    monkeypatch.setattr(controller._duty, "lay_down", lambda: answers.wait(20))
    running = asyncio.create_task(controller.run())
    await asyncio.sleep(0.2)
    started = time.monotonic()
    running.cancel()
    await asyncio.wait({running})
    assert time.monotonic() - started < 5
    answers.set()
    await threads.close()
