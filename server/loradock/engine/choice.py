"""Chooses how a base is run, and proves on a short text that it computes what the base does.

A base's own forward pass is the judge: a decoder whose logits differ from it is never used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loradock.engine import stacks
from loradock.engine.batch import Batch
from loradock.engine.cpu.decoder import CpuDecoder, NotUnderstood, refuse_unknown
from loradock.engine.cpu.library import NoKernels, load_kernels
from loradock.engine.cpu.packing import Kind
from loradock.engine.decoder import Decoder
from loradock.engine.errors import BaseError
from loradock.engine.loading import LoadedBase
from loradock.engine.memory import BLOCK_TOKENS, HeadShape, bytes_per_block
from loradock.engine.modules_decoder import ModulesDecoder, head_shapes
from loradock.engine.protocol import Generate, Sampling
from loradock.engine.rows import Chunk, GenerateRow

log = logging.getLogger(__name__)

DECODERS = ("auto", "cpu", "modules", "stacks")  # the last: modules, with adapters in stacks
DEFAULT_KV_BYTES = 1 << 30
PROBE_TOKENS = 24
# How far logits may be from the base's own, over the largest; int8 is a loss that was asked for.
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 8e-2, "int8": 0.25}
_KINDS = {"float32": Kind.F32, "bfloat16": Kind.BF16, "int8": Kind.INT8}


@dataclass(frozen=True, slots=True)
class Probe:
    """A short text, and the logits after it by the base's own forward pass."""

    tokens: Tensor
    logits: Tensor

    def check(self, decoder: Decoder, limit: float) -> None:
        """Raise `BaseError` if a decoder's logits are another base's."""
        error = self._distance(decoder)
        if not error <= limit:
            raise BaseError(
                f"this base, {decoder.description}, gives logits that are {error:.2g} away from "
                f"its own (relative; {limit:g} is accepted): it can't be served in a batch"
            )

    def _distance(self, decoder: Decoder) -> float:
        """Run the text in two chunks; give the largest difference over the largest logit."""
        work = Generate("probe", tuple(self.tokens.tolist()), Sampling(max_tokens=1))
        row = GenerateRow(work, seed=0)
        row.blocks = list(range(-(-len(self.tokens) // BLOCK_TOKENS)))
        half = len(self.tokens) // 2
        decoder.clear(row.blocks)
        for start, end in ((0, half), (half, len(self.tokens))):
            logits = decoder.forward(Batch([Chunk(row, start, end)], {}, self.tokens.device))
        return ((logits[-1] - self.logits).abs().max() / self.logits.abs().max()).item()


def choose_decoder(
    base: LoadedBase, *, max_rows: int, kv_tokens: int, decoder: str = "auto"
) -> Decoder:
    """Give the fastest decoder that can run a base. Takes the model over. Raises `BaseError`."""
    if decoder not in DECODERS:
        raise BaseError(f"the decoder {decoder!r} is none of {', '.join(DECODERS)}")
    with torch.inference_mode():
        reason = "it shall not" if decoder in ("modules", "stacks") else _why_not_on_cpu(base)
        if reason and (decoder == "cpu" or base.precision == "int8"):
            what = "int8, which they alone have: " if base.precision == "int8" else ""
            raise BaseError(f"the kernels for CPUs can't run this base: {what}{reason}")
        probe = _probe(base)
        layers = _head_shapes(base.model)
        num_blocks = _num_blocks(base, layers, max_rows, kv_tokens)
        if reason:
            log.warning("the base runs through its own modules", extra={"facts": {"why": reason}})
            chosen: Decoder = ModulesDecoder(
                base.model,
                list(base.info.modules),
                num_blocks,
                layers,
                stacked=_is_stacked(base, decoder),
            )
        else:
            chosen = CpuDecoder(
                base.model, _KINDS[base.precision], num_blocks, base.info.context_length
            )
        try:
            probe.check(chosen, TOLERANCE[base.precision])
        except BaseError as error:
            if reason or decoder == "cpu" or base.precision == "int8":
                raise
            log.warning(
                "the kernels for CPUs compute something else than this base: it is loaded again",
                extra={"facts": {"why": str(error)}},
            )
            del chosen  # its weights, before they come a second time
        else:
            return chosen
    again = replace(base, model=base.load_again())
    return choose_decoder(again, max_rows=max_rows, kv_tokens=kv_tokens, decoder="modules")


def _probe(base: LoadedBase) -> Probe:
    tokens = torch.arange(PROBE_TOKENS, device=base.model.device) * 7919 % base.info.vocab_size
    logits: Tensor = base.model(input_ids=tokens[None], use_cache=False).logits[0, -1]
    return Probe(tokens, logits.float())


def _why_not_on_cpu(base: LoadedBase) -> str:
    """Say why a base can't be run by the kernels for CPUs; nothing if it can."""
    if base.model.device.type != "cpu":
        return f"it is on {base.model.device}"
    if base.precision not in _KINDS:
        return f"there are none for {base.precision}"
    try:
        refuse_unknown(base.model)
        load_kernels()
    except (NotUnderstood, NoKernels) as error:
        return str(error)
    return ""


def _is_stacked(base: LoadedBase, decoder: str) -> bool:
    """Say whether grouped products pay: on a CPU, where a product costs no launch, they don't."""
    device, dtype = base.model.device, base.model.dtype
    if decoder == "modules" or (decoder == "auto" and device.type == "cpu"):
        return False
    can = stacks.work_on(device, dtype, set(base.info.modules.values()))
    if decoder == "stacks" and not can:
        raise BaseError(f"adapters can't be in stacks: no grouped products on {device} in {dtype}")
    return can


def _head_shapes(model: PreTrainedModel) -> list[HeadShape]:
    try:
        return head_shapes(model)
    except ValueError as error:
        raise BaseError(f"this base can't be run in a batch: {error}") from error


def _num_blocks(
    base: LoadedBase, layers: Sequence[HeadShape], max_rows: int, kv_tokens: int
) -> int:
    """Give the blocks of key/value memory: as asked for, or within a share of memory."""
    context = base.info.context_length
    if not kv_tokens:
        affordable = DEFAULT_KV_BYTES // bytes_per_block(layers, base.model.dtype) * BLOCK_TOKENS
        kv_tokens = min(max_rows * context, max(affordable, context))
    return max(-(-kv_tokens // BLOCK_TOKENS), -(-PROBE_TOKENS // BLOCK_TOKENS))
