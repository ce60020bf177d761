"""Computes a step so that what can't be computed fails alone, and nothing beside it.

Where a computation of many raises, its halves are computed, down to the one that does it: one bad
row of n costs about 2 log n more calls. What is computed twice comes out the same, in its own
place. A prompt that runs out of memory is computed in smaller pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from loradock.engine.batch import Batch
from loradock.engine.decoder import Decoder
from loradock.engine.lora import Adapter
from loradock.engine.protocol import Failure
from loradock.engine.rows import Chunk, GenerateRow, Row
from loradock.engine.sampling import Drawn, sample

GiveUp = Callable[[Row, Exception], None]

_SAID_WITHOUT_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def forward(
    decoder: Decoder,
    chunks: Sequence[Chunk],
    adapters: Mapping[str, Adapter],
    device: torch.device,
    give_up: GiveUp,
) -> Iterator[tuple[list[Chunk], Tensor]]:
    """Compute chunks; give them in some order, with their logits ([wanted, vocab]) in this order.

    All at once as a rule. Rows that meanwhile ended are left out.
    """
    chunks = [chunk for chunk in chunks if chunk.row.is_running]
    if not chunks:
        return
    parts: Sequence[Sequence[Chunk]] = ()
    try:
        batch = Batch(chunks, adapters, device)
        logits = decoder.forward(batch)
    except Exception as error:
        parts = _parts(chunks, is_short=failure_of(error) is Failure.MEMORY)
        if not parts:
            give_up(chunks[0].row, error)
    else:
        yield [span.chunk for span in batch.spans], logits
    for part in parts:  # not above, where the error would keep alive what was allocated
        yield from forward(decoder, part, adapters, device, give_up)


def draw(
    logits: Tensor, rows: Sequence[GenerateRow], give_up: GiveUp
) -> Iterator[tuple[GenerateRow, Drawn]]:
    """Draw a token for each row from its logits ([rows, vocab])."""
    try:
        drawn = sample(logits, rows)
    except Exception as error:
        half = len(rows) // 2
        if not half:
            give_up(rows[0], error)
            return
    else:
        yield from zip(rows, drawn, strict=True)
        return
    yield from draw(logits[:half], rows[:half], give_up)
    yield from draw(logits[half:], rows[half:], give_up)


def failure_of(error: Exception) -> Failure:
    """Say what kind of failure an exception of a computation is."""
    said = str(error).lower()
    is_short = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in said for words in _SAID_WITHOUT_MEMORY)
    )
    return Failure.MEMORY if is_short else Failure.COMPUTE


def _parts(chunks: Sequence[Chunk], *, is_short: bool) -> Sequence[Sequence[Chunk]]:
    """Halve what could not be computed; nothing where there is nothing to halve."""
    half = len(chunks) // 2
    if half:
        return chunks[:half], chunks[half:]
    chunk = chunks[0]
    middle = (chunk.start + chunk.end) // 2
    if is_short and middle > chunk.start:
        return [Chunk(chunk.row, chunk.start, middle)], [Chunk(chunk.row, middle, chunk.end)]
    return ()
