"""The text side of a base: its tokenizer, its chat template, and text out of streamed tokens.

Knows no model. Runs on the server's side, never on the step thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from loradock.engine.errors import BaseError

HALF_CHARACTER = "\ufffd"
MAX_PENDING_TOKENS = 8  # a character of UTF-8 has 4 bytes; what stays broken longer is no character
OPENING_SPACE = "\u2581"  # what SentencePiece writes for a space, and before a text
CONTEXT_TOKENS = 4  # decoders look back a little: for a leading space, for a byte run


class Decoder(Protocol):
    """What a stream needs of a tokenizer."""

    def decode(self, tokens: Sequence[int]) -> str: ...

    def ends_with_mark(self, tokens: Sequence[int]) -> bool:
        """Say whether tokens end with U+FFFD itself, which else stands for half a character."""


class Tokenizer:
    """The tokenizer of one base. Safe to use from any thread."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401  transformers has no type for it
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, model: str | Path) -> Tokenizer:
        """Load the tokenizer of a folder, a GGUF file or a hub name. Raises `BaseError`."""
        from transformers import AutoTokenizer

        place, options = str(model), {}
        if place.endswith(".gguf"):
            place, options = str(Path(place).parent), {"gguf_file": Path(place).name}
        try:
            return cls(AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options))
        except (OSError, ValueError, KeyError) as error:
            raise BaseError(f"{model} has no tokenizer that can be loaded: {error}") from error

    @property
    def eos(self) -> int | None:
        """The token that ends an answer."""
        eos = self._tokenizer.eos_token_id
        return None if eos is None else int(eos)

    @property
    def has_chat_template(self) -> bool:
        """Whether the base says how a chat is written."""
        return bool(self._tokenizer.chat_template)

    def chat_text(self, turns: Sequence[tuple[str, str]]) -> str:
        """Write (role, content) turns as the base's chat template has it, up to the answer.

        A base without a template gets the contents, a blank line apart. Raises `ValueError` if
        the template refuses the turns.
        """
        if not self.has_chat_template:
            return "\n\n".join(content for _, content in turns)
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
            )
        except Exception as error:  # whatever a template raises is about the turns
            raise ValueError(f"the base's chat template refuses this chat: {error}") from error

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokenise a whole prompt.

        The base's own opening token is put first, unless the text, as chat templates do, already
        opens with it.
        """
        tokens = self.encode_alone(text)
        bos = self._tokenizer.bos_token_id
        opening = self._opening()
        if opening and tokens[:1] != (bos,):
            return opening + tokens
        return tokens

    def encode_alone(self, text: str) -> tuple[int, ...]:
        """Tokenise text that stands in the middle: nothing is put before or after it."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def count(self, text: str) -> int:
        """Count the tokens of a whole prompt."""
        return len(self.encode(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """Give the text of tokens, special ones left out."""
        return str(
            self._tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def ends_with_mark(self, tokens: Sequence[int]) -> bool:
        """Say whether tokens end with U+FFFD itself, however its bytes are split into tokens."""
        written = "".join(map(str, self._tokenizer.convert_ids_to_tokens(list(tokens))))
        return written.endswith(self._mark)

    @cached_property
    def _mark(self) -> str:
        """Give how the tokenizer's tokens write U+FFFD, without what may open a text."""
        tokens = self._tokenizer.encode(HALF_CHARACTER, add_special_tokens=False)
        written = "".join(map(str, self._tokenizer.convert_ids_to_tokens(tokens)))
        return written.lstrip(OPENING_SPACE)

    def _opening(self) -> tuple[int, ...]:
        """Give what the tokenizer itself puts before a text, without what it puts after."""
        bos = self._tokenizer.bos_token_id
        around = tuple(self._tokenizer.encode("", add_special_tokens=True))
        return around[:1] if bos is not None and around[:1] == (bos,) else ()


class TextStream:
    """Turns one row's tokens into text as they come. Belongs to one reader.

    Text is given out only once it is final: not while a character is incomplete, and not while it
    could be the beginning of a stop string. The work per token does not grow with the output.
    """

    def __init__(self, tokenizer: Decoder, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stop for stop in stops if stop)
        self._context: list[int] = []  # tokens whose text is out; decoded along for their effect
        self._context_text = ""
        self._pending: list[int] = []  # tokens whose characters are not whole yet
        self._held = ""  # text that may begin a stop string
        self.is_stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """Take tokens; give the text that has become final. After a stop string: nothing."""
        text = "".join(self._decode(token) for token in tokens)
        return "" if self.is_stopped else self._hold(text)

    def flush(self) -> str:
        """Give what was held back for a stop string that did not come. Half characters are lost.

        But not U+FFFD itself, which is what half characters look like.
        """
        rest = "" if self.is_stopped else self._hold(self._whole_pending())
        held, self._held, self._pending = self._held, "", []
        return rest if self.is_stopped else rest + held

    def _decode(self, token: int) -> str:
        self._pending.append(token)
        text = self._text_of(self._pending)
        if not self._is_whole(text, self._pending) and len(self._pending) < MAX_PENDING_TOKENS:
            return ""
        self._settle()
        return text

    def _whole_pending(self) -> str:
        """Give the text of as many pending tokens as end with a whole character."""
        for end in range(len(self._pending), 0, -1):
            tokens = self._pending[:end]
            text = self._text_of(tokens)
            if self._is_whole(text, tokens):
                return text
        return ""

    def _is_whole(self, text: str, tokens: Sequence[int]) -> bool:
        return not text.endswith(HALF_CHARACTER) or self._tokenizer.ends_with_mark(tokens)

    def _text_of(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode([*self._context, *tokens])[len(self._context_text) :]

    def _settle(self) -> None:
        self._context = [*self._context, *self._pending][-CONTEXT_TOKENS:]
        self._context_text = self._tokenizer.decode(self._context)
        self._pending = []

    def _hold(self, text: str) -> str:
        """Add text; give all of it that can't begin a stop string; stop at a whole one.

        The one that is complete first counts, however the text is split into parts.
        """
        text = self._held + text
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stops]
        found = [(end, start) for end, start in found if start >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Give the length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
