"""From what was asked to tokens.

The version's template renders the content, the base's chat template wraps it. Knows neither
adapters' weights nor the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loradock.engine.errors import TooLong
from loradock.engine.text import Tokenizer
from loradock.registry.errors import InvalidArgument
from loradock.registry.resources import Profile
from loradock.registry.template import render
from loradock.server.threads import Threads

MARK = "an-answer"
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

    def __init__(self, tokenizer: Tokenizer, threads: Threads, *, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._threads = threads
        self._context_length = context_length
        self._terminator = terminator(tokenizer)

    async def tokens(self, asked: Asked, profile: Profile) -> tuple[int, ...]:
        """Give the prompt's tokens, templates and all."""
        if _num_chars(asked) <= INLINE_CHARS:
            return self._tokens(asked, profile)
        return await self._threads.run(self._tokens, asked, profile)

    async def continuations(
        self, asked: Asked, profile: Profile, texts: Sequence[str], *, end: bool
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Give the prompt's tokens and each continuation's; with `end` of labels, terminated."""
        return await self._threads.run(self._continuations, asked, profile, texts, end)

    def _tokens(self, asked: Asked, profile: Profile) -> tuple[int, ...]:
        return self._encoded(self._text(asked, profile))

    def _encoded(self, text: str) -> tuple[int, ...]:
        return _checked("prompt", self._tokenizer.encode(text), text)

    def _continuations(
        self, asked: Asked, profile: Profile, texts: Sequence[str], end: bool
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Tokenise in context.

        The prompt's tokens stand as they are when it is asked alone. A continuation's tokens are
        those that follow them when both are tokenised as one text; where the two would melt at
        the seam, the continuation is tokenised by itself.
        """
        text = self._text(asked, profile)
        prompt = self._encoded(text)
        if len(prompt) >= self._context_length:  # before it is tokenised once for each text
            raise TooLong(len(prompt), 1, self._context_length)
        field, last = ("labels", self._terminator) if end else ("continuations", ())
        after = (_checked(field, self._after(prompt, text, t), t) for t in texts)
        return prompt, tuple(tokens + last for tokens in after)

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


def terminator(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Give the token that ends an answer: the one that the chat template puts after it.

    A base may know several, of which its tokenizer names but one, and not always the one that
    chats use. Where no template says, it is the tokenizer's; none where that has none.
    """
    after = _after_an_answer(tokenizer)
    if after is not None:
        return (after,)
    return () if tokenizer.eos is None else (tokenizer.eos,)


def _after_an_answer(tokenizer: Tokenizer) -> int | None:
    if not tokenizer.has_chat_template:
        return None
    turns = (("user", "a"), ("assistant", MARK), ("user", "a"))
    try:
        rest = tokenizer.chat_text(turns).rpartition(MARK)[2]
    except ValueError:
        return None
    first = tokenizer.encode_alone(rest.lstrip())[:1]
    is_special = bool(first) and not tokenizer.decode(first)
    return first[0] if is_special else None


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


def _checked(field: str, tokens: tuple[int, ...], text: str) -> tuple[int, ...]:
    """Refuse a text of which the base's tokenizer leaves nothing: there is nothing to compute."""
    if not tokens:
        raise InvalidArgument(field, f"the base has no tokens for {text!r:.100}")
    return tokens


def _num_chars(asked: Asked) -> int:
    return len(asked.raw or "") + sum(len(turn.content) for turn in asked.turns)
