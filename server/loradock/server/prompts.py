"""From what was asked to tokens.

The version's template renders the content, the base's chat template wraps it. Knows neither
adapters' weights nor the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loradock.engine.text import Tokenizer
from loradock.registry.errors import InvalidArgument
from loradock.registry.resources import Profile
from loradock.registry.template import render
from loradock.server.threads import Threads

INLINE_CHARS = 4096  # tokenised on the event loop up to here: well under a millisecond


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be answered: a chat, or raw text that no template touches."""

    turns: tuple[Turn, ...] = ()
    raw: str | None = None


class Prompts:
    """Writes prompts for one base."""

    def __init__(self, tokenizer: Tokenizer, threads: Threads) -> None:
        self._tokenizer = tokenizer
        self._threads = threads

    async def tokens(self, asked: Asked, profile: Profile) -> tuple[int, ...]:
        """Give the prompt's tokens, templates and all."""
        if _num_chars(asked) <= INLINE_CHARS:
            return self._tokens(asked, profile)
        return await self._threads.run(self._tokens, asked, profile)

    async def continuations(
        self, asked: Asked, profile: Profile, texts: Sequence[str], *, end: bool
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Give the prompt's tokens and each continuation's, with the terminator if `end`."""
        return await self._threads.run(self._continuations, asked, profile, texts, end)

    def _tokens(self, asked: Asked, profile: Profile) -> tuple[int, ...]:
        return self._tokenizer.encode(self._text(asked, profile))

    def _continuations(
        self, asked: Asked, profile: Profile, texts: Sequence[str], end: bool
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Tokenise in context.

        The prompt's tokens stand as they are when it is asked alone. A continuation's tokens are
        those that follow them when both are tokenised as one text; where the two would melt at
        the seam, the continuation is tokenised by itself.
        """
        text = self._text(asked, profile)
        prompt = self._tokenizer.encode(text)
        eos = self._tokenizer.eos
        terminator = () if eos is None or not end else (eos,)
        return prompt, tuple(self._after(prompt, text, t) + terminator for t in texts)

    def _after(self, prompt: tuple[int, ...], text: str, continuation: str) -> tuple[int, ...]:
        whole = self._tokenizer.encode(text + continuation)
        if whole[: len(prompt)] == prompt and len(whole) > len(prompt):
            return whole[len(prompt) :]
        return self._tokenizer.encode_alone(continuation)

    def _text(self, asked: Asked, profile: Profile) -> str:
        if asked.raw is not None:
            return asked.raw
        turns = profiled(asked.turns, profile)
        try:
            return self._tokenizer.chat_text([(turn.role, turn.content) for turn in turns])
        except ValueError as error:
            raise InvalidArgument("prompt.chat", str(error)) from error


def profiled(turns: Sequence[Turn], profile: Profile) -> list[Turn]:
    """Render the last user content, and put the profile's system text first if there is none."""
    profiled = list(turns)
    if profile.template is not None:
        last = max(i for i, turn in enumerate(turns) if turn.role == "user")
        content = render(profile.template, turns[last].content)
        profiled[last] = replace(turns[last], content=content)
    if profile.system is not None and not any(turn.role == "system" for turn in turns):
        profiled.insert(0, Turn("system", profile.system))
    return profiled


def _num_chars(asked: Asked) -> int:
    return len(asked.raw or "") + sum(len(turn.content) for turn in asked.turns)
