"""What the engine is meant to reach, as ratios within one run, beside what it has reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Rates = Mapping[tuple[str, str], float]  # (cell, arm) -> output tokens/s
OURS = "loradock"
BASES = {"bfloat16": "no adapter", "float32": "float32, no adapter"}
CENTRE = "16 adapters (centre)"
PEERS = ("transformers", "openvino", "vllm", "llamacpp")
HEAD = ("what", "at least", "reached")


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio of two figures."""

    what: str
    wanted: float
    reached: float

    def row(self) -> list[str]:
        """Give its line of the table."""
        return [self.what, f"{self.wanted:g}", f"{self.reached:.2f}"]


def targets(rates: Rates, shares: Mapping[str, float]) -> Iterator[Target]:
    """Compare what was measured in one run; a target whose figures are not there is left out."""
    for dtype, cell in BASES.items():
        yield from _of_the_base(rates, dtype, cell)
    for peer, wanted in (("vllm", 6.0), ("peft_mixed", 6.0), ("openvino", 5.0)):
        what = f"16 adapters, bfloat16, against {peer}"
        yield from _ratio(rates, what, wanted, (CENTRE, OURS), (CENTRE, peer))
    for different, wanted in ((4, 0.92), (8, 0.85), (16, 0.7)):
        cell = "all different" if different == 16 else f"{different} different"
        what = f"{different} different adapters in 16 rows, against the bare base"
        yield from _ratio(rates, what, wanted, (cell, OURS), (BASES["bfloat16"], OURS))
    for cell, wanted in ((BASES["bfloat16"], 0.3), (CENTRE, 0.25)):
        if cell in shares:
            yield Target(f"share of the machine's limit: {cell}", wanted, shares[cell])
    one = "1 caller, {}"
    what = "one caller, tokens/s with an adapter against without (1.15 x the time)"
    with_one, without = one.format("1 adapter"), one.format("no adapter")
    yield from _ratio(rates, what, round(1 / 1.15, 2), (with_one, OURS), (without, OURS))


def _of_the_base(rates: Rates, dtype: str, cell: str) -> Iterator[Target]:
    there = [peer for peer in PEERS if (cell, peer) in rates]
    if there:
        best = max(there, key=lambda peer: rates[cell, peer])
        what = f"base only, {dtype}, against the best peer ({best})"
        yield from _ratio(rates, what, 1.0, (cell, OURS), (cell, best))
    what = f"base only, {dtype}, against transformers in batches of 16"
    yield from _ratio(rates, what, 2.5, (cell, OURS), (cell, "transformers"))


def _ratio(
    rates: Rates, what: str, wanted: float, one: tuple[str, str], other: tuple[str, str]
) -> Iterator[Target]:
    if one in rates and other in rates:
        yield Target(what, wanted, rates[one] / rates[other])
