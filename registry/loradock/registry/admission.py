"""What is let in: safetensors that fit the base they name, and nothing else (A1 to A4).

Everything that is wrong is told at once, as far as one can look: a header that can't be read hides
the tensors behind it. Memory is bounded by the limits, whatever the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from loradock.registry.errors import NotAdmitted, Problem
from loradock.registry.limits import Limits
from loradock.registry.lora import read_lora, value_problems
from loradock.registry.lora_config import CONFIG
from loradock.registry.resources import BaseModel, BlobRef, Delta, LoraModule
from loradock.registry.safetensors_header import (
    MalformedHeader,
    TensorInfo,
    header_end,
    read_header,
)
from loradock.registry.tensor_values import scan

# Streams a blob's bytes, from its beginning.
Read = Callable[[str], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Admission:
    """Looks at uploaded bytes through `read`."""

    read: Read
    limits: Limits = field(default_factory=Limits)

    def admit(
        self, base: BaseModel, delta: Delta, problems: list[Problem]
    ) -> tuple[LoraModule, ...]:
        """Give the modules of a delta, or raise NotAdmitted with these problems and its own."""
        config, found = self._config(delta.config)
        problems = [*problems, *found]
        tensors = self._header(delta.weights, problems)
        modules: tuple[LoraModule, ...] = ()
        if tensors is not None:
            modules, found = read_lora(config, tensors, base.modules, self.limits)
            problems += found
            if modules:
                values = scan(self.read(delta.weights.digest), tensors)
                problems += value_problems(modules, values)
        if problems:
            raise NotAdmitted(problems)
        return modules

    def _config(self, ref: BlobRef) -> tuple[bytes, list[Problem]]:
        if ref.size_bytes > self.limits.max_config_bytes:
            message = f"has {ref.size_bytes} bytes; the limit is {self.limits.max_config_bytes}"
            return b"{}", [Problem(CONFIG, "CONFIG_TOO_LARGE", message)]
        return b"".join(self.read(ref.digest)), []

    def _header(self, ref: BlobRef, problems: list[Problem]) -> dict[str, TensorInfo] | None:
        chunks = self.read(ref.digest)
        try:
            start = _at_least(chunks, b"", 16)
            start = _at_least(chunks, start, header_end(start, ref.size_bytes, self.limits))
            return read_header(start, ref.size_bytes, self.limits)
        except MalformedHeader as error:
            problems.append(error.problem)
            return None


def _at_least(chunks: Iterator[bytes], start: bytes, num_bytes: int) -> bytes:
    pieces, length = [start], len(start)
    while length < num_bytes and (chunk := next(chunks, b"")):
        pieces.append(chunk)
        length += len(chunk)
    return b"".join(pieces)
