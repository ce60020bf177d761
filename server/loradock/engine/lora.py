"""Adapters in memory, and which tokens of a step are whose.

Tokens of one adapter stand side by side in a step (`batch.py` sees to that), so that an adapter's
part of a module is one product over a slice; weights are never gathered per token.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from loradock.engine.errors import AdapterError, OutOfMemory
from loradock.engine.protocol import AdapterSource, LinearShape, LoraModule
from loradock.engine.tensors import read_tensors


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One module's two factors: `y += (x @ a.T) @ b.T`. The scaling is folded into `b`."""

    a: Tensor  # [rank, in_features]
    b: Tensor  # [out_features, rank]

    @property
    def size_bytes(self) -> int:
        """Bytes of both factors."""
        return self.a.nbytes + self.b.nbytes

    def zeros(self) -> LoraPair:
        """Give a pair of the same shapes that adds nothing."""
        return LoraPair(torch.zeros_like(self.a), torch.zeros_like(self.b))

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """Add this pair's update to `y` ([tokens, out]) for `x` ([tokens, in]), in place.

        The narrow product in between is rounded once to the engine's dtype; both products
        accumulate in float32.
        """
        y.addmm_(x @ self.a.t(), self.b.t())


@dataclass(frozen=True, slots=True)
class Adapter:
    """A resident version, arranged for the decoder that will use it."""

    digest: str
    num_modules: int
    size_bytes: int

    @property
    def place(self) -> int:
        """Where it stands among others: a step lays its tokens out in this order."""
        return 0


@dataclass(frozen=True, slots=True)
class LoraAdapter(Adapter):
    """A version's weights by module: as they are read, and as modules use them."""

    pairs: Mapping[str, LoraPair]


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens `start` to `end` of a step, all of one adapter."""

    adapter: Adapter
    start: int
    end: int

    def add_to(self, y: Tensor, x: Tensor, module: str) -> None:
        """Add the update of one module to `y` ([tokens, out]) for `x` ([tokens, in]), in place."""
        assert isinstance(self.adapter, LoraAdapter)
        pair = self.adapter.pairs.get(module)
        if pair is not None:
            pair.add_to(y[self.start : self.end], x[self.start : self.end])


def read_adapter(
    source: AdapterSource,
    modules: Mapping[str, LinearShape],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> LoraAdapter:
    """Read an adapter's tensors and check them against the base once more.

    Nothing of the file is needed afterwards. Raises `AdapterError` with all problems.
    """
    try:
        tensors = read_tensors(source.weights)
    except (OSError, ValueError, RuntimeError) as error:
        if _says_no_memory(error):
            raise
        raise AdapterError([f"{source.weights.name} can't be read: {error}"]) from error
    problems = [p for m in source.modules for p in _problems(m, modules, tensors.keys())]
    if problems:
        raise AdapterError(problems)
    pairs = {m.module: (m, tensors[m.a_key], tensors[m.b_key]) for m in source.modules}
    problems = [p for m, a, b in pairs.values() for p in _misfits(m, modules[m.module], a, b)]
    if problems:
        raise AdapterError(problems)
    made = {
        name: _pair(module.scaling, a, b, device=device, dtype=dtype)
        for name, (module, a, b) in pairs.items()
    }
    size = sum(pair.size_bytes for pair in made.values())
    return LoraAdapter(source.digest, len(made), size, made)


@contextmanager
def out_of_memory_told(size_bytes: int) -> Iterator[None]:
    """Raise `OutOfMemory` where memory for an adapter can't be had."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not _says_no_memory(error):
            raise
        raise OutOfMemory(size_bytes) from error


def _says_no_memory(error: Exception) -> bool:
    """Tell torch's and the system's ways of saying so from all else that goes by their classes."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(
        error
    )


def _problems(
    module: LoraModule, base: Mapping[str, LinearShape], keys: Collection[str]
) -> list[str]:
    if module.module not in base:
        return [f"the base has no linear module {module.module!r}"]
    return [f"there is no tensor {k!r}" for k in (module.a_key, module.b_key) if k not in keys]


def _misfits(module: LoraModule, shape: LinearShape, a: Tensor, b: Tensor) -> list[str]:
    wanted = {
        module.a_key: ((module.rank, shape.in_features), a),
        module.b_key: ((shape.out_features, module.rank), b),
    }
    return [
        f"{key} has the shape {tuple(tensor.shape)}, wanted {expected}"
        for key, (expected, tensor) in wanted.items()
        if tuple(tensor.shape) != expected
    ]


def _pair(
    scaling: float, a: Tensor, b: Tensor, *, device: torch.device, dtype: torch.dtype
) -> LoraPair:
    scaled = b.to(torch.float32) * scaling
    return LoraPair(
        a.to(device, dtype, copy=True).contiguous(), scaled.to(device, dtype).contiguous()
    )
