"""What transformers and PEFT themselves make of a prompt: one sequence at a time, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_base import with_peft
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

NEAR_TIE = 1e-3  # of two best logits: either token is right


class Oracle:
    """A base, or an adapter of it."""

    def __init__(self, base: Path, adapter: Path | None = None) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self._model = model if adapter is None else with_peft(model, adapter)

    def prompt(self, text: str) -> list[int]:
        """Write a text as a chat of one user message."""
        turns = [{"role": "user", "content": text}]
        written = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        return self.tokens(str(written))

    def tokens(self, text: str) -> list[int]:
        """Tokenise a text as it stands."""
        return list(self._tokenizer.encode(text))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Give each token's own text."""
        return [str(self._tokenizer.decode([token])) for token in tokens]

    def logprob(self, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """Give the log-likelihood of an answer."""
        logprobs = self._logits(prompt, answer).log_softmax(-1)
        return sum(float(logprobs[at, token]) for at, token in enumerate(answer))

    def is_greedy(self, prompt: Sequence[int], answer: Sequence[int]) -> bool:
        """Whether every token of an answer is the best one, or as good as."""
        logits = self._logits(prompt, answer)
        chosen = logits.gather(-1, torch.tensor(list(answer))[:, None]).squeeze(-1)
        return bool((logits.amax(-1) - chosen <= NEAR_TIE).all())

    def _logits(self, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
        """Give the distributions of the answer's tokens, [tokens, vocabulary]."""
        with torch.inference_mode():
            logits: Tensor = self._model(torch.tensor([[*prompt, *answer]])).logits[0]
        return logits[len(prompt) - 1 : -1]
