"""Which version was live at a time, for every time, whatever was done in between (R7)."""

import itertools
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradock.registry.errors import NothingToRollBack

TICK = timedelta(microseconds=1)
moves = st.lists(
    st.sampled_from(["set 1", "set 2", "set 3", "rollback", "delete"]), min_size=1, max_size=8
)
_names = itertools.count()


def play(tiny, name, script):
    """Do the moves that are possible; give (number, who, why) of each, by its own account."""
    aliases, told, generation, live = tiny.registry.aliases, [], 0, False
    for place, move in enumerate(script):
        key = ("acme", "triage", name)
        said = {"by": f"mover-{place % 3}", "reason": f"because of {place}"}
        verb, _, number = move.partition(" ")
        expected = generation if live else 0
        if verb == "set":
            moved = aliases.set(
                *key, version_number=int(number), expected_generation=expected, **said
            )
        elif not live:
            continue
        elif verb == "delete":
            aliases.delete(*key, expected_generation=expected, **said)
            moved = None
        else:
            try:
                moved = aliases.rollback(*key, expected_generation=expected, **said)
            except NothingToRollBack:
                continue
        generation, live = generation + 1, moved is not None
        told.append((moved and moved.version_number, said["by"], said["reason"]))
    return told


@pytest.mark.contract("R7")
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(script=moves)
def test_r7_every_moment_has_its_version_who_and_why(tiny, script):
    for seed in range(3):
        tiny.publish(seed=seed)
    name = f"alias-{next(_names)}"
    told = play(tiny, name, script)
    if not told:
        return
    aliases, key = tiny.registry.aliases, ("acme", "triage", name)
    ledger = aliases.history(*key).items[::-1]
    assert [(m.version_number, m.moved_by, m.reason) for m in ledger] == told
    times = [move.moved_at for move in ledger]
    assert times == sorted(set(times)), "strictly one after another"
    assert aliases.at(*key, times[0] - TICK) is None
    ends = [*times[1:], times[-1] + timedelta(days=1)]
    for move, begin, end in zip(ledger, times, ends, strict=True):
        for moment in (begin, begin + (end - begin) / 2, end - TICK):
            assert aliases.at(*key, moment) == move
