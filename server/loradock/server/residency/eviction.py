"""Which of the idle versions goes first: what is cheap to bring back, rarely asked for, and old.

Greedy-Dual-Size-Frequency (L. Cherkasova, HP Laboratories report HPL-98-69R1, 1998), which adds
popularity to GreedyDual-Size (P. Cao and S. Irani, USITS 1997), which adds size to GreedyDual
(N. Young, 1991).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Worth:
    """What one version is worth keeping for."""

    load_s: float = 0.0  # what it takes to bring it back
    size_bytes: int = 1
    num_uses: int = 0
    credit: float = 0.0


class GreedyDual:
    """Gives credit: a level, and on top of it uses x load time / size.

    What goes lifts the level to its own credit. Whoever is used afterwards starts from there, so
    that a credit fades without a clock unless it is renewed.
    """

    def __init__(self) -> None:
        self._level = 0.0

    def used(self, worth: Worth) -> None:
        """Renew the credit of what was asked for."""
        worth.num_uses += 1
        self.renew(worth)

    def renew(self, worth: Worth) -> None:
        """Give credit again, where cost or size have become known."""
        value = worth.num_uses * worth.load_s / max(worth.size_bytes, 1)
        worth.credit = self._level + value

    def let_go(self, worth: Worth) -> None:
        """Note what went; its popularity is forgotten with it."""
        self._level = max(self._level, worth.credit)
        worth.num_uses = 0
