"""Counts what each arm of a split does on one server; heartbeats tell it, guards see the fleet."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from loradock.registry.arm_counts import ArmCounts, ArmTally
from loradock.registry.split import Arm
from loradock.server.aliases.live import LiveSplit
from loradock.server.answering.progress import Progress
from loradock.server.errors import Cancelled, SlowReader
from loradock.server.services.call import Call

MAX_STAGES = 64  # of which counts are kept; a stage that is over counts no more


class Share(Protocol):
    """Which arm, of which split, a request is of; of none, nothing is counted."""

    @property
    def generation(self) -> int | None: ...  # of the alias

    @property
    def arm(self) -> Arm | None: ...

    @property
    def split(self) -> LiveSplit | None: ...


_Key = tuple[str, int, Arm]  # rollout, generation, arm


class ArmTraffic:
    """The counts of one server process. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._counts: dict[_Key, ArmCounts] = {}
        self._untold: set[_Key] = set()

    @contextmanager
    def count(self, share: Share, progress: Progress, call: Call) -> Iterator[None]:
        """Count what surrounds, if it is of a split: it ends well, or fails, or its caller left."""
        failed: bool | None = False
        try:
            yield
        except (Cancelled, SlowReader):
            failed = None
            raise
        except (asyncio.CancelledError, GeneratorExit):
            failed = True if call.remaining_s <= 0 else None
            raise
        except Exception:
            failed = True
            raise
        finally:
            if failed is not None:
                self._add_call(share, progress, call, failed)

    def _add_call(self, share: Share, progress: Progress, call: Call, failed: bool) -> None:
        if share.split is None or share.arm is None:
            return
        done_at = progress.last_token_at
        seconds = call.elapsed_s if done_at is None else done_at - call.started
        self.counts(share, share.arm).add_call(seconds, failed=failed)

    def counts(self, share: Share, arm: Arm) -> ArmCounts:
        """Give an arm's counters, to be added to now."""
        assert share.split is not None and share.generation is not None
        key = share.split.split.salt, share.generation, arm
        if key not in self._counts:
            self._forget_oldest()
            self._counts[key] = ArmCounts()
        self._untold.add(key)
        return self._counts[key]

    @property
    def has_untold(self) -> bool:
        """Whether something changed since it was last told."""
        return bool(self._untold)

    def take_untold(self) -> tuple[ArmTally, ...]:
        """Give what changed since it was last told, as it is now."""
        untold, self._untold = self._untold, set()
        return tuple(ArmTally(*key, copy.deepcopy(self._counts[key])) for key in untold)

    def was_not_told(self, tallies: Sequence[ArmTally]) -> None:
        """Tell it again the next time."""
        keys = ((tally.rollout_id, tally.generation, tally.arm) for tally in tallies)
        self._untold.update(key for key in keys if key in self._counts)

    def _forget_oldest(self) -> None:
        while len(self._counts) >= MAX_STAGES * len(Arm):
            oldest = next(iter(self._counts))
            del self._counts[oldest]
            self._untold.discard(oldest)
