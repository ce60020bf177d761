"""An adapter's weights as the CPU decoder wants them: one packed update a place in a layer."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from loradock.engine.cpu import library
from loradock.engine.cpu.packing import LANES, Kind, pack
from loradock.engine.lora import LoraPair
from loradock.engine.protocol import LinearShape


class Part(NamedTuple):
    """A module of a site: where its outputs begin among the site's."""

    module: str  # "self_attn.q_proj"
    output_start: int


Site = tuple[Part, ...]  # modules that share one input and are multiplied as one
Present = list[tuple[Part, LoraPair]]  # those of a site that an adapter has


@dataclass(frozen=True, slots=True)
class PackedUpdates:
    """An adapter, packed. `pointers` and `head` are what kernels.c reads; the rest is kept alive.

    All weights lie in one piece of memory: a thousand adapters are a thousand pieces, not a
    million, and the processor's table of pages stays small.
    """

    pointers: ctypes.Array[ctypes.c_void_p]  # [layers * sites]
    head: ctypes.Array[ctypes.c_void_p]  # [1]
    max_rank: int  # of the narrow products, padded
    weights: Tensor  # [all numbers]
    updates: ctypes.Array[library.Update]


def packed_bytes(
    ranks: Mapping[str, int],
    shapes: Mapping[str, LinearShape],
    num_layers: int,
    sites: Sequence[Site],
    kind: Kind,
) -> int:
    """Give the bytes that `pack_updates` takes for pairs of these ranks, panels filled up."""
    weights = 0
    for place in _places(num_layers, sites):
        present = [name for _, name in place if name in ranks]
        inner = [_filled(ranks[name], kind.run) for name in present]
        for name, rank in zip(present, inner, strict=True):
            weights += _filled(shapes[name].out_features, LANES) * rank
        if present:
            inputs = _filled(shapes[present[0]].in_features, kind.run)
            weights += _filled(sum(inner), LANES) * inputs
    return weights * kind.dtype.itemsize


def _filled(number: int, whole: int) -> int:
    return -(-number // whole) * whole


def _places(num_layers: int, sites: Sequence[Site]) -> list[list[tuple[Part, str]]]:
    """Name the modules of every site of the base; the output head is the last one."""
    places = [
        [(part, f"model.layers.{layer}.{part.module}") for part in site]
        for layer in range(num_layers)
        for site in sites
    ]
    return [*places, [(Part("lm_head", 0), "lm_head")]]


def pack_updates(
    pairs: Mapping[str, LoraPair], num_layers: int, sites: Sequence[Site], kind: Kind
) -> PackedUpdates:
    """Pack all pairs; a site with no pair costs nothing, not even a call."""
    places = _places(num_layers, sites)
    present = [[(part, pairs[name]) for part, name in place if name in pairs] for place in places]
    updates = (library.Update * sum(map(bool, present)))()
    weights = _pack_all([found for found in present if found], updates, kind)
    addresses = iter(ctypes.addressof(update) for update in updates)
    pointers = [next(addresses) if found else None for found in present]
    return PackedUpdates(
        (ctypes.c_void_p * (len(pointers) - 1))(*pointers[:-1]),
        (ctypes.c_void_p * 1)(pointers[-1]),
        max((-(-u.shrink.outputs // LANES) * LANES for u in updates), default=0),
        weights,
        updates,
    )


def _pack_all(
    sites: Sequence[Present], updates: ctypes.Array[library.Update], kind: Kind
) -> Tensor:
    """Fill in the updates, then move their weights side by side and point there."""
    matrices: list[library.Matrix] = []
    weights: list[Tensor] = []
    for update, present in zip(updates, sites, strict=True):
        for matrix, data in _packed_site(update, present, kind):
            matrices.append(matrix)
            weights.append(data.view(-1))
    together = torch.cat(weights)
    address = together.data_ptr()
    for matrix, data in zip(matrices, weights, strict=True):
        matrix.data = address
        address += data.nbytes
    return together


def _packed_site(
    update: library.Update, present: Present, kind: Kind
) -> Iterator[tuple[library.Matrix, Tensor]]:
    """Describe one site's update; give its matrices, by reference, with their packed weights."""
    update.num_parts = len(present)
    narrow, rank = [], 0
    for i, (part, pair) in enumerate(present):
        wide = pack(pair.b, kind)
        update.expand[i], update.rank_start[i] = wide.struct, rank
        update.output_start[i] = part.output_start
        fill = wide.struct.inputs - len(pair.a)
        narrow += [pair.a, pair.a.new_zeros(fill, pair.a.shape[1])]
        rank += wide.struct.inputs
        yield update.expand[i], wide.data
    shrink = pack(torch.cat(narrow), kind)
    update.shrink = shrink.struct
    yield update.shrink, shrink.data
