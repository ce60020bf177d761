"""How much a party was served, in weighted tokens: what fairness is measured by. Pure Python."""

from __future__ import annotations


class Share:
    """One party's counter: a tenant's, one of its adapters' (the base is one), or of all."""

    __slots__ = ("now", "num_rows", "parent", "served")

    def __init__(self, parent: Share | None = None) -> None:
        self.parent = parent
        self.served = 0
        self.now = 0  # how much the last that was chosen below this one had been served
        self.num_rows = 0  # waiting or running

    def charge(self, tokens: int) -> None:
        """Note that tokens are computed for it, and so for those above."""
        self.served += tokens
        if self.parent is not None:
            self.parent.charge(tokens)

    def count(self, rows: int) -> None:
        """Note that rows came or, below zero, left."""
        self.num_rows += rows
        if self.parent is not None:
            self.parent.count(rows)

    def choose(self) -> None:
        """Note that it was chosen."""
        if self.parent is not None:
            self.parent.now = max(self.parent.now, self.served)
            self.parent.choose()
