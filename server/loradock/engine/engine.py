"""The built-in engine: one thread, one resident base, one mixed batch a step.

Everything that is decided (who runs, with which blocks) is the scheduler's; everything that is
computed is the decoder's. This module carries rows from one to the other, and their tokens out.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loradock.engine.blocks import BlockPool
from loradock.engine.choice import choose_decoder
from loradock.engine.errors import BadWork, EngineStopped, NotResident
from loradock.engine.isolation import draw, failure_of, forward
from loradock.engine.loading import LoadedBase
from loradock.engine.lora import Adapter, out_of_memory_told, read_adapter
from loradock.engine.memory import BLOCK_TOKENS
from loradock.engine.protocol import (
    STEP_BOUNDS_S,
    AdapterSource,
    BaseInfo,
    EngineState,
    EventSink,
    Failure,
    Finish,
    Generate,
    LoraModule,
    ResidentAdapter,
    RowEvent,
    StepTimes,
    Work,
)
from loradock.engine.rows import Chunk, GenerateRow, Row, ScoreRow
from loradock.engine.sampling import Drawn, logprobs_of
from loradock.engine.scheduler import Scheduler
from loradock.engine.threads import TORCH_THREADS
from loradock.engine.work import problems_of, seed_of

log = logging.getLogger(__name__)

DEFAULT_STEP_TOKENS = 256
DEFAULT_PREFILL_TOKENS = 64
MAX_FAILED_STEPS = 3  # as a whole, one after the other


class BuiltinEngine:
    """Implements `loradock.engine.protocol.Engine`. Constructing it packs weights: seconds."""

    def __init__(
        self,
        base: LoadedBase,
        *,
        max_rows: int,
        kv_tokens: int = 0,
        step_tokens: int = 0,
        prefill_tokens: int = 0,
        threads: int = 0,
        decoder: str = "auto",
    ) -> None:
        """Take over a loaded base; 0 lets the engine choose. Raises `BaseError`."""
        if threads:
            TORCH_THREADS.set(threads)
        self._eos = _eos_tokens(base.model)
        self._device, self._dtype = base.model.device, base.model.dtype
        self.decoder = choose_decoder(base, max_rows=max_rows, kv_tokens=kv_tokens, decoder=decoder)
        log.info("the base is packed", extra={"facts": {"how": self.decoder.description}})
        self._base = base.info
        self._pool = BlockPool(self.decoder.num_blocks)
        self._scheduler = Scheduler(
            self._pool,
            block_tokens=BLOCK_TOKENS,
            max_rows=max_rows,
            step_tokens=max(step_tokens or DEFAULT_STEP_TOKENS, max_rows),
            prefill_tokens=prefill_tokens or DEFAULT_PREFILL_TOKENS,
            context_length=base.info.context_length,
        )
        self._resident: dict[str, Adapter] = {}
        self._resident_lock = threading.Lock()
        self._inbox: list[Row | str] = []  # rows to add, names to cancel, in order
        self._has_work = threading.Condition()
        self._outbox: list[RowEvent] = []  # what to tell of the step; of the engine's thread
        self._is_closing = False
        self._stopped: str | None = None  # why nothing more is taken in
        self._failure: str | None = None
        self._num_failed_steps = 0
        self._num_steps = 0
        self._num_step_tokens = 0
        self._step_counts = [0] * (len(STEP_BOUNDS_S) + 1)
        self._step_seconds = 0.0
        self._state = self._snapshot()
        self._thread: threading.Thread | None = None

    @property
    def base(self) -> BaseInfo:
        return self._base

    def start(self, sink: EventSink) -> None:
        self._thread = threading.Thread(target=self._run, args=(sink,), name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._has_work:
            self._is_closing = True
            self._has_work.notify()
        if self._thread is not None:
            self._thread.join()

    def size_of(self, modules: Sequence[LoraModule]) -> int:
        known = {m.module: m.rank for m in modules if m.module in self._base.modules}
        return self.decoder.size_of(known, self._base.modules)

    def make_resident(self, source: AdapterSource) -> ResidentAdapter:
        known = self._resident.get(source.digest)
        if known is not None:
            return _told(known)
        with out_of_memory_told(self.size_of(source.modules)):
            read = read_adapter(source, self._base.modules, device=self._device, dtype=self._dtype)
            adapter = self.decoder.prepare(read)
        with self._resident_lock:
            known = self._resident.get(source.digest, adapter)  # someone else may have been faster
            self._resident = {**self._resident, source.digest: known}
        return _told(known)

    def release(self, digest: str) -> None:
        with self._resident_lock:
            self._resident = {d: a for d, a in self._resident.items() if d != digest}

    def submit(self, work: Work) -> None:
        """Queue a row. Raises `BadWork`, `TooLong`, `NotResident` or `EngineStopped`."""
        problems = list(problems_of(work, self._base.vocab_size))
        if problems:
            raise BadWork("; ".join(problems))
        if work.adapter is not None and work.adapter not in self._resident:
            raise NotResident(work.adapter)
        row = GenerateRow(work, seed_of(work)) if isinstance(work, Generate) else ScoreRow(work)
        self._scheduler.check_fits(row)
        self._tell(row)

    def cancel(self, row: str) -> None:
        self._tell(row)

    def state(self) -> EngineState:
        resident = {digest: _told(adapter) for digest, adapter in self._resident.items()}
        return replace(self._state, resident=resident)

    def check(self) -> None:
        """Raise `AssertionError` if blocks and rows do not add up. Not while steps run."""
        self._scheduler.check()

    def _tell(self, what: Row | str) -> None:
        with self._has_work:
            if isinstance(what, Row):
                self._check_takes(what)
            self._inbox.append(what)
            self._has_work.notify()

    def _check_takes(self, row: Row) -> None:
        if self._stopped is not None:
            raise EngineStopped(self._stopped)
        told = (what.name for what in self._inbox if isinstance(what, Row))
        if self._scheduler.find(row.name) is not None or row.name in told:
            raise BadWork(f"there is a row {row.name!r} already")

    def _run(self, sink: EventSink) -> None:
        """Step until closed. Runs on the engine's thread, the only one that computes."""
        finish, failure, why = Finish.CANCELLED, None, "it was closed"
        held_back = TORCH_THREADS.held_back() if self.decoder.has_own_threads else nullcontext()
        try:
            with held_back, torch.inference_mode():
                while not self._is_closing:
                    self._take_in()
                    self._step_or_fail()
                    self._send(sink)
        except BaseException as error:  # a thread that dies in silence would leave all waiting
            log.critical("the engine can't go on", exc_info=error)
            finish, failure = Finish.FAILED, Failure.ENGINE
            why = f"it failed ({type(error).__name__}); the server's log says why"
        self._end_all(finish, failure, why)
        try:
            self._send(sink, is_last=True)
        except Exception:
            log.exception("nobody hears that the engine has stopped")

    def _send(self, sink: EventSink, *, is_last: bool = False) -> None:
        """Publish the state, and hand over what there is to tell."""
        self._state = replace(self._snapshot(), failure=self._failure)
        if self._outbox or is_last:
            sink(tuple(self._outbox))
            self._outbox.clear()

    def _end_all(self, finish: Finish, failure: Failure | None, why: str) -> None:
        """Take nothing more in, and end every row, whatever state the accounts are in."""
        with self._has_work:
            self._stopped = why
            told, self._inbox = self._inbox, []
        self._failure = None if failure is None else why
        here = self._scheduler.rows
        for row in here:
            with suppress(Exception):
                self._scheduler.leave(row)
        for row in dict.fromkeys([*here, *(what for what in told if isinstance(what, Row))]):
            self._say(row, finish=finish, failure=failure)

    def _take_in(self) -> None:
        """Wait for something to do, and take in what was told."""
        with self._has_work:
            while not self._inbox and self._scheduler.is_idle and not self._is_closing:
                self._has_work.wait()
            for what in self._inbox:
                if isinstance(what, Row):
                    self._scheduler.add(what)
                elif (row := self._scheduler.find(what)) is not None:
                    self._end(row, Finish.CANCELLED)
            self._inbox.clear()

    def _step_or_fail(self) -> None:
        """Step; if that can't be done at all, tell every row so, and go on with the next ones.

        Where that happens again and again, it is not the rows: raises what was wrong.
        """
        try:
            self.step()
        except Exception:
            self._num_failed_steps += 1
            if self._num_failed_steps >= MAX_FAILED_STEPS:
                raise
            log.exception("a step failed as a whole")
            for row in self._scheduler.rows:
                self._end(row, Finish.FAILED, failure=Failure.COMPUTE)
        else:
            self._num_failed_steps = 0

    def step(self) -> None:
        """Admit, plan, compute, and note what the step did for each row."""
        for row in self._scheduler.expired(time.monotonic()):
            self._end(row, Finish.EXPIRED)
        admitted = self._scheduler.admit()
        plan = self._scheduler.plan()
        if plan:
            started = time.monotonic()
            self.decoder.clear(plan.fresh_blocks)
            self._compute(plan.chunks)
            self._scheduler.end_step()
            self._count(plan.chunks, time.monotonic() - started)
        for row in admitted:
            if not row.is_announced:
                self._say(row)

    def _count(self, chunks: Sequence[Chunk], seconds: float) -> None:
        self._num_steps += 1
        self._num_step_tokens += sum(map(len, chunks))
        self._step_counts[bisect_left(STEP_BOUNDS_S, seconds)] += 1
        self._step_seconds += seconds

    def _compute(self, chunks: Sequence[Chunk]) -> None:
        """Compute chunks, and use the distributions that were asked for."""
        for computed, logits in forward(
            self.decoder, chunks, self._resident, self._device, self._give_up
        ):
            for chunk in computed:
                self._scheduler.advance(chunk)
            asked = [chunk for chunk in computed if chunk.wanted]
            rows = [c.row for c in asked if isinstance(c.row, GenerateRow)]
            if len(rows) < len(asked):
                self._use_apart(asked, logits)
            elif rows:  # the usual step: nothing to pick out or to copy
                self._generate(rows, logits)

    def _use_apart(self, asked: Sequence[Chunk], logits: Tensor) -> None:
        """Give every chunk its part of the logits; those that draw draw together."""
        parts = torch.split(logits, [len(chunk.wanted) for chunk in asked])
        drawing: list[tuple[GenerateRow, Tensor]] = []
        for chunk, part in zip(asked, parts, strict=True):
            if isinstance(chunk.row, GenerateRow):
                drawing.append((chunk.row, part))
            elif isinstance(chunk.row, ScoreRow):
                self._score(chunk.row, chunk, part)
        if drawing:
            rows, own = zip(*drawing, strict=True)
            self._generate(rows, torch.cat(own))

    def _generate(self, rows: Sequence[GenerateRow], logits: Tensor) -> None:
        """Draw one token for each row, from [rows, vocab]."""
        for row, drawn in draw(logits, rows, self._give_up):
            self._append(row, drawn)

    def _append(self, row: GenerateRow, drawn: Drawn) -> None:
        if drawn.token is None:
            self._end(row, Finish.FAILED, failure=Failure.NOT_FINITE)
            return
        sampling = row.work.sampling
        if drawn.token in self._eos and not sampling.ignore_eos:
            self._end(row, Finish.STOP)
            return
        row.append(drawn.token)
        logprobs = () if drawn.logprob is None else (drawn.logprob,)
        if row.num_sampled < sampling.max_tokens:
            self._say(row, tokens=(drawn.token,), logprobs=logprobs)
        else:
            self._end(row, Finish.LENGTH, tokens=(drawn.token,), logprobs=logprobs)

    def _score(self, row: ScoreRow, chunk: Chunk, logits: Tensor) -> None:
        """Note the log-likelihoods of the children of the nodes that the chunk computed."""
        try:
            nodes = [row.node(place) for place in chunk.wanted]
            found = logprobs_of(logits, [row.trie.children(node) for node in nodes])
            for node, values in zip(nodes, found, strict=True):
                row.trie.put(node, values)
            scores = () if row.num_remaining else row.trie.scores()
        except Exception as error:
            self._give_up(row, error)
            return
        if not all(math.isfinite(value) for values in found for value in values):
            self._end(row, Finish.FAILED, failure=Failure.NOT_FINITE)
        elif row.num_remaining:
            self._say(row)
        else:
            self._end(row, Finish.SCORED, scores=scores)

    def _give_up(self, row: Row, error: Exception) -> None:
        """End a row that can't be computed; it alone."""
        facts = {"row": row.name, **row.work.facts}
        log.error("a row failed", exc_info=error, extra={"facts": facts})
        self._end(row, Finish.FAILED, failure=failure_of(error))

    def _end(self, row: Row, finish: Finish, **said: Any) -> None:  # noqa: ANN401  of `_say`
        """Take a row out, told so first. What a failed one computed is not used again."""
        self._say(row, finish=finish, **said)
        self._scheduler.leave(row, forget=finish is Finish.FAILED)

    def _say(
        self,
        row: Row,
        *,
        tokens: tuple[int, ...] = (),
        logprobs: tuple[float, ...] = (),
        scores: tuple[tuple[float, ...], ...] = (),
        finish: Finish | None = None,
        failure: Failure | None = None,
    ) -> None:
        """Put into the next report what became of a row."""
        is_first, row.is_announced = not row.is_announced, True
        event = RowEvent(
            row.name,
            tokens=tokens,
            logprobs=logprobs,
            scores=scores,
            cached_tokens=row.num_cached if is_first else None,
            queued_s=row.queued_s if is_first else None,
            finish=finish,
            failure=failure,
        )
        self._outbox.append(event)

    def _snapshot(self) -> EngineState:
        return EngineState(
            num_running=len(self._scheduler.running),
            num_waiting=self._scheduler.num_waiting,
            num_blocks=self._pool.num_blocks,
            num_free_blocks=self._pool.num_free,
            num_cached_blocks=self._pool.num_cached,
            num_memory_tokens=self._pool.num_blocks * BLOCK_TOKENS,
            num_steps=self._num_steps,
            num_step_tokens=self._num_step_tokens,
            num_preemptions=self._scheduler.num_preemptions,
            step_times=StepTimes(tuple(self._step_counts), self._step_seconds),
        )


def _told(adapter: Adapter) -> ResidentAdapter:
    return ResidentAdapter(adapter.digest, adapter.num_modules, adapter.size_bytes)


def _eos_tokens(model: PreTrainedModel) -> frozenset[int]:
    """Give the tokens that end an answer, as the base says it."""
    said = getattr(model.generation_config, "eos_token_id", None)
    if said is None:
        said = model.config.get_text_config().eos_token_id
    return frozenset([said] if isinstance(said, int) else said or ())
