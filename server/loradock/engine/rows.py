"""One sequence in the running batch: what of it is computed, and what is wanted next.

Pure Python. A row is a stretch of places in key/value memory; each step computes a chunk of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from loradock.engine.blocks import ChainHash, next_link, root_of
from loradock.engine.protocol import Generate, Score, Work
from loradock.engine.share import Share
from loradock.engine.trie import ROOT, Trie


class Row:
    """What both kinds of rows have. Belongs to the step thread once it is submitted."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.tokens = list(work.prompt)  # whose text is known: the prompt, and what was sampled
        self.blocks: list[int] = []
        self.chain: list[ChainHash] = []  # names of the whole blocks of `tokens`, as far as needed
        self.num_computed = 0  # places whose keys and values are in memory
        self.num_cached = 0  # prompt tokens that the prefix cache had
        self.num_charged = 0  # places that its party was charged for
        self.is_announced = False  # its first event has gone out
        self.is_running = False
        self.num_preempted = 0  # how often it ran and was put back
        self.share = Share(Share())  # its party's, once it waits
        self.arrival = 0  # which row it is, of all that ever came
        self.level: int = work.priority  # of its importance, the highest 0; rises as it waits
        self.first_at: int | None = None  # the step since which it is the first of its line
        self.submitted_at = time.monotonic()
        self.admitted_at: float | None = None

    @property
    def name(self) -> str:
        """The row's name among running rows."""
        return self.work.row

    @property
    def queued_s(self) -> float:
        """How long it waited, or has waited so far, for its admission."""
        until = time.monotonic() if self.admitted_at is None else self.admitted_at
        return until - self.submitted_at

    @property
    def num_places(self) -> int:
        """Places that can be computed now."""
        return len(self.tokens)

    @property
    def num_remaining(self) -> int:
        """Places that wait to be computed."""
        return self.num_places - self.num_computed

    @property
    def most_places(self) -> int:
        """Places in key/value memory that the row may come to need."""
        raise NotImplementedError

    @property
    def is_answering(self) -> bool:
        """Whether somebody has tokens of it and waits for the next."""
        return False

    def token(self, place: int) -> int:
        """Give the token at a place."""
        return self.tokens[place]

    def position(self, place: int) -> int:
        """Give the position in the text of a place."""
        return place

    def wanted(self, start: int, end: int) -> list[int]:
        """Give the places of these after which the distribution of the next token is asked for."""
        raise NotImplementedError

    def sees(self, place: int) -> list[int] | None:
        """Give the places beyond the prompt that a place attends to; None for all before it."""
        return None

    def link(self, block: int, block_tokens: int) -> ChainHash:
        """Name the row's prefix that ends with its `block`-th block, which must be whole."""
        while len(self.chain) <= block:
            at = len(self.chain)
            parent = self.chain[-1] if self.chain else root_of(self.work.adapter, self.work.salt)
            tokens = self.tokens[at * block_tokens : (at + 1) * block_tokens]
            self.chain.append(next_link(parent, tokens))
        return self.chain[block]


class GenerateRow(Row):
    """A prompt that is continued token by token."""

    work: Generate

    def __init__(self, work: Generate, seed: int) -> None:
        super().__init__(work)
        self.seed = seed
        self.seen = set(work.prompt)  # for the repetition penalty

    @property
    def num_sampled(self) -> int:
        """Tokens drawn so far."""
        return len(self.tokens) - len(self.work.prompt)

    @property
    def most_places(self) -> int:
        return len(self.work.prompt) + self.work.sampling.max_tokens - 1

    @property
    def is_answering(self) -> bool:
        return self.num_sampled > 0

    def wanted(self, start: int, end: int) -> list[int]:
        last = len(self.tokens) - 1
        return [last] if start <= last < end else []

    def append(self, token: int) -> None:
        """Add a sampled token."""
        self.tokens.append(token)
        self.seen.add(token)


class ScoreRow(Row):
    """A prompt with a trie of continuations; the trie's nodes take the places after the prompt."""

    work: Score

    def __init__(self, work: Score) -> None:
        super().__init__(work)
        self.trie = Trie(work.continuations)

    @property
    def num_places(self) -> int:
        return len(self.tokens) + len(self.trie.inner)

    @property
    def most_places(self) -> int:
        return self.num_places

    def node(self, place: int) -> int:
        """Give the trie's node at a place; the prompt's last token is the root."""
        beyond = place - len(self.tokens)
        return ROOT if beyond < 0 else self.trie.inner[beyond]

    def token(self, place: int) -> int:
        is_prompt = place < len(self.tokens)
        return self.tokens[place] if is_prompt else self.trie.nodes[self.node(place)].token

    def position(self, place: int) -> int:
        if place < len(self.tokens):
            return place
        return len(self.tokens) + self.trie.nodes[self.node(place)].depth - 1

    def wanted(self, start: int, end: int) -> list[int]:
        places = range(max(start, len(self.tokens) - 1), end)
        return [place for place in places if self.trie.children(self.node(place))]

    def sees(self, place: int) -> list[int] | None:
        if place < len(self.tokens):
            return None
        return [len(self.tokens) + at for at in self.trie.ancestors(self.node(place))]


@dataclass(frozen=True, slots=True)
class Chunk:
    """The places of one row that one step computes."""

    row: Row
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def places(self) -> Sequence[int]:
        """The places themselves."""
        return range(self.start, self.end)

    @property
    def wanted(self) -> list[int]:
        """Places after which the distribution of the next token is asked for."""
        return self.row.wanted(self.start, self.end)
