"""Regular expressions from strangers, matched in bounded time.

A config's patterns come from outside, and `(a+)+$` would keep Python's `re` busy for ever. So a
pattern is parsed by Python, turned into a machine without backtracking, and run with a budget of
steps. Only whether it matches matters here, so that greedy and lazy are the same. Look-around,
back-references and flags can't be had this way; they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

_parser: Any = re._parser  # type: ignore[attr-defined]
_constants: Any = re._constants  # type: ignore[attr-defined]
_MAX_STATES = 4000
_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdecimal,
    "CATEGORY_NOT_DIGIT": lambda c: not c.isdecimal(),
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_NOT_SPACE": lambda c: not c.isspace(),
    "CATEGORY_WORD": lambda c: c.isalnum() or c == "_",
    "CATEGORY_NOT_WORD": lambda c: not (c.isalnum() or c == "_"),
}


class PatternRefused(Exception):
    """The pattern is malformed, uses what can't be bounded, or is too costly."""


class Budget:
    """What all the patterns of one input together may cost, in states and in steps."""

    def __init__(self, steps: int = 4_000_000, states: int = 40_000) -> None:
        self.steps = steps
        self.states = states
        self.machines: dict[str, _Machine] = {}

    def spend(self, steps: int) -> None:
        """Take steps, or raise."""
        self.steps -= steps
        if self.steps < 0:
            raise PatternRefused("takes too long to match")

    def machine(self, pattern: str) -> _Machine:
        """Give a pattern's machine; made once."""
        if pattern not in self.machines:
            self.machines[pattern] = _compile(pattern, min(self.states, _MAX_STATES))
            self.states -= len(self.machines[pattern].eats)
        return self.machines[pattern]


def full_match(pattern: str, text: str, budget: Budget) -> bool:
    """Say what `re.fullmatch` would."""
    return budget.machine(pattern).matches(text, budget)


def suffix_match(pattern: str, text: str, budget: Budget) -> bool:
    r"""Say what `re.match(rf"(.*\.)?({pattern})$", text)` would, as PEFT asks of rank patterns.

    The text has no line breaks.
    """
    return budget.machine(rf"(.*\.)?({pattern})$").matches(text, budget)


Accepts = Callable[[str], bool]
Holds = Callable[[str, int], bool]


class _Machine:
    """States with edges that eat a character, or nothing where a condition holds."""

    def __init__(self, max_states: int) -> None:
        self._max_states = max_states
        self.eats: list[list[tuple[Accepts, int]]] = []
        self.skips: list[list[tuple[Holds | None, int]]] = []
        self.start = self.new()
        self.final = self.start

    def new(self) -> int:
        if len(self.eats) >= self._max_states:
            raise PatternRefused("is too large")
        self.eats.append([])
        self.skips.append([])
        return len(self.eats) - 1

    def skip(self, source: int, target: int, holds: Holds | None = None) -> None:
        self.skips[source].append((holds, target))

    def matches(self, text: str, budget: Budget) -> bool:
        states = self._closed({self.start}, text, 0, budget)
        for position, char in enumerate(text):
            eaten = {t for s in states for accepts, t in self.eats[s] if accepts(char)}
            states = self._closed(eaten, text, position + 1, budget)
            if not states:
                return False
        return self.final in states

    def _closed(self, states: set[int], text: str, position: int, budget: Budget) -> set[int]:
        reached, waiting = set(states), list(states)
        while waiting:
            state = waiting.pop()
            budget.spend(1 + len(self.skips[state]) + len(self.eats[state]))
            for holds, target in self.skips[state]:
                if target not in reached and (holds is None or holds(text, position)):
                    reached.add(target)
                    waiting.append(target)
        return reached


def _compile(pattern: str, max_states: int) -> _Machine:
    try:
        tree = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError, ValueError) as error:
        raise PatternRefused(f"is not a pattern: {error!s:.100}") from None
    if tree.state.flags & ~re.UNICODE.value:
        raise PatternRefused("sets flags")
    machine = _Machine(max_states)
    try:
        machine.final = _sequence(machine, machine.start, tree)
    except RecursionError:
        raise PatternRefused("is nested too deeply") from None
    return machine


def _sequence(machine: _Machine, state: int, items: Iterable[Any]) -> int:
    for op, argument in items:
        build = _BUILDERS.get(str(op))
        if build is None:
            raise PatternRefused(f"uses {str(op).lower()}, which can't be bounded")
        state = build(machine, state, argument)
    return state


def _eat(machine: _Machine, state: int, accepts: Accepts) -> int:
    target = machine.new()
    machine.eats[state].append((accepts, target))
    return target


def _literal(machine: _Machine, state: int, code: int) -> int:
    return _eat(machine, state, chr(code).__eq__)


def _not_literal(machine: _Machine, state: int, code: int) -> int:
    return _eat(machine, state, chr(code).__ne__)


def _any(machine: _Machine, state: int, _: object) -> int:
    return _eat(machine, state, "\n".__ne__)


def _in(machine: _Machine, state: int, members: list[Any]) -> int:
    negated = bool(members) and str(members[0][0]) == "NEGATE"
    tests = [_member(str(op), argument) for op, argument in members[negated:]]
    return _eat(machine, state, lambda c: any(test(c) for test in tests) is not negated)


def _member(op: str, argument: Any) -> Accepts:  # noqa: ANN401 - the parser's own tree
    if op == "LITERAL":
        return chr(argument).__eq__
    if op == "RANGE":
        low, high = argument
        return lambda c: low <= ord(c) <= high
    return _CATEGORIES[str(argument)]


def _branch(machine: _Machine, state: int, argument: tuple[None, list[Any]]) -> int:
    end = machine.new()
    for items in argument[1]:
        start = machine.new()
        machine.skip(state, start)
        machine.skip(_sequence(machine, start, items), end)
    return end


def _group(machine: _Machine, state: int, argument: tuple[Any, int, int, Any]) -> int:
    _, added, removed, items = argument
    if added or removed:
        raise PatternRefused("sets flags")
    return _sequence(machine, state, items)


def _repeat(machine: _Machine, state: int, argument: tuple[int, Any, Any]) -> int:
    least, most, items = argument
    for _ in range(least):
        state = _sequence(machine, state, items)
    end = machine.new()
    if most is _constants.MAXREPEAT:
        loop = machine.new()
        machine.skip(state, loop)
        machine.skip(_sequence(machine, loop, items), loop)
        machine.skip(loop, end)
        return end
    for _ in range(most - least):
        machine.skip(state, end)
        state = _sequence(machine, state, items)
    machine.skip(state, end)
    return end


def _at(machine: _Machine, state: int, where: object) -> int:
    holds = _POSITIONS.get(str(where))
    if holds is None:
        raise PatternRefused(f"uses {str(where).lower()}")
    target = machine.new()
    machine.skip(state, target, holds)
    return target


def _is_boundary(text: str, position: int) -> bool:
    is_word = _CATEGORIES["CATEGORY_WORD"]
    before = position > 0 and is_word(text[position - 1])
    after = position < len(text) and is_word(text[position])
    return before is not after


_POSITIONS: dict[str, Holds] = {
    "AT_BEGINNING": lambda text, position: position == 0,
    "AT_BEGINNING_STRING": lambda text, position: position == 0,
    "AT_END": lambda text, position: text[position:] in ("", "\n"),
    "AT_END_STRING": lambda text, position: position == len(text),
    "AT_BOUNDARY": _is_boundary,
    "AT_NON_BOUNDARY": lambda text, position: not _is_boundary(text, position),
}
_BUILDERS: dict[str, Callable[[_Machine, int, Any], int]] = {
    "LITERAL": _literal,
    "NOT_LITERAL": _not_literal,
    "ANY": _any,
    "IN": _in,
    "BRANCH": _branch,
    "SUBPATTERN": _group,
    "MAX_REPEAT": _repeat,
    "MIN_REPEAT": _repeat,
    "AT": _at,
}
