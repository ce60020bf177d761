"""Aliases: compare-and-set, a ledger that is walked back, and what was live when."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradock.registry.errors import (
    NotFound,
    NothingToRollBack,
    RequestReused,
    StaleGeneration,
    VersionYanked,
)
from loradock.registry.names import parse_reference
from loradock.registry.resources import MoveKind

KEY = ("acme", "triage", "production")


@pytest.fixture
def three(tiny):
    """Three versions to point at."""
    for seed in range(3):
        tiny.publish(seed=seed)
    return tiny


def _history(tiny):
    return list(tiny.registry.aliases.history(*KEY).items)[::-1]


@pytest.mark.contract("R6")
def test_r6_a_stale_generation_is_refused(three):
    assert three.point(1).generation == 1
    for stale in (None, 0, 2):
        with pytest.raises(StaleGeneration) as caught:
            three.point(2, stale)
        assert caught.value.actual == 1
    with pytest.raises(StaleGeneration):
        three.roll_back(7)
    assert three.point(2, 1).generation == 2


@pytest.mark.contract("R6")
def test_r6_of_racing_movers_exactly_one_wins(three):
    three.point(1)

    def mover(i):
        try:
            return three.point(2 + i % 2, 1, by=f"mover {i}")
        except StaleGeneration:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [alias for alias in pool.map(mover, range(8)) if alias]
    assert len(won) == 1
    assert [move.moved_by for move in _history(three)] == ["ann", won[0].moved_by]


@pytest.mark.contract("R6")
def test_r6_of_racing_creators_exactly_one_wins(three):
    def creator(_):
        try:
            return three.point(1)
        except StaleGeneration:
            return None

    with ThreadPoolExecutor(8) as pool:
        assert len([alias for alias in pool.map(creator, range(8)) if alias]) == 1


@pytest.mark.contract("R7")
def test_r7_history_answers_for_every_time(three):
    aliases = three.registry.aliases
    three.point(1)
    three.point(2, 1)
    three.roll_back(2)
    aliases.delete(*KEY, expected_generation=3, reason="gone", by="bob")
    moves = _history(three)
    assert [(m.kind, m.version_number, m.moved_by, m.reason) for m in moves] == [
        (MoveKind.SET, 1, "ann", "to 1"),
        (MoveKind.SET, 2, "ann", "to 2"),
        (MoveKind.ROLLBACK, 1, "bob", "it was bad"),
        (MoveKind.DELETE, None, "bob", "gone"),
    ]
    tick = timedelta(microseconds=1)
    for before, move in zip([None, *moves], moves, strict=False):
        assert aliases.at(*KEY, move.moved_at) == move
        assert aliases.at(*KEY, move.moved_at - tick) == before
    assert aliases.at(*KEY, moves[-1].moved_at + timedelta(days=9)) == moves[-1]


@pytest.mark.contract("R7")
def test_r7_history_comes_in_pages_newest_first(three):
    for generation in range(5):
        three.point(1 + generation % 3, generation or None)
    token, seen = "", []
    while True:
        page = three.registry.aliases.history(*KEY, page_size=2, page_token=token)
        seen += [move.generation for move in page.items]
        token = page.next_page_token
        if not token:
            break
    assert seen == [5, 4, 3, 2, 1]


@pytest.mark.contract("R7")
def test_r7_a_clock_set_back_does_not_reorder_history(lite):
    lite.publish()
    lite.publish(seed=1)
    generation = None
    for i in range(20):
        generation = lite.point(1 + i % 2, generation).generation
    times = [move.moved_at for move in _history(lite)]
    assert all(early < late for early, late in zip(times, times[1:], strict=False))


def test_rollback_walks_back_and_never_toggles(three):
    three.point(1)
    three.point(2, 1)
    three.point(3, 2)
    back = three.roll_back(3)
    assert (back.version_number, back.previous_number) == (2, 1)
    back = three.roll_back(4)
    assert (back.version_number, back.previous_number) == (1, None)
    with pytest.raises(NothingToRollBack):
        three.roll_back(5)
    on = three.point(3, 5)
    assert (on.version_number, on.previous_number) == (3, 1)


def test_setting_the_same_version_again_is_not_a_step_to_go_back_to(three):
    three.point(1)
    three.point(2, 1)
    again = three.point(2, 2)
    assert (again.generation, again.previous_number) == (3, 1)
    assert three.roll_back(3).version_number == 1


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.one_of(st.integers(1, 3), st.none()), max_size=8))
def test_ledger_is_a_stack(lite, moves):
    """A rollback (None) undoes the last move that is not undone yet."""
    _publish_three(lite)
    stack: list[int] = []
    generation = _reset(lite)
    for number in moves:
        if number is not None:
            alias = lite.point(number, generation)
            stack += [number] if stack[-1:] != [number] else []
        elif len(stack) > 1:
            stack.pop()
            alias = lite.roll_back(generation)
        else:
            with pytest.raises((NothingToRollBack, NotFound)):
                lite.roll_back(generation)
            continue
        generation = alias.generation
        assert [alias.version_number] == stack[-1:]
        assert alias.previous_number == (stack[-2] if len(stack) > 1 else None)


def _publish_three(tiny):
    for seed in range(3):
        tiny.publish(seed=seed)


def _reset(tiny):
    try:
        alias = tiny.registry.aliases.get(*KEY)
    except NotFound:
        return 0
    tiny.registry.aliases.delete(*KEY, expected_generation=alias.generation, by="x")
    return 0


def test_a_yanked_version_is_neither_set_nor_rolled_back_to(three):
    versions, reader = three.registry.versions, three.registry.reader
    three.point(1)
    three.point(2, 1)
    versions.yank("acme", "triage", 1, reason="leaks names", by="bob")
    with pytest.raises(VersionYanked, match="leaks names"):
        three.point(1, 2)
    with pytest.raises(VersionYanked, match="leaks names"):
        three.roll_back(2)
    versions.yank("acme", "triage", 2, reason="worse", by="bob")
    with pytest.raises(VersionYanked, match="worse"):
        reader.resolve("acme", parse_reference("triage"))
    assert reader.alias(*KEY).version_number == 2
    versions.unyank("acme", "triage", 1, reason="", by="bob")
    assert three.roll_back(2).version_number == 1


def test_a_deleted_alias_starts_anew_with_its_history_kept(three):
    three.point(1)
    aliases = three.registry.aliases
    with pytest.raises(StaleGeneration):
        aliases.delete(*KEY, expected_generation=2, by="bob")
    aliases.delete(*KEY, expected_generation=1, by="bob")
    for gone in (lambda: aliases.get(*KEY), lambda: three.roll_back(0)):
        with pytest.raises(NotFound):
            gone()
    with pytest.raises(NotFound):
        aliases.delete(*KEY, expected_generation=2, by="bob")
    alias = three.point(2, 0)
    assert (alias.generation, alias.previous_number) == (3, None)
    assert len(_history(three)) == 3


def test_request_id_gives_the_same_outcome_even_later(three):
    first = three.point(1, request_id="m-1")
    three.point(2, 1)
    assert three.point(1, request_id="m-1") == first
    with pytest.raises(RequestReused):
        three.point(2, 2, request_id="m-1")
    back = three.roll_back(2, request_id="m-2")
    assert three.roll_back(2, request_id="m-2") == back
    assert len(_history(three)) == 3


def test_a_refused_move_does_not_use_up_its_request_id(three):
    three.point(1)
    with pytest.raises(StaleGeneration):
        three.point(2, 9, request_id="m-1")
    assert three.point(2, 1, request_id="m-1").generation == 2


def test_validate_only_moves_nothing(three):
    assert three.point(1, validate_only=True).version_number == 1
    with pytest.raises(NotFound):
        three.registry.aliases.get(*KEY)
    with pytest.raises(NotFound):
        three.point(9, validate_only=True)


def test_aliases_are_listed_by_name(three):
    aliases = three.registry.aliases
    for name in ("staging", "canary", "production"):
        aliases.set("acme", "triage", name, version_number=1, expected_generation=None, by="ann")
    assert [a.name for a in aliases.list("acme", "triage").items] == [
        "canary",
        "production",
        "staging",
    ]
    assert aliases.list("acme", "triage", page_size=2).next_page_token
    with pytest.raises(NotFound):
        aliases.list("acme", "other")


def test_what_was_done_is_in_the_audit_log(three):
    three.point(1)
    three.registry.versions.yank("acme", "triage", 3, reason="bad", by="bob")
    three.registry.audit.append("acme", "eve", "alias.override", "triage:production", "fire", {})
    events = three.registry.audit.list("acme").items
    assert [(e.action, e.subject, e.reason) for e in events[:3]] == [
        ("alias.override", "eve", "fire"),
        ("version.yank", "bob", "bad"),
        ("alias.set", "ann", "to 1"),
    ]
    assert [e.sequence for e in events] == list(range(events[0].sequence, 1, -1))
    assert three.registry.audit.list("rival").items == []
