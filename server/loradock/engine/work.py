"""What an engine looks at in work before it takes it in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from loradock.engine.protocol import Generate, Work


def problems_of(work: Work, vocab_size: int) -> Iterator[str]:
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


def seed_of(work: Generate) -> int:
    """Give a row's own random stream: as asked for, or made of the row's name."""
    if work.sampling.seed is not None:
        return work.sampling.seed
    return int.from_bytes(hashlib.sha256(work.row.encode()).digest()[:8], "big")
