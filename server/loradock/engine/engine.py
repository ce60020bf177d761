"""The built-in engine: one thread, one resident base, one mixed batch a step.

Everything that is decided (who runs, with which blocks) is the scheduler's; everything that is
computed is the decoder's. This module carries rows from one to the other, and their tokens out.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loradock.engine.batch import Batch
from loradock.engine.blocks import BlockPool
from loradock.engine.choice import choose_decoder
from loradock.engine.errors import BadWork, NotResident
from loradock.engine.loading import LoadedBase
from loradock.engine.lora import Adapter, out_of_memory_told, read_adapter
from loradock.engine.memory import BLOCK_TOKENS
from loradock.engine.protocol import (
    STEP_BOUNDS_S,
    AdapterSource,
    BaseInfo,
    EngineState,
    EventSink,
    Finish,
    Generate,
    LoraModule,
    ResidentAdapter,
    RowEvent,
    StepTimes,
    Work,
)
from loradock.engine.rows import Chunk, GenerateRow, Row, ScoreRow
from loradock.engine.sampling import Drawn, logprobs_of, sample
from loradock.engine.scheduler import Scheduler

log = logging.getLogger(__name__)

DEFAULT_STEP_TOKENS = 256
NOT_FINITE = "the model's output is not a number"
STEP_FAILED = "the step failed; the server's log says why"


class BuiltinEngine:
    """Implements `loradock.engine.protocol.Engine`. Constructing it packs weights: seconds."""

    def __init__(
        self,
        base: LoadedBase,
        *,
        max_rows: int,
        kv_tokens: int = 0,
        step_tokens: int = 0,
        threads: int = 0,
        decoder: str = "auto",
    ) -> None:
        """Take over a loaded base; 0 lets the engine choose. Raises `BaseError`."""
        if threads:
            torch.set_num_threads(threads)
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
            context_length=base.info.context_length,
        )
        self._resident: dict[str, Adapter] = {}
        self._resident_lock = threading.Lock()
        self._inbox: list[Row | str] = []  # rows to add, names to cancel, in order
        self._has_work = threading.Condition()
        self._is_closing = False
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
            self._resident = {**self._resident, source.digest: adapter}
        return _told(adapter)

    def release(self, digest: str) -> None:
        with self._resident_lock:
            self._resident = {d: a for d, a in self._resident.items() if d != digest}

    def submit(self, work: Work) -> None:
        """Queue a row. Raises `BadWork`, `TooLong` or `NotResident`."""
        problems = list(_problems(work, self._base.vocab_size))
        if problems:
            raise BadWork("; ".join(problems))
        if work.adapter is not None and work.adapter not in self._resident:
            raise NotResident(work.adapter)
        row = GenerateRow(work, _seed(work)) if isinstance(work, Generate) else ScoreRow(work)
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
            self._inbox.append(what)
            self._has_work.notify()

    def _run(self, sink: EventSink) -> None:
        """Step until closed. Runs on the engine's thread, the only one that computes."""
        with torch.inference_mode():
            while not self._is_closing:
                events = [*self._take_in(), *self._step_or_fail()]
                self._state = self._snapshot()
                if events:
                    sink(events)
        last = self._take_in()
        last += [self._end(row, Finish.CANCELLED) for row in self._all_rows()]
        self._state = self._snapshot()
        sink(last)

    def _take_in(self) -> list[RowEvent]:
        """Wait for something to do, and take in what was told."""
        with self._has_work:
            while not self._inbox and self._scheduler.is_idle and not self._is_closing:
                self._has_work.wait()
            told, self._inbox = self._inbox, []
        return [event for what in told for event in self._hear(what)]

    def _hear(self, what: Row | str) -> Iterator[RowEvent]:
        if isinstance(what, Row):
            self._scheduler.add(what)
            return
        row = self._scheduler.find(what)
        if row is not None:
            yield self._end(row, Finish.CANCELLED)

    def _step_or_fail(self) -> list[RowEvent]:
        """Step; if that can't be done at all, tell every row so, and go on with the next ones."""
        try:
            return self.step()
        except Exception:
            log.exception("a step failed as a whole")
            return [self._end(row, Finish.FAILED, STEP_FAILED) for row in self._all_rows()]

    def step(self) -> list[RowEvent]:
        """Admit, plan, compute, and give every row what the step did for it."""
        events = [
            self._end(row, Finish.EXPIRED) for row in self._scheduler.expired(time.monotonic())
        ]
        self._scheduler.admit()
        plan = self._scheduler.plan()
        if plan:
            started = time.monotonic()
            self.decoder.clear(plan.fresh_blocks)
            events += self._compute(plan.chunks)
            self._count(plan.chunks, time.monotonic() - started)
        return events

    def _count(self, chunks: Sequence[Chunk], seconds: float) -> None:
        self._num_steps += 1
        self._num_step_tokens += sum(map(len, chunks))
        self._step_counts[bisect_left(STEP_BOUNDS_S, seconds)] += 1
        self._step_seconds += seconds

    def _compute(self, chunks: Sequence[Chunk]) -> list[RowEvent]:
        """Compute chunks together; where that fails, each alone, so that one can't fail others."""
        try:
            batch = Batch(chunks, self._resident, self._device)
            logits = self.decoder.forward(batch)
        except Exception:
            if len(chunks) > 1:
                return [event for chunk in chunks for event in self._compute([chunk])]
            row = chunks[0].row
            log.exception("a row failed", extra={"facts": {"row": row.name, **row.work.facts}})
            return [self._end(row, Finish.FAILED, STEP_FAILED)]
        return self._advance([span.chunk for span in batch.spans], logits)

    def _advance(self, chunks: Sequence[Chunk], logits: Tensor) -> list[RowEvent]:
        """Note what was computed, and use the distributions that were asked for."""
        for chunk in chunks:
            self._scheduler.advance(chunk)
        parts = torch.split(logits, [len(chunk.wanted) for chunk in chunks])
        asked = [(chunk, part) for chunk, part in zip(chunks, parts, strict=True) if len(part)]
        scored = [(c, part) for c, part in asked if isinstance(c.row, ScoreRow)]
        generated = [(c, part) for c, part in asked if isinstance(c.row, GenerateRow)]
        return [*self._generate(generated, logits), *(self._score(c, part) for c, part in scored)]

    def _generate(self, parts: list[tuple[Chunk, Tensor]], logits: Tensor) -> list[RowEvent]:
        """Draw one token for each row."""
        if not parts:
            return []
        rows = [chunk.row for chunk, _ in parts if isinstance(chunk.row, GenerateRow)]
        alone = len(rows) == len(logits)  # the usual step: nothing to pick out, nothing to copy
        drawn = sample(logits if alone else torch.cat([part for _, part in parts]), rows)
        return [self._append(row, draw) for row, draw in zip(rows, drawn, strict=True)]

    def _append(self, row: GenerateRow, drawn: Drawn) -> RowEvent:
        if drawn.token is None:
            return self._end(row, Finish.FAILED, NOT_FINITE)
        sampling = row.work.sampling
        if drawn.token in self._eos and not sampling.ignore_eos:
            return self._end(row, Finish.STOP)
        row.append(drawn.token)
        logprobs = () if drawn.logprob is None else (drawn.logprob,)
        if row.num_sampled < sampling.max_tokens:
            return self._event(row, tokens=(drawn.token,), logprobs=logprobs)
        end = self._end(row, Finish.LENGTH)
        return replace(end, tokens=(drawn.token,), logprobs=logprobs)

    def _score(self, chunk: Chunk, logits: Tensor) -> RowEvent:
        """Note the log-likelihoods of the children of the nodes that the chunk computed."""
        row = chunk.row
        assert isinstance(row, ScoreRow)
        nodes = [row.node(place) for place in chunk.wanted]
        found = logprobs_of(logits, [row.trie.children(node) for node in nodes])
        if not all(math.isfinite(value) for values in found for value in values):
            return self._end(row, Finish.FAILED, NOT_FINITE)
        for node, values in zip(nodes, found, strict=True):
            row.trie.put(node, values)
        if row.num_remaining:
            return self._event(row)
        return replace(self._end(row, Finish.SCORED), scores=row.trie.scores())

    def _end(self, row: Row, finish: Finish, error: str | None = None) -> RowEvent:
        """Take a row out. What a failed one computed is not used again."""
        self._scheduler.leave(row, forget=finish is Finish.FAILED)
        return self._event(row, finish=finish, error=error)

    def _event(
        self,
        row: Row,
        *,
        tokens: tuple[int, ...] = (),
        logprobs: tuple[float, ...] = (),
        finish: Finish | None = None,
        error: str | None = None,
    ) -> RowEvent:
        is_first, row.is_announced = not row.is_announced, True
        return RowEvent(
            row.name,
            tokens=tokens,
            logprobs=logprobs,
            cached_tokens=row.num_cached if is_first else None,
            queued_s=row.queued_s if is_first else None,
            finish=finish,
            error=error,
        )

    def _all_rows(self) -> list[Row]:
        return [*self._scheduler.running, *self._scheduler.waiting]

    def _snapshot(self) -> EngineState:
        return EngineState(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            num_blocks=self._pool.num_blocks,
            num_free_blocks=self._pool.num_free,
            num_cached_blocks=self._pool.num_cached,
            num_steps=self._num_steps,
            num_step_tokens=self._num_step_tokens,
            step_times=StepTimes(tuple(self._step_counts), self._step_seconds),
        )


def _told(adapter: Adapter) -> ResidentAdapter:
    return ResidentAdapter(adapter.digest, adapter.num_modules, adapter.size_bytes)


def _problems(work: Work, vocab_size: int) -> Iterator[str]:
    """List what makes no sense."""
    texts = (work.prompt, *(() if isinstance(work, Generate) else work.continuations))
    if not work.prompt:
        yield "the prompt is empty"
    unknown = sorted({token for text in texts for token in text if not 0 <= token < vocab_size})
    if unknown:
        yield f"the base has no tokens {unknown[:5]}; it has 0 to {vocab_size - 1}"
    if isinstance(work, Generate) and work.sampling.max_tokens < 1:
        yield f"max_tokens is {work.sampling.max_tokens}, not at least 1"
    if not isinstance(work, Generate) and not (work.continuations and all(work.continuations)):
        yield "there is no continuation, or an empty one"


def _seed(work: Generate) -> int:
    """Give a row's own random stream: as asked for, or made of the row's name."""
    if work.sampling.seed is not None:
        return work.sampling.seed
    return int.from_bytes(hashlib.sha256(work.row.encode()).digest()[:8], "big")


def _eos_tokens(model: PreTrainedModel) -> frozenset[int]:
    """Give the tokens that end an answer, as the base says it."""
    said = getattr(model.generation_config, "eos_token_id", None)
    if said is None:
        said = model.config.get_text_config().eos_token_id
    return frozenset([said] if isinstance(said, int) else said or ())
