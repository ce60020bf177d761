"""One step as `kernels.c` reads it: pointers to the batch, to adapters and to scratch memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loradock.engine.batch import Batch
from loradock.engine.cpu import library
from loradock.engine.cpu.packing import LANES, Kind
from loradock.engine.cpu.rotary import RotaryTables
from loradock.engine.cpu.updates import PackedUpdates
from loradock.engine.memory import BLOCK_TOKENS

MAX_GROUP = 4  # of kernels.c
OWN_TOKENS = 32  # up to so many, each thread norms all tokens for itself
PackedSegment = tuple[PackedUpdates, int, int]  # updates, first token, last token + 1


class Scratch:
    """Memory that steps use again; it grows to the largest step. Belongs to the step thread."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._tensors: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, size: int, dtype: torch.dtype) -> Tensor:
        """Give at least `size` numbers under a name; what they hold is anything."""
        tensor = self._tensors.get((name, dtype))
        if tensor is None or len(tensor) < size:
            tensor = self._tensors[name, dtype] = torch.empty(size, dtype=dtype)
        return tensor

    def head_step(
        self, hidden: Tensor, segments: Sequence[PackedSegment], shape: library.Shape
    ) -> CpuStep:
        """Make the step in which the output head runs over [wanted, hidden]."""
        struct = library.Step(num_tokens=len(hidden))
        step = CpuStep(struct)
        struct.hidden = hidden.data_ptr()
        _add_operands(step, len(hidden), shape.hidden, shape, self)
        _add_segments(step, [(u.head, u, s, e) for u, s, e in segments], len(hidden), self)
        return step


@dataclass(slots=True)
class CpuStep:
    """The struct and what it points to."""

    struct: library.Step
    kept: list[object] = field(default_factory=list)

    def keep(self, tensor: Tensor) -> int:
        """Keep a tensor alive as long as the step; give its address."""
        self.kept.append(tensor)
        return tensor.data_ptr()

    def turn(self, positions: Tensor, rotary: RotaryTables) -> None:
        """Say by how much each token's queries and keys are turned; positions: [tokens]."""
        cosines, sines = rotary.up_to(int(positions.max()))
        self.struct.cosines, self.struct.sines = self.keep(cosines), self.keep(sines)
        self.struct.position = self.keep(positions.int())


def step_of(
    batch: Batch,
    hidden: Tensor,
    segments: Sequence[PackedSegment],
    shape: library.Shape,
    scratch: Scratch,
) -> CpuStep:
    """Make the step in which all layers run over a batch; `hidden` [tokens, hidden] is changed."""
    num_tokens = len(batch)
    step = CpuStep(library.Step(num_tokens=num_tokens))
    step.struct.hidden = step.keep(hidden)
    _add_places(step, batch)
    _add_masks(step, batch)
    queries = (shape.heads + 2 * shape.key_heads) * shape.dim
    # An odd number of cache lines: columns of many tokens would else share a few sets of a cache.
    stride = (-(-max(queries, 2 * shape.intermediate) // LANES) | 1) * LANES
    wide = scratch.take("wide", num_tokens * stride, torch.float32)
    step.struct.wide, step.struct.wide_stride = wide.data_ptr(), stride
    widest = max(shape.hidden, shape.intermediate, shape.heads * shape.dim)
    _add_operands(step, num_tokens, widest, shape, scratch)
    _add_segments(step, [(u.pointers, u, s, e) for u, s, e in segments], num_tokens, scratch)
    _add_scores(step, scratch)
    return step


def _add_places(step: CpuStep, batch: Batch) -> None:
    """Say where each token's keys go, by its row's block table."""
    blocks = [span.chunk.row.blocks[: -(-span.chunk.end // BLOCK_TOKENS)] for span in batch.spans]
    width = max(map(len, blocks))
    table = [[*own, *[0] * (width - len(own))] for own in blocks]
    rows = [row for row, span in enumerate(batch.spans) for _ in range(len(span))]
    places = [place for span in batch.spans for place in span.chunk.places]
    step.struct.is_decoding = len(batch.singles) == len(batch)
    step.struct.max_blocks = width
    step.struct.max_places = width * BLOCK_TOKENS
    step.struct.table = step.keep(torch.tensor(table, dtype=torch.int32))
    step.struct.row = step.keep(torch.tensor(rows, dtype=torch.int32))
    step.struct.place = step.keep(torch.tensor(places, dtype=torch.int32))


def _add_masks(step: CpuStep, batch: Batch) -> None:
    """For nodes of a trie: which places beyond the prompt they see. Others see all before them."""
    pointers = (ctypes.c_void_p * len(batch))()
    begins = torch.zeros(len(batch), dtype=torch.int32)
    for span in batch.spans:
        row = span.chunk.row
        for token, place in enumerate(span.chunk.places, span.start):
            seen = row.sees(place)
            if seen is not None:
                begin = len(row.tokens)
                mask = torch.zeros(place - begin + LANES + 1, dtype=torch.uint8)
                mask[[at - begin for at in seen]] = 1
                pointers[token], begins[token] = step.keep(mask), begin
    step.kept.append(pointers)
    step.struct.seen = ctypes.addressof(pointers)
    step.struct.seen_from = step.keep(begins)


def _add_operands(
    step: CpuStep, num_tokens: int, widest: int, shape: library.Shape, scratch: Scratch
) -> None:
    kind = Kind(shape.kind)
    step.struct.shared = _operand("shared", num_tokens, widest, kind, scratch)
    own = scratch.threads * OWN_TOKENS
    step.struct.own = _operand("own", own, shape.hidden, kind, scratch)
    step.struct.own_tokens = OWN_TOKENS


def _operand(
    name: str, num_tokens: int, width: int, kind: Kind, scratch: Scratch
) -> library.Operand:
    size = num_tokens * width
    operand = library.Operand(scratch.take(name, size, kind.operand_dtype).data_ptr())
    if kind is Kind.INT8:
        operand.beside = scratch.take(f"{name}_beside", size, torch.bfloat16).data_ptr()
        operand.scales = scratch.take(f"{name}_scales", num_tokens, torch.float32).data_ptr()
    return operand


def _add_segments(
    step: CpuStep,
    segments: Sequence[tuple[ctypes.Array[ctypes.c_void_p], PackedUpdates, int, int]],
    num_tokens: int,
    scratch: Scratch,
) -> None:
    if not segments:
        return
    structs = (library.Segment * len(segments))(
        *(library.Segment(ctypes.addressof(updates), s, e) for updates, _, s, e in segments)
    )
    step.kept += [structs, *(packed for _, packed, _, _ in segments)]
    rank = max(packed.max_rank for _, packed, _, _ in segments)
    step.struct.num_segments = len(segments)
    step.struct.segments = ctypes.addressof(structs)
    step.struct.max_rank = rank
    step.struct.narrow = scratch.take("narrow", num_tokens * rank, torch.float32).data_ptr()
    rounded = scratch.take("narrow_packed", num_tokens * rank, torch.bfloat16)
    step.struct.narrow_packed = rounded.data_ptr()


def _add_scores(step: CpuStep, scratch: Scratch) -> None:
    size = scratch.threads * MAX_GROUP * step.struct.max_places
    step.struct.scores = scratch.take("scores", size, torch.float32).data_ptr()
