"""What runs off the CPU, on torch's device without memory: a step's tensors are all on it.

Nothing is computed there, so nothing can be read back, and a step that would wait for what a device
has computed fails here.
"""

import random
from dataclasses import replace

import pytest
import torch
from tiny_base import VOCAB_SIZE
from tiny_families import make_base
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from loradock.engine.batch import Batch
from loradock.engine.choice import choose_decoder
from loradock.engine.errors import BaseError
from loradock.engine.loading import load_base
from loradock.engine.lora import LoraAdapter, LoraPair
from loradock.engine.modules_decoder import ModulesDecoder, head_shapes
from loradock.engine.protocol import Generate, Sampling, Score
from loradock.engine.rows import Chunk, GenerateRow, ScoreRow
from loradock.engine.stacks import Group

META = torch.device("meta")
DTYPE = torch.bfloat16
RANKS = (3, 8, 16)
MOVES = (torch.ops.aten.to, torch.ops.aten._to_copy, torch.ops.aten.copy_)


class OneDevice(TorchDispatchMode):
    """Lets no operation but a move have tensors of two devices, numbers by themselves aside."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        every = tree_leaves((args, kwargs, result))
        devices = {t.device.type for t in every if isinstance(t, torch.Tensor) and t.dim()}
        assert len(devices) < 2 or func.overloadpacket in MOVES, f"{func} of tensors on {devices}"
        return result


def on_meta(model):
    model.to(META)
    return model


def an_adapter(rank, modules):
    pairs = {
        name: LoraPair(
            torch.empty(rank, shape.in_features, dtype=DTYPE, device=META),
            torch.empty(shape.out_features, rank, dtype=DTYPE, device=META),
        )
        for name, shape in modules.items()
    }
    return LoraAdapter(f"a{rank}", len(pairs), 0, pairs)


def rows_of(digests):
    """Give rows that decode, prompts and tries, of the base and of each adapter."""
    draw = random.Random(0)
    rows = []
    for at, digest in enumerate([None, *digests] * 2):
        prompt = tuple(draw.choices(range(3, VOCAB_SIZE), k=5 + 7 * at))
        generate = Generate(f"g{at}", prompt, Sampling(4), digest)
        score = Score(f"s{at}", prompt, (prompt[:3], prompt[:2], prompt[2:5]), digest)
        rows += [GenerateRow(generate, 0), ScoreRow(score)]
    for at, row in enumerate(rows):
        row.blocks = list(range(8 * at, 8 * at + 8))
    return rows


def chunks_of(rows):
    """Of those that generate some decode already; of tries, some begin within them."""
    for at, row in enumerate(rows):
        start = (0, row.num_places - 1, 3, row.num_places - 2)[(at + at // 2) % 4]
        yield Chunk(row, start, row.num_places)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "mistral, windows", "gemma2", "phi3", "gpt2"])
@pytest.mark.parametrize("stacked", [True, False])
def test_a_step_is_computed_where_the_base_is_and_waits_for_nothing(tmp_path, family, stacked):
    base = load_base(make_base(tmp_path / "base", family), "base", dtype="bfloat16")
    model, modules = on_meta(base.model), base.info.modules
    decoder = ModulesDecoder(model, list(modules), 1024, head_shapes(model), stacked=stacked)
    adapters = {f"a{rank}": decoder.prepare(an_adapter(rank, modules)) for rank in RANKS}
    rows = rows_of(adapters)
    with OneDevice():
        decoder.clear(rows[0].blocks)
        batch = Batch(list(chunks_of(rows)), adapters, META)
        logits = decoder.forward(batch)
    assert (logits.device, logits.dtype) == (META, torch.float32)
    assert logits.shape == (len(batch.wanted), VOCAB_SIZE)
    assert any(isinstance(part, Group) for part in batch.updates) == stacked


def test_eight_bits_off_the_cpu_are_refused_in_words(tiny_base):
    base = load_base(tiny_base, "base", dtype="int8")
    away = replace(base, model=on_meta(base.model))
    with pytest.raises(BaseError, match="int8, which they alone have: it is on meta"):
        choose_decoder(away, max_rows=2, kv_tokens=256)
