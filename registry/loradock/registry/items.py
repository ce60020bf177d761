"""What may be recorded of an evaluation's single items."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from loradock.registry.errors import InvalidArgument
from loradock.registry.names import check_text
from loradock.registry.resources import ItemScores, Metric

MAX_ID_CHARS = 128
_CLOSE = 1e-6  # values are often rounded before they are recorded


def check_items(items: ItemScores, metrics: Sequence[Metric], most: int) -> None:
    """Raise InvalidArgument, with all that is wrong, unless each metric is its scores' mean."""
    if not 0 < len(items.ids) <= most:
        raise InvalidArgument("items.ids", f"{len(items.ids)} is not in 1..{most}")
    for name in items.ids:
        if not name:
            raise InvalidArgument("items.ids", "an id is empty")
        check_text("items.ids", name, MAX_ID_CHARS)
    known = {metric.name: metric for metric in metrics}
    problems = [] if len(set(items.ids)) == len(items.ids) else ["an id is there twice"]
    problems += [] if items.scores else ["no metric has scores"]
    for name, scores in items.scores.items():
        problems += _problems(known.get(name), scores, len(items.ids), f"{name!r:.80}")
    if problems:
        raise InvalidArgument("items", "; ".join(problems))


def _problems(
    metric: Metric | None, scores: Sequence[float], num_ids: int, name: str
) -> Iterator[str]:
    if metric is None:
        yield f"{name} is not among the metrics"
    elif len(scores) != num_ids:
        yield f"{name} has {len(scores)} scores for {num_ids} ids"
    elif not all(map(math.isfinite, scores)):
        yield f"a score of {name} is not finite"
    elif metric.num_items != num_ids:
        yield f"{name} is of {metric.num_items} items, and has {num_ids} scores"
    elif not math.isclose(mean := fmean(scores), metric.value, rel_tol=_CLOSE, abs_tol=_CLOSE):
        yield f"the scores of {name} have the mean {mean:g}, not {metric.value:g}"
