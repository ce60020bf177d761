"""Runs a causal LM through its own transformers modules: correct for any family, not the fastest.

All of a step's tokens go in as one sequence. The model's attention is answered by this engine over
its key/value memory, and its linear modules add the updates of the step's adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from loradock.engine.attention import Attention, AttentionKind
from loradock.engine.batch import Batch
from loradock.engine.lora import Adapter, LoraAdapter
from loradock.engine.memory import HeadShape, KeyValueMemory
from loradock.engine.protocol import LinearShape
from loradock.engine.stacks import padded, padded_rank

ATTENTION_NAME = "loradock"


class Step:
    """The step that is being computed, as the wrapped modules see it."""

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self.attention: Attention | _Recorder | None = None


class ModulesDecoder:
    """Any causal LM whose attention can be replaced."""

    def __init__(
        self,
        model: PreTrainedModel,
        module_names: Sequence[str],
        num_blocks: int,
        layers: Sequence[HeadShape],
        *,
        stacked: bool,
    ) -> None:
        """Wrap a model's modules; `stacked` lets a step stack adapters, for grouped products."""
        self._model = model
        self._stacked = stacked
        self._step = _wrap(model, module_names)
        self._memory = KeyValueMemory(layers, num_blocks, device=model.device, dtype=model.dtype)

    @property
    def description(self) -> str:
        how = ", adapters in stacks" if self._stacked else ""
        return f"{type(self._model).__name__} through its own modules{how}"

    @property
    def num_blocks(self) -> int:
        return self._memory.num_blocks

    @property
    def kv_bytes(self) -> int:
        return sum(memory.nbytes for memory in (*self._memory.keys, *self._memory.values))

    @property
    def has_own_threads(self) -> bool:
        return False

    def size_of(self, ranks: Mapping[str, int], shapes: Mapping[str, LinearShape]) -> int:
        if self._stacked:
            ranks = dict.fromkeys(ranks, padded_rank(ranks.values()))
        numbers = sum(
            rank * (shapes[name].in_features + shapes[name].out_features)
            for name, rank in ranks.items()
        )
        return numbers * self._model.dtype.itemsize

    def prepare(self, adapter: LoraAdapter) -> Adapter:
        return padded(adapter) if self._stacked else adapter

    def clear(self, blocks: Sequence[int]) -> None:
        self._memory.clear(blocks)

    def forward(self, batch: Batch) -> Tensor:
        self._step.batch = batch
        self._step.attention = Attention(batch, self._memory)
        output = self._model(
            input_ids=batch.tokens[None],
            position_ids=batch.positions[None],
            use_cache=False,
            logits_to_keep=batch.wanted,
        )
        logits: Tensor = output.logits[0].float()
        return logits


class AdaptedLinear(nn.Module):
    """A linear module of the base that adds the updates of the step's adapters."""

    def __init__(self, inner: nn.Module, name: str, step: Step, *, is_head: bool) -> None:
        super().__init__()
        self.inner = inner
        self._name = name
        self._step = step
        self._is_head = is_head

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  families read weight, bias and more
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the module over the step's tokens, [1, tokens, in_features]."""
        y: Tensor = self.inner(x)
        batch = self._step.batch
        if batch is None or not batch.segments:
            return y
        y = y.contiguous()
        for update in batch.wanted_updates if self._is_head else batch.updates:
            update.add_to(y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]), self._name)
        return y


class _Recorder:
    """Answers attention for one text without memory, and notes each layer's shape."""

    def __init__(self) -> None:
        self.shapes: dict[int, HeadShape] = {}

    def attend(self, layer: int, kind: AttentionKind, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.shapes[layer] = HeadShape(k.shape[1], k.shape[2], v.shape[2])
        return q.new_zeros(*q.shape[:2], v.shape[-1])


def head_shapes(model: PreTrainedModel) -> list[HeadShape]:
    """Learn what each layer keeps of a token. Raises `ValueError` if a layer is no attention."""
    recorder = _Recorder()
    step = _attach(model)
    step.attention = recorder
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    model(input_ids=token, position_ids=token, use_cache=False)
    num_layers = model.config.get_text_config().num_hidden_layers
    missing = sorted(set(range(num_layers)) - set(recorder.shapes))
    if missing:
        raise ValueError(f"layers {missing} of {type(model).__name__} have no attention to replace")
    return [recorder.shapes[layer] for layer in range(num_layers)]


def _wrap(model: PreTrainedModel, module_names: Sequence[str]) -> Step:
    step = _attach(model)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for name in module_names:
        parent, _, child = name.rpartition(".")
        inner = model.get_submodule(name)
        adapted = AdaptedLinear(inner, name, step, is_head=inner is head)
        setattr(model.get_submodule(parent), child, adapted)
    return step


def _attach(model: PreTrainedModel) -> Step:
    """Let the model's attention be answered by this engine."""
    step = Step()
    model.set_attn_implementation(ATTENTION_NAME)
    model.config.pad_token_id = None  # some families look for padding, and wait for the device so
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.__dict__["loradock_step"] = step  # not a submodule, not a parameter
    return step


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,  # noqa: ANN401  what families pass beyond these differs
) -> tuple[Tensor, None]:
    """Answer a transformers attention layer: [1, heads, tokens, dim] in, heads last but one out."""
    step: Any = module.loradock_step
    kind = AttentionKind(
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        options.get("sliding_window"),
        options.get("softcap"),
    )
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return step.attention.attend(module.layer_idx, kind, q.contiguous(), k, v)[None], None


AttentionInterface.register(ATTENTION_NAME, _attention_forward)
