"""What the engine asks of the part that computes: a batch in, logits out.

`ModulesDecoder` runs any causal LM through its own modules, on any device; `CpuDecoder` runs the
families that it understands through a step of its own, faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from loradock.engine.batch import Batch
from loradock.engine.lora import Adapter, LoraAdapter
from loradock.engine.protocol import LinearShape


class Decoder(Protocol):
    """The base's arithmetic over key/value memory. Belongs to the step thread."""

    @property
    def description(self) -> str:
        """Say in a few words how the base is run."""

    @property
    def num_blocks(self) -> int:
        """Blocks of key/value memory."""

    @property
    def kv_bytes(self) -> int:
        """What key/value memory takes."""

    @property
    def has_own_threads(self) -> bool:
        """Say whether it computes on threads of its own: then torch's are to keep off the cores."""

    def size_of(self, ranks: Mapping[str, int], shapes: Mapping[str, LinearShape]) -> int:
        """Say what an adapter of these modules and ranks will take, in bytes."""

    def prepare(self, adapter: LoraAdapter) -> Adapter:
        """Arrange an adapter's weights as the steps want them. Any thread may call it."""

    def clear(self, blocks: Sequence[int]) -> None:
        """Zero blocks before a row writes them for the first time."""

    def forward(self, batch: Batch) -> Tensor:
        """Compute the batch; give [wanted, vocab] logits in float32, good until the next call."""
