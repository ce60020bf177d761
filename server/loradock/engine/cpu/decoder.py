"""Runs Llama-like bases on a CPU: weights packed and fused ahead, a step's layers in one call to C.

The residual stream and all sums are float32 in every precision; weights, their operands and the
key/value memory are in the base's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loradock.engine.batch import Batch
from loradock.engine.cpu import library
from loradock.engine.cpu.packing import LANES, Kind, PackedMatrix, pack, pack_rows
from loradock.engine.cpu.rotary import RotaryTables
from loradock.engine.cpu.step import Scratch, step_of
from loradock.engine.cpu.updates import PackedUpdates, Part, Site, pack_updates, packed_bytes
from loradock.engine.lora import Adapter, LoraAdapter
from loradock.engine.memory import BLOCK_TOKENS
from loradock.engine.protocol import LinearShape
from loradock.engine.threads import TORCH_THREADS

LlamaLike = Any  # transformers models of FAMILIES, and their layers: alike in names, not in type
FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


class NotUnderstood(Exception):
    """A base that can't be run here; the message says why."""


@dataclass(frozen=True, slots=True)
class CpuAdapter(Adapter):
    """A version's weights, packed."""

    packed: PackedUpdates


@dataclass(slots=True)
class Counts:
    """What the products of weights have cost since the decoder was made."""

    multiply_adds: int = 0
    weight_bytes: int = 0

    def add(self, step: library.Step) -> None:
        """Add what a step has counted."""
        self.multiply_adds += step.multiply_adds
        self.weight_bytes += step.weight_bytes


class CpuDecoder:
    """A Llama-like base in panels. Takes the model's weights over as it packs them."""

    def __init__(self, model: LlamaLike, kind: Kind, num_blocks: int, context_length: int) -> None:
        """Pack. The model must be one that `refuse_unknown` lets pass. Raises `NoKernels`."""
        self._kernels = library.load_kernels()
        config = model.config
        self._num_blocks = num_blocks
        self._kind = kind
        self._rotary = RotaryTables(model.model.rotary_emb, context_length)
        self._shape = _shape(model, kind)
        self._sites = _sites(self._shape)
        self._final_norm = _floats(model.model.norm.weight)
        self._layers = [_PackedLayer(layer, kind) for layer in model.model.layers]
        # The output head's rounding would go straight into the choice: it is never in 8 bits.
        self._head = pack(model.lm_head.weight, kind.of_adapters, model.lm_head.bias)
        self._head_shape = _shape(model, kind.of_adapters)
        self._embedding = model.get_input_embeddings().weight.clone()
        # A single tensor of the model would keep the base's whole file mapped; only once it is
        # gone is key/value memory taken, so that the two never add up.
        for module in model.modules():
            _give_up(module)
        self._memory = [_memory(self._shape, kind, num_blocks) for _ in self._layers]
        self._structs = (library.Layer * len(self._layers))(
            *(w.struct(*m) for w, m in zip(self._layers, self._memory, strict=True))
        )
        self._vocab_size = config.vocab_size
        self._team = library.Team(self._kernels, TORCH_THREADS.get())
        self._scratch = Scratch(self._team.threads)
        self.counts = Counts()

    @property
    def description(self) -> str:
        return f"packed for this CPU in {self._kind.name.lower()}"

    @property
    def num_blocks(self) -> int:
        return self._num_blocks

    @property
    def kv_bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self._memory)

    @property
    def has_own_threads(self) -> bool:
        return True

    def size_of(self, ranks: Mapping[str, int], shapes: Mapping[str, LinearShape]) -> int:
        kind = self._kind.of_adapters
        return packed_bytes(ranks, shapes, len(self._layers), self._sites, kind)

    def prepare(self, adapter: LoraAdapter) -> Adapter:
        packed = pack_updates(adapter.pairs, len(self._layers), self._sites, self._kind.of_adapters)
        return CpuAdapter(adapter.digest, adapter.num_modules, packed.weights.nbytes, packed)

    def clear(self, blocks: Sequence[int]) -> None:
        """Do nothing: what a row has not written is never read."""

    def forward(self, batch: Batch) -> Tensor:
        hidden = self._embedding[batch.tokens].float()
        segments = [(_packed(s.adapter), s.start, s.end) for s in batch.segments]
        step = step_of(batch, hidden, segments, self._shape, self._scratch)
        step.turn(batch.positions, self._rotary)
        self._kernels.loradock_layers(
            self._team.address, self._structs, len(self._layers), self._shape, step.struct
        )
        self.counts.add(step.struct)
        return self._logits(batch, hidden)

    def _logits(self, batch: Batch, hidden: Tensor) -> Tensor:
        wanted = hidden[batch.wanted]
        width = -(-self._vocab_size // LANES) * LANES
        logits = self._scratch.take("logits", len(wanted) * width, torch.float32)
        logits = logits[: len(wanted) * width].view(-1, width)
        if len(wanted):
            segments = [(_packed(s.adapter), s.start, s.end) for s in batch.wanted_segments]
            step = self._scratch.head_step(wanted, segments, self._head_shape)
            self._kernels.loradock_head(
                self._team.address,
                self._final_norm.data_ptr(),
                self._head.struct,
                self._head_shape,
                step.struct,
                logits.data_ptr(),
            )
            self.counts.add(step.struct)
        return logits[:, : self._vocab_size]


class _PackedLayer:
    """One layer's weights."""

    def __init__(self, layer: LlamaLike, kind: Kind) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norms = [
            _floats(layer.input_layernorm.weight),
            _floats(layer.post_attention_layernorm.weight),
        ]
        head_norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self.norms += [_floats(norm.weight) for norm in head_norms if norm is not None]
        self.matrices = [
            _packed_linears(kind, attention.q_proj, attention.k_proj, attention.v_proj),
            _packed_linears(kind, attention.o_proj),
            _packed_linears(kind, mlp.gate_proj, mlp.up_proj),
            _packed_linears(kind, mlp.down_proj),
        ]

    def struct(self, keys: Tensor, values: Tensor) -> library.Layer:
        """Point to the weights and to the layer's memory; whoever uses it keeps both alive."""
        pointers = [norm.data_ptr() for norm in self.norms] + [None] * (4 - len(self.norms))
        matrices = (matrix.struct for matrix in self.matrices)
        return library.Layer(*pointers, *matrices, keys.data_ptr(), values.data_ptr())


def _memory(shape: library.Shape, kind: Kind, num_blocks: int) -> tuple[Tensor, Tensor]:
    """Take one layer's memory for keys and for values."""
    size = (num_blocks, shape.key_heads, shape.dim, BLOCK_TOKENS)
    dtype = kind.of_adapters.dtype
    return torch.zeros(size, dtype=dtype), torch.zeros(size, dtype=dtype)


def refuse_unknown(model: LlamaLike) -> None:
    """Raise `NotUnderstood` unless all of a model's parts are known here."""
    config = model.config
    name = type(model).__name__
    if name not in FAMILIES:
        raise NotUnderstood(f"{name} is not among {', '.join(FAMILIES)}")
    if config.hidden_act != "silu":
        raise NotUnderstood(f"its activation is {config.hidden_act}")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        raise NotUnderstood(f"it has sliding windows of {window} tokens")
    odd = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name != "lm_head"
        and (module.out_features % LANES or module.in_features % LANES)
    ]
    if odd or model.model.layers[0].self_attn.head_dim % LANES:
        raise NotUnderstood(f"its sizes are no multiples of {LANES}")


def _shape(model: LlamaLike, kind: Kind) -> library.Shape:
    config, attention = model.config, model.model.layers[0].self_attn
    return library.Shape(
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        dim=attention.head_dim,
        rotary_dim=2 * len(model.model.rotary_emb.inv_freq),
        intermediate=config.intermediate_size,
        kind=kind,
        norm_epsilon=config.rms_norm_eps,
        scaling=attention.scaling,
    )


def _sites(shape: library.Shape) -> tuple[Site, ...]:
    """Name the modules of each of a layer's products, in the order of kernels.c."""
    q, k = shape.heads * shape.dim, shape.key_heads * shape.dim
    return (
        (
            Part("self_attn.q_proj", 0),
            Part("self_attn.k_proj", q),
            Part("self_attn.v_proj", q + k),
        ),
        (Part("self_attn.o_proj", 0),),
        (Part("mlp.gate_proj", 0), Part("mlp.up_proj", shape.intermediate)),
        (Part("mlp.down_proj", 0),),
    )


def _packed_linears(kind: Kind, *linears: nn.Linear) -> PackedMatrix:
    """Pack linear modules as one, and let their own weights go."""
    packed = pack_rows([m.weight for m in linears], kind, [m.bias for m in linears])
    for linear in linears:
        _give_up(linear)
    return packed


def _give_up(module: nn.Module) -> None:
    """Let a module's own weight and bias go."""
    for name in module._parameters:
        module._parameters[name] = None


def _floats(weight: Tensor) -> Tensor:
    return weight.detach().float().contiguous()


def _packed(adapter: Adapter) -> PackedUpdates:
    assert isinstance(adapter, CpuAdapter)
    return adapter.packed
