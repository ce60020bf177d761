"""Continuations of one prompt as a trie, so that what they share is computed once.

Pure Python. Only nodes with children are computed: a last token's own successors are not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ROOT = 0  # the end of the prompt; it is a node, but no token of its own


@dataclass(slots=True)
class Node:
    """One token of one or more continuations; the root stands for the prompt's last token."""

    token: int
    depth: int  # the root's is 0
    parent: int | None
    children: dict[int, int] = field(default_factory=dict)  # token -> node
    logprob: float | None = None


class Trie:
    """The continuations of one Score row.

    `inner` lists the nodes to compute, parents before their children; a node's place there is also
    its place in key/value memory, right after the prompt.
    """

    def __init__(self, continuations: Sequence[Sequence[int]]) -> None:
        self.nodes = [Node(token=-1, depth=0, parent=None)]
        self.leaves = [self._add(tokens) for tokens in continuations]
        self.inner = [i for i in range(1, len(self.nodes)) if self.nodes[i].children]
        self._place = {node: place for place, node in enumerate(self.inner)}

    @property
    def depth(self) -> int:
        """Tokens of the longest continuation."""
        return max(node.depth for node in self.nodes)

    def ancestors(self, node: int) -> list[int]:
        """Give the places in `inner` that a node attends to, its own included."""
        places: list[int] = []
        at: int | None = node
        while at is not None and at != ROOT:
            places.append(self._place[at])
            at = self.nodes[at].parent
        return places

    def children(self, node: int) -> list[int]:
        """Give the tokens whose log-likelihood after `node` is wanted."""
        return list(self.nodes[node].children)

    def put(self, node: int, logprobs: Sequence[float]) -> None:
        """Note the log-likelihoods of a node's children, in the order of `children`."""
        for child, logprob in zip(self.nodes[node].children.values(), logprobs, strict=True):
            self.nodes[child].logprob = logprob

    def scores(self) -> tuple[tuple[float, ...], ...]:
        """Give the log-likelihood of each token of each continuation."""
        return tuple(self._path(leaf) for leaf in self.leaves)

    def _add(self, tokens: Sequence[int]) -> int:
        at = ROOT
        for token in tokens:
            child = self.nodes[at].children.get(token)
            if child is None:
                child = len(self.nodes)
                self.nodes.append(Node(token, self.nodes[at].depth + 1, at))
                self.nodes[at].children[token] = child
            at = child
        return at

    def _path(self, leaf: int) -> tuple[float, ...]:
        path: list[float] = []
        at: int | None = leaf
        while at is not None and at != ROOT:
            logprob = self.nodes[at].logprob
            if logprob is None:
                raise AssertionError("a token was not scored")
            path.append(logprob)
            at = self.nodes[at].parent
        return tuple(reversed(path))
