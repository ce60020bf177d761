"""What PEFT itself computes for a base and an adapter: what the engine must equal.

The model is run over whole texts without a cache. An engine's greedy tokens are right if each is
the oracle's best after those before it; by induction they are then what the oracle would generate.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from tiny_base import with_peft
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from loradock.engine.protocol import AdapterSource, LoraModule

WEIGHTS = "adapter_model.safetensors"
NEAR_TIE = 1e-3  # in logits; closer ones may come out in either order
CLEARLY = 1.0  # in logits; what a token that "the base would never choose" is behind the best


class Oracle:
    """A base with one adapter, or bare. Adapters may share a model: each is switched on to ask."""

    def __init__(
        self, model: PreTrainedModel | PeftModel, folder: Path | None = None, name: str = "default"
    ) -> None:
        """Take a model that has an adapter of that name, which is stored in `folder`."""
        self._model = model
        self._name = name
        self.folder = folder

    @classmethod
    def load(cls, base: Path, adapter: Path | None = None) -> Oracle:
        """Load a base, and let PEFT load an adapter into it."""
        model = loaded(base)
        return cls(model) if adapter is None else cls(with_peft(model, adapter), adapter)

    @property
    def digest(self) -> str | None:
        """The name that this adapter goes by in an engine; None for the bare base."""
        return None if self.folder is None else f"sha256:{self.folder.name}"

    @property
    def source(self) -> AdapterSource:
        """This adapter as an engine is given it, with ranks and scalings as PEFT has them."""
        assert isinstance(self._model, PeftModel)
        assert self.folder is not None
        prefix, name = "base_model.model.", self._name
        modules = [
            LoraModule(
                module=path.removeprefix(prefix),
                rank=layer.r[name],
                scaling=float(layer.scaling[name]),
                a_key=f"{path}.lora_A.weight",
                b_key=f"{path}.lora_B.weight",
            )
            for path, layer in self._model.named_modules()
            if isinstance(layer, LoraLayer) and name in layer.r
        ]
        return AdapterSource(str(self.digest), self.folder / WEIGHTS, modules)

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> Tensor:
        """Give the logits after each token of a text, [tokens, vocabulary]."""
        with self._switched_on():
            found: Tensor = self._model(torch.tensor([list(tokens)]), use_cache=False).logits
        return found[0].float()

    def logits_after(self, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Give the logits from which each of `tokens` was chosen, [tokens, vocabulary]."""
        return self.logits([*prompt, *tokens[:-1]])[len(prompt) - 1 :]

    def logprobs(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Give the log-likelihood of each of `tokens`."""
        logits = self.logits_after(prompt, tokens).log_softmax(dim=-1)
        return logits.gather(-1, torch.tensor(tokens)[:, None]).squeeze(-1).tolist()

    def assert_greedy(self, prompt: Sequence[int], tokens: Sequence[int]) -> None:
        """Fail unless `tokens` are what the oracle itself would say, but for near ties."""
        behind = behind_best(self.logits_after(prompt, tokens), tokens)
        at = int(behind.argmax())
        assert behind[at] <= NEAR_TIE, f"token {at} is {behind[at]:.3g} behind the oracle's best"

    def assert_same(
        self, prompt: Sequence[int], tokens: Sequence[int], others: Sequence[int]
    ) -> None:
        """Fail unless two answers are equal up to a near tie, after which nothing is compared."""
        assert len(tokens) == len(others)
        pairs = zip(tokens, others, strict=True)
        at = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
        if at is not None:
            best = self.logits_after(prompt, tokens[: at + 1])[-1].topk(2).values
            assert best[0] - best[1] <= NEAR_TIE, f"token {at} differs: {tokens[at]}, {others[at]}"

    def share_refused(self, prompt: Sequence[int], tokens: Sequence[int]) -> float:
        """Give the share of `tokens` that this oracle clearly would not have chosen."""
        behind = behind_best(self.logits_after(prompt, tokens), tokens)
        return (behind > CLEARLY).float().mean().item()

    def _switched_on(self) -> AbstractContextManager[None]:
        if not isinstance(self._model, PeftModel):
            return nullcontext()
        if self.folder is None:
            return self._model.disable_adapter()
        if self._model.active_adapter != self._name:
            self._model.set_adapter(self._name)
        return nullcontext()


def loaded(base: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a base as transformers does, for an oracle to keep."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def behind_best(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Give how far each token's logit is behind the best at its place, [tokens]."""
    own = logits.gather(-1, torch.tensor(tokens)[:, None]).squeeze(-1)
    return logits.amax(dim=-1) - own
