"""Chooses how a base is run, and proves on a short text that the choice computes what the base does.

A base's own forward pass is the judge: a decoder whose logits differ from it is never used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loradock.engine.batch import Batch
from loradock.engine.decoder import Decoder
from loradock.engine.errors import BaseError
from loradock.engine.loading import LoadedBase
from loradock.engine.memory import BLOCK_TOKENS, HeadShape, bytes_per_block
from loradock.engine.modules_decoder import ModulesDecoder, head_shapes
from loradock.engine.protocol import Generate, Sampling
from loradock.engine.rows import Chunk, GenerateRow

log = logging.getLogger(__name__)

DEFAULT_KV_BYTES = 1 << 30
PROBE_TOKENS = 24
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}


def choose_decoder(base: LoadedBase, *, max_rows: int, kv_tokens: int) -> Decoder:
    """Give the fastest decoder that proves right. Takes the model over. Raises `BaseError`."""
    model = base.model
    with torch.inference_mode():
        probe = torch.arange(PROBE_TOKENS, device=model.device) * 7919 % base.info.vocab_size
        wanted = _own_logits(model, probe)
        layers = _head_shapes(model)
        num_blocks = _num_blocks(base, layers, max_rows, kv_tokens)
        decoder = ModulesDecoder(model, list(base.info.modules), num_blocks, layers)
        error = difference(decoder, probe, wanted)
    limit = TOLERANCE[model.dtype]
    if not error <= limit:
        raise BaseError(
            f"{base.info.architecture} can't be run in a batch: its logits come out "
            f"{error:.2g} away from its own (relative; at most {limit:g} is accepted)"
        )
    return decoder


def difference(decoder: Decoder, tokens: Tensor, wanted: Tensor) -> float:
    """Run a short text through a decoder in two chunks; give its distance from `wanted` logits."""
    row = GenerateRow(Generate("probe", tuple(tokens.tolist()), Sampling(max_tokens=1)), 0)
    row.blocks = list(range(-(-len(tokens) // BLOCK_TOKENS)))
    decoder.clear(row.blocks)
    half = len(tokens) // 2
    for start, end in ((0, half), (half, len(tokens))):
        logits = decoder.forward(Batch([Chunk(row, start, end)], {}, tokens.device))
    decoder.clear(row.blocks)
    return ((logits[-1] - wanted).abs().max() / wanted.abs().max()).item()


def _own_logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Give the logits after the last token by the model's own attention, in float32."""
    logits: Tensor = model(input_ids=tokens[None], use_cache=False).logits[0, -1]
    return logits.float()


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
    return max(-(-kv_tokens // BLOCK_TOKENS), 2)
