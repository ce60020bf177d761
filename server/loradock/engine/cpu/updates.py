"""An adapter's weights as the CPU decoder wants them: one packed update a place in a layer."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from loradock.engine.cpu import library
from loradock.engine.cpu.packing import LANES, Kind, PackedMatrix, pack
from loradock.engine.lora import LoraPair


class Part(NamedTuple):
    """A module of a site: where its outputs begin among the site's."""

    module: str  # "self_attn.q_proj"
    output_start: int


Site = tuple[Part, ...]  # modules that share one input and are multiplied as one


@dataclass(frozen=True, slots=True)
class PackedUpdates:
    """An adapter, packed. `pointers` is what kernels.c reads; the rest keeps it alive."""

    pointers: ctypes.Array[ctypes.c_void_p]  # [layers * sites]
    head: ctypes.Array[ctypes.c_void_p]  # [1]
    max_rank: int  # of the narrow products, padded
    size_bytes: int
    structs: tuple[library.Update, ...]
    matrices: tuple[PackedMatrix, ...]


def pack_updates(
    pairs: Mapping[str, LoraPair], num_layers: int, sites: Sequence[Site], kind: Kind
) -> PackedUpdates:
    """Pack all pairs; a site with no pair costs nothing, not even a call."""
    packer = _Packer(kind)
    pointers = (ctypes.c_void_p * (num_layers * len(sites)))()
    for layer in range(num_layers):
        for place, site in enumerate(sites):
            parts = [(part, pairs.get(f"model.layers.{layer}.{part.module}")) for part in site]
            pointers[layer * len(sites) + place] = packer.site(parts)
    head = (ctypes.c_void_p * 1)(packer.site([(Part("lm_head", 0), pairs.get("lm_head"))]))
    return PackedUpdates(
        pointers,
        head,
        packer.max_rank,
        sum(matrix.size_bytes for matrix in packer.matrices),
        tuple(packer.structs),
        tuple(packer.matrices),
    )


class _Packer:
    """Packs one adapter, site by site."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self.matrices: list[PackedMatrix] = []
        self.structs: list[library.Update] = []
        self.max_rank = 0

    def site(self, parts: Sequence[tuple[Part, LoraPair | None]]) -> int | None:
        """Pack the pairs that there are; give the update's address."""
        present = [(part, pair) for part, pair in parts if pair is not None]
        if not present:
            return None
        update = library.Update(num_parts=len(present))
        narrow, rank = [], 0
        for i, (part, pair) in enumerate(present):
            wide = self._keep(pack(pair.b, self._kind))
            update.expand[i], update.rank_start[i] = wide.struct, rank
            update.output_start[i] = part.output_start
            fill = wide.struct.inputs - len(pair.a)
            narrow += [pair.a, pair.a.new_zeros(fill, pair.a.shape[1])]
            rank += wide.struct.inputs
        update.shrink = self._keep(pack(torch.cat(narrow), self._kind)).struct
        self.max_rank = max(self.max_rank, -(-rank // LANES) * LANES)
        self.structs.append(update)
        return ctypes.addressof(update)

    def _keep(self, matrix: PackedMatrix) -> PackedMatrix:
        self.matrices.append(matrix)
        return matrix
