"""Who holds which block of key/value memory, and which finished blocks can be used again.

Counts and names only: pure Python, no tensors. A block's name is a chain of SHA-256 over the
namespace (adapter version or base, and the tenant's salt) and all tokens up to the block's end, so
that a block is found again only by a row for which its content would come out the same.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Sequence

ChainHash = bytes


def root_of(adapter: str | None, salt: str) -> ChainHash:
    """Name the empty prefix of one version (or the base) within one salt."""
    who = ("base",) if adapter is None else ("adapter", adapter)
    return hashlib.sha256(repr((who, ("salt", salt))).encode()).digest()


def next_link(parent: ChainHash, tokens: Sequence[int]) -> ChainHash:
    """Name the prefix that is one block of tokens longer."""
    return hashlib.sha256(parent + struct.pack(f"<{len(tokens)}Q", *tokens)).digest()


class BlockPool:
    """Hands out blocks, shares finished ones by name, and takes the oldest unused ones back.

    A block is in one of three states: free, used (held by one or more rows), or cached (held by
    nobody, but still found by its name). Belongs to one thread.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._num_holders: dict[int, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # the least recently used first
        self._block_of: dict[ChainHash, int] = {}
        self._name_of: dict[int, ChainHash] = {}

    @property
    def num_free(self) -> int:
        """Blocks with no content worth keeping."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks that the prefix cache alone holds."""
        return len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks that rows hold."""
        return len(self._num_holders)

    def find(self, chain: Sequence[ChainHash]) -> list[int]:
        """Give the blocks of the longest known beginning of `chain`. Changes nothing."""
        found: list[int] = []
        for name in chain:
            block = self._block_of.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def can_take(self, num_new: int, shared: Sequence[int] = ()) -> bool:
        """Whether `num_new` blocks could be had beside holding `shared`."""
        kept = sum(block in self._cached for block in shared)
        return num_new <= self.num_free + self.num_cached - kept

    def take(self, num_new: int, shared: Sequence[int] = ()) -> list[int]:
        """Hold `shared` once more and take `num_new` others; give all, in this order."""
        if not self.can_take(num_new, shared):
            raise MemoryError(f"no {num_new} blocks to be had")
        for block in shared:
            self._cached.pop(block, None)
            self._num_holders[block] = self._num_holders.get(block, 0) + 1
        return [*shared, *(self._take_one() for _ in range(num_new))]

    def name(self, block: int, name: ChainHash) -> None:
        """Let a finished block be found by `name`. The first block of a name stays the one."""
        if name not in self._block_of and block not in self._name_of:
            self._block_of[name] = block
            self._name_of[block] = name

    def give_back(self, blocks: Sequence[int], *, forget: bool = False) -> None:
        """Let go of held blocks; with `forget` they are not found any more."""
        for block in reversed(blocks):  # so that of a row's prefix the end is evicted first
            if forget:
                self._forget(block)
            self._num_holders[block] -= 1
            if not self._num_holders[block]:
                del self._num_holders[block]
                self._rest(block)

    def check(self) -> None:
        """Raise `AssertionError` if the accounts do not add up."""
        used, cached, free = set(self._num_holders), set(self._cached), set(self._free)
        if len(used) + len(cached) + len(self._free) != self.num_blocks:
            raise AssertionError(f"{used=} + {cached=} + {free=} is not {self.num_blocks}")
        if used & cached or used & free or cached & free:
            raise AssertionError("a block is in two states")
        if not cached <= set(self._name_of):
            raise AssertionError("a cached block has no name")
        if {name: block for block, name in self._name_of.items()} != self._block_of:
            raise AssertionError("names and blocks differ")

    def _take_one(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._num_holders[block] = 1
        return block

    def _rest(self, block: int) -> None:
        if block in self._name_of:
            self._cached[block] = None
        else:
            self._free.append(block)

    def _forget(self, block: int) -> None:
        name = self._name_of.pop(block, None)
        if name is not None:
            del self._block_of[name]
