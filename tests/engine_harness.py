"""An engine at work in a test: rows go in, and what became of each comes out."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loradock.engine.cpu.library import NoKernels, load_kernels
from loradock.engine.engine import BuiltinEngine
from loradock.engine.loading import load_base
from loradock.engine.protocol import (
    EngineState,
    Failure,
    Finish,
    Generate,
    RowEvent,
    Sampling,
    Score,
)

WAIT_S = 60
Scores = tuple[tuple[float, ...], ...]


@dataclass
class Result:
    """All that an engine has said about one row."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    scores: Scores = ()
    cached_tokens: int | None = None
    finish: Finish | None = None
    failure: Failure | None = None
    steps: list[int] = field(default_factory=list)  # which of the engine's reports spoke of it

    def add(self, event: RowEvent, step: int) -> None:
        """Take one event in. Fails on an order that the protocol rules out."""
        assert self.finish is None, "an event came after the last"
        is_first = not self.steps
        assert (event.cached_tokens is not None) == is_first, "told on the first event only"
        if is_first:
            self.cached_tokens = event.cached_tokens
        self.tokens += event.tokens
        self.logprobs += event.logprobs
        self.scores = event.scores
        self.finish, self.failure = event.finish, event.failure
        self.steps.append(step)


class AtWork:
    """A started engine. Rows get names of their own; any thread may ask."""

    def __init__(self, engine: BuiltinEngine) -> None:
        self.engine = engine
        self._results: dict[str, Result] = {}
        self._actions: list[tuple[str, int, Callable[[], object]]] = []
        self._changed = threading.Condition()
        self._names = (f"row-{number}" for number in itertools.count())
        self._step = 0
        self._failure: BaseException | None = None
        engine.start(self._take)

    def ask(
        self,
        prompt: Sequence[int],
        adapter: str | None = None,
        *,
        max_tokens: int = 64,
        salt: str = "",
        deadline: float | None = None,
        **sampling: Any,
    ) -> str:
        """Submit a row that generates; give its name. End tokens are ignored unless asked for."""
        how = Sampling(max_tokens=max_tokens, **({"ignore_eos": True} | sampling))
        row = next(self._names)
        self.engine.submit(Generate(row, tuple(prompt), how, adapter, salt, deadline))
        return row

    def ask_scores(
        self,
        prompt: Sequence[int],
        continuations: Sequence[Sequence[int]],
        adapter: str | None = None,
        *,
        salt: str = "",
    ) -> str:
        """Submit a row that scores; give its name."""
        row = next(self._names)
        texts = tuple(map(tuple, continuations))
        self.engine.submit(Score(row, tuple(prompt), texts, adapter, salt))
        return row

    def result(self, row: str) -> Result:
        """Wait for a row's end."""
        self.wait_until(lambda: self._is_over(row))
        return self._results[row]

    def results(self, rows: Sequence[str]) -> list[Result]:
        """Wait for the ends of several rows."""
        return [self.result(row) for row in rows]

    def generate(self, prompt: Sequence[int], adapter: str | None = None, **options: Any) -> Result:
        """Submit a row and wait for its end: options as of `ask`."""
        return self.result(self.ask(prompt, adapter, **options))

    def score(
        self,
        prompt: Sequence[int],
        continuations: Sequence[Sequence[int]],
        adapter: str | None = None,
        **options: Any,
    ) -> Result:
        """Submit a row and wait for its end: options as of `ask_scores`."""
        return self.result(self.ask_scores(prompt, continuations, adapter, **options))

    def when(self, row: str, num_tokens: int, action: Callable[[], object]) -> None:
        """Do something once a row has so many tokens, between that step and the next."""
        with self._changed:
            self._actions.append((row, num_tokens, action))

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for what the engine's reports, or actions on them, bring about."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or holds(), WAIT_S)
            if self._failure is not None:
                raise self._failure
            assert holds(), "it did not come about in time"

    def settled(self) -> EngineState:
        """Give the state of an engine whose rows have all ended, after checking its accounts."""
        state = self.engine.state()
        assert (state.num_running, state.num_waiting) == (0, 0)
        assert state.num_free_blocks + state.num_cached_blocks == state.num_blocks
        self.engine.check()
        return state

    def _is_over(self, row: str) -> bool:
        known = self._results.get(row)
        return known is not None and known.finish is not None

    def _take(self, events: Sequence[RowEvent]) -> None:
        with self._changed:
            self._step += 1
            try:
                for event in events:
                    self._results.setdefault(event.row, Result()).add(event, self._step)
                for action in self._due():
                    action()
            except BaseException as error:  # tell it to who waits: this is the engine's thread
                self._failure = error
            self._changed.notify_all()

    def _due(self) -> list[Callable[[], object]]:
        due, later = [], []
        for row, num_tokens, action in self._actions:
            known = self._results.get(row)
            if known is not None and len(known.tokens) >= num_tokens:
                due.append(action)
            else:
                later.append((row, num_tokens, action))
        self._actions = later
        return due


def usable_decoder(name: str) -> str:
    """Give a decoder's name, or skip the test: a machine without a C compiler has no kernels."""
    if name == "cpu":
        try:
            load_kernels()
        except NoKernels as reason:
            pytest.skip(str(reason))
    return name


@contextmanager
def at_work(
    base: Path, decoder: str, *, dtype: str = "float32", **settings: int
) -> Iterator[AtWork]:
    """Run an engine over a base; at the end all its rows must have ended, and all must add up."""
    options = {"max_rows": 8, "kv_tokens": 8192} | settings
    work = AtWork(BuiltinEngine(load_base(base, "base", dtype=dtype), decoder=decoder, **options))
    try:
        yield work
        work.settled()
    finally:
        work.engine.close()
