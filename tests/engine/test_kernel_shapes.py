"""The kernels for CPUs against a base's own modules, where sizes are odd and memory is foul.

Heads of all widths, one key head for many queries, adapters of uneven ranks, tries beside prompts
beside rows that decode, on more threads than one.
"""

import copy
import random
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from loradock.engine.batch import Batch
from loradock.engine.cpu import rotary
from loradock.engine.cpu.decoder import CpuDecoder
from loradock.engine.cpu.library import NoKernels, load_kernels
from loradock.engine.cpu.packing import Kind
from loradock.engine.decoder import Decoder
from loradock.engine.lora import LoraAdapter, LoraPair
from loradock.engine.modules_decoder import ModulesDecoder, head_shapes
from loradock.engine.protocol import Generate, Sampling, Score
from loradock.engine.rows import Chunk, GenerateRow, ScoreRow

CPU = torch.device("cpu")
NUM_BLOCKS, CONTEXT, VOCAB = 64, 128, 37
LIMITS = {Kind.F32: 1e-4, Kind.BF16: 5e-2}
RANKS = {  # of an adapter's modules, by a part of their name
    "wide": {"": 33},
    "uneven": {"q_proj": 3, "v_proj": 17, "down_proj": 1},
    "head": {"lm_head": 2, "up_proj": 5},
}


@pytest.fixture(autouse=True)
def three_threads():
    try:
        load_kernels()
    except NoKernels as reason:
        pytest.skip(str(reason))
    torch.set_num_threads(3)
    torch.manual_seed(0)


def make_model(dim, heads, key_heads, hidden, intermediate, dtype) -> Any:
    """Make a tiny model; Qwen's where the heads do not add up to the hidden size."""
    kinds: tuple[Any, Any] = (LlamaConfig, LlamaForCausalLM)
    if hidden % heads:
        kinds = (Qwen3Config, Qwen3ForCausalLM)
    config_of, model_of = kinds
    config = config_of(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=dim,
        vocab_size=VOCAB,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )
    return model_of(config).eval().to(dtype)


def linears_of(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}


def make_adapter(model, name, dtype, factor=0.1):
    pairs = {}
    for module, linear in linears_of(model).items():
        rank = next((r for part, r in RANKS[name].items() if part in module), 0)
        if rank:
            a = torch.randn(rank, linear.in_features) * 0.1
            b = torch.randn(linear.out_features, rank) * factor
            pairs[module] = LoraPair(a.to(dtype), b.to(dtype))
    return LoraAdapter(name, len(pairs), 0, pairs)


def in_floats(adapter):
    pairs = {n: LoraPair(p.a.float(), p.b.float()) for n, p in adapter.pairs.items()}
    return LoraAdapter(adapter.digest, adapter.num_modules, 0, pairs)


def make_rows(draw: random.Random) -> list[Any]:
    """Rows of the base and of every adapter, in blocks that lie anyhow."""
    adapters, rows = [None, *RANKS], list[Any]()
    for n, length in enumerate((1, 5, 15, 16, 17, 33, 47, 70)):
        work = Generate(f"g{n}", tokens(draw, length), Sampling(9), adapters[n % 4])
        rows.append(GenerateRow(work, 0))
    for n, length in enumerate((3, 16, 30)):
        texts = tuple(tokens(draw, draw.randint(1, 6), 4) for _ in range(5))
        rows.append(ScoreRow(Score(f"s{n}", tokens(draw, length), texts, adapters[n + 1])))
    blocks = draw.sample(range(NUM_BLOCKS), NUM_BLOCKS)
    for row in rows:
        row.blocks = [blocks.pop() for _ in range(-(-row.most_places // 16))]
    return rows


def tokens(draw, count, below=VOCAB):
    return tuple(draw.randrange(below) for _ in range(count))


def foul(decoder: CpuDecoder) -> None:
    """Let what earlier steps left behind be NaN."""
    for tensor in decoder._scratch._tensors.values():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)


def steps_of(rows, draw):
    """Give every row's places in chunks of all sizes; those that generate then decode a while."""
    for _ in range(40):
        chunks = []
        for row in rows:
            if isinstance(row, GenerateRow) and not row.num_remaining and row.num_sampled < 9:
                row.append(draw.randrange(VOCAB))
            size = min(row.num_remaining, draw.choice((1, 2, 7, 16, 40)))
            if size:
                chunks.append(Chunk(row, row.num_computed, row.num_computed + size))
                row.num_computed += size
        if chunks:
            yield chunks


@torch.inference_mode()
@pytest.mark.contract("S2")
@pytest.mark.parametrize("kind", [Kind.F32, Kind.BF16])
@pytest.mark.parametrize(
    ("dim", "heads", "key_heads", "hidden", "intermediate"),
    [(16, 5, 1, 80, 48), (48, 6, 2, 112, 208), (96, 4, 4, 64, 96), (112, 9, 1, 32, 16)],
)
def test_s2_kernels_give_what_the_modules_give(dim, heads, key_heads, hidden, intermediate, kind):
    draw, dtype = random.Random(0), kind.of_adapters.dtype
    model = make_model(dim, heads, key_heads, hidden, intermediate, dtype)
    adapters = {name: make_adapter(model, name, dtype) for name in RANKS}
    judge = copy.deepcopy(model).float()
    layers = head_shapes(judge)
    modules = ModulesDecoder(judge, list(linears_of(judge)), NUM_BLOCKS, layers, stacked=False)
    modules.clear(range(NUM_BLOCKS))
    kernels = CpuDecoder(model, kind, NUM_BLOCKS, CONTEXT)
    for keys, values in kernels._memory:
        keys.fill_(torch.nan)
        values.fill_(torch.nan)
    packed = {name: kernels.prepare(adapter) for name, adapter in adapters.items()}
    plain = {name: modules.prepare(in_floats(adapter)) for name, adapter in adapters.items()}
    num_compared = 0
    for chunks in steps_of(make_rows(draw), draw):
        foul(kernels)
        wanted = modules.forward(Batch(chunks, plain, CPU))
        given = kernels.forward(Batch(chunks, packed, CPU))
        assert ((given - wanted).abs() <= LIMITS[kind] * wanted.abs().amax()).all()
        num_compared += len(wanted)
    assert num_compared > 8 * 9


@torch.inference_mode()
@pytest.mark.contract("S2")
def test_s2_what_one_adapter_breaks_touches_no_other_row_of_the_step():
    model = make_model(16, 5, 1, 80, 48, torch.float32)
    adapters = {name: make_adapter(model, name, torch.float32) for name in RANKS}
    broken = make_adapter(model, "wide", torch.float32, factor=torch.nan)
    decoder: Decoder = CpuDecoder(model, Kind.F32, NUM_BLOCKS, CONTEXT)
    sound = {name: decoder.prepare(adapter) for name, adapter in adapters.items()}
    rows = make_rows(random.Random(0))[:8]
    batches = [
        Batch([Chunk(row, 0, row.num_places) for row in rows], resident, CPU)
        for resident in (sound, {**sound, "wide": decoder.prepare(broken)})
    ]
    wanted, given = (decoder.forward(batch).clone() for batch in batches)
    for n, span in enumerate(batches[0].spans):
        if span.chunk.row.work.adapter == "wide":
            assert not given[n].isfinite().any()
        else:
            assert torch.equal(given[n], wanted[n])


def test_rotary_factors_are_the_bases_own_however_far_texts_have_come():
    config = LlamaConfig(hidden_size=32, num_attention_heads=2, max_position_embeddings=3000)
    own = LlamaRotaryEmbedding(config)
    tables = rotary.RotaryTables(own, 3000)
    wanted = own(torch.empty(0), torch.arange(3000)[None])
    for position, num_made in ((5, 1024), (1023, 1024), (1024, 2048), (2999, 3000), (0, 3000)):
        for made, whole in zip(tables.up_to(position), wanted, strict=True):
            assert torch.equal(made, whole[0, :num_made])
