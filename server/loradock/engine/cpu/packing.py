"""Lays weights out as `kernels.c` reads them: panels of sixteen outputs, inputs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn.functional import pad

from loradock.engine.cpu import library

LANES = 16


class Kind(IntEnum):
    """How operands are stored; the numbers are those of kernels.c."""

    F32 = 0
    BF16 = 1
    INT8 = 2

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of packed weights."""
        return (torch.float32, torch.bfloat16, torch.int8)[self]

    @property
    def operand_dtype(self) -> torch.dtype:
        """The dtype of what is multiplied with them."""
        return (torch.float32, torch.bfloat16, torch.uint8)[self]

    @property
    def run(self) -> int:
        """Inputs of one output that lie side by side: as many as one instruction takes."""
        return (1, 2, 4)[self]

    @property
    def of_adapters(self) -> Kind:
        """What adapters are kept in beside such a base."""
        return Kind.F32 if self is Kind.F32 else Kind.BF16


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A weight matrix in panels. Keeps the tensors that `struct` points to."""

    data: Tensor  # [panels, inputs / run, 16, run]
    bias: Tensor | None
    scales: Tensor | None
    sums: Tensor | None
    struct: library.Matrix


def pack(weight: Tensor, kind: Kind, bias: Tensor | None = None) -> PackedMatrix:
    """Pack [outputs, inputs] weights; outputs are padded to whole panels, inputs to whole runs."""
    outputs, inputs = weight.shape
    scales = sums = None
    if kind is Kind.INT8:
        weight, scales, sums = _quantised(weight)
    fill_in, fill_out = -inputs % kind.run, -outputs % LANES
    whole = pad(weight.to(kind.dtype), (0, fill_in, 0, fill_out))
    panels = whole.view(-1, LANES, (inputs + fill_in) // kind.run, kind.run)
    data = panels.permute(0, 2, 1, 3).contiguous()
    if bias is not None:
        bias = pad(bias.float(), (0, fill_out)).contiguous()
    struct = library.Matrix(
        data.data_ptr(),
        _address(scales),
        _address(sums),
        _address(bias),
        outputs,
        inputs + fill_in,
        kind,
    )
    return PackedMatrix(data, bias, scales, sums, struct)


def pack_rows(
    weights: Sequence[Tensor], kind: Kind, biases: Sequence[Tensor | None]
) -> PackedMatrix:
    """Pack several projections of one input as one."""
    bias = None
    if any(b is not None for b in biases):
        pairs = zip(weights, biases, strict=True)
        bias = torch.cat([torch.zeros(len(w)) if b is None else b.float() for w, b in pairs])
    return pack(torch.cat(list(weights)), kind, bias)


def _quantised(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round to 8 bits, each output with a scale of its own; what it takes to undo it, padded."""
    weight = weight.float()
    scales = (weight.abs().amax(1) / 127).clamp_min(1e-12)
    steps = torch.round(weight / scales[:, None]).to(torch.int8)
    fill = (0, -len(weight) % LANES)
    sums = steps.sum(1, dtype=torch.int32) * 128
    return steps, pad(scales, fill).contiguous(), pad(sums, fill).contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
