"""What a soak has shown: its figures, its verdict and its picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from soak_traffic import Seen

WARM_UP = 0.3  # of the time: until whatever is kept has been used once
SLACK_MB = 24.0  # of memory that may come and go
SLACK_THREADS, SLACK_FILES = 8, 24  # pools and connections that grow when they are needed


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server's process takes at one moment."""

    at_s: float
    rss_mb: float
    num_threads: int
    num_files: int


def read_sample(pid: int, at_s: float) -> Sample:
    """Look at a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    rss_mb = int(status["VmRSS"].split()[0]) / 1024
    return Sample(round(at_s, 2), round(rss_mb, 1), int(status["Threads"]), files)


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through memory over time, with its standard error."""

    mb_per_h: float
    error_mb_per_h: float


def slope_of(samples: Sequence[Sample]) -> Slope:
    """Fit a line by least squares; its error counts neighbours as one, since they are alike."""
    x = np.array([sample.at_s / 3600 for sample in samples])
    y = np.array([sample.rss_mb for sample in samples])
    if len(x) < 8:
        return Slope(0.0, math.inf)
    spread = x - x.mean()
    slope = float((spread * y).sum() / (spread**2).sum())
    rest = y - y.mean() - slope * spread
    likeness = float((rest[1:] * rest[:-1]).sum() / max((rest**2).sum(), 1e-9))
    num_free = max(len(x) * (1 - likeness) / (1 + likeness), 3.0) - 2
    error = math.sqrt(float((rest**2).mean()) * len(x) / num_free / float((spread**2).sum()))
    return Slope(slope, error)


@dataclass(frozen=True, slots=True)
class Report:
    """One soak."""

    machine: str
    seconds: float
    seed: int
    num_wrong: int
    seen: Seen

    @property
    def steady(self) -> list[Sample]:
        """The samples after the warm-up."""
        return [s for s in self.seen.samples if s.at_s >= WARM_UP * self.seconds]

    @property
    def slope(self) -> Slope:
        """How memory went after the warm-up."""
        return slope_of(self.steady)

    @property
    def problems(self) -> list[str]:
        """Say what must not be, a sentence each."""
        steady, last = self.steady, self.seen.samples[-1]
        early = steady[: max(len(steady) // 4, 1)]
        grown_mb = last.rss_mb - max(sample.rss_mb for sample in early)
        threads = last.num_threads - max(sample.num_threads for sample in early)
        files = last.num_files - max(sample.num_files for sample in early)
        found = {
            f"{self.num_wrong} answers are not what their version says": self.num_wrong,
            f"calls failed for no reason that is known: {dict(self.seen.unexplained)}": sum(
                self.seen.unexplained.values()
            ),
            f"left at the end: {'; '.join(self.seen.left)}": len(self.seen.left),
            f"memory grew by {grown_mb:.0f} MB": grown_mb > SLACK_MB and self._is_growing,
            f"{threads} threads more than after the warm-up": threads > SLACK_THREADS,
            f"{files} files more than after the warm-up": files > SLACK_FILES,
        }
        return [problem for problem, is_one in found.items() if is_one]

    @property
    def _is_growing(self) -> bool:
        return self.slope.mb_per_h > 2 * self.slope.error_mb_per_h

    @property
    def record(self) -> dict[str, Any]:
        """Give everything but the answers."""
        seen = self.seen
        return {
            "machine": self.machine,
            "seconds": self.seconds,
            "seed": self.seed,
            "answers": len(seen.answers),
            "wrong": self.num_wrong,
            "calls": dict(seen.calls),
            "refusals": dict(seen.refusals),
            "unexplained": dict(seen.unexplained),
            "faults": dict(seen.faults),
            "left": seen.left,
            "slope": asdict(self.slope),
            "problems": self.problems,
            "samples": [[s.at_s, s.rss_mb, s.num_threads, s.num_files] for s in seen.samples],
        }


def rows(report: Report) -> list[list[str]]:
    """Give the table's rows."""
    seen, steady, slope = report.seen, report.steady, report.slope
    first, last = steady[0], seen.samples[-1]
    figures = {
        "seconds": f"{report.seconds:.0f}",
        "calls": f"{sum(seen.calls.values())}",
        "whole answers, each compared": f"{len(seen.answers)}",
        "wrong answers": f"{report.num_wrong}",
        "network faults": f"{sum(seen.faults.values())}",
        "calls refused for a known reason": f"{sum(seen.refusals.values())}",
        "calls that failed for no known reason": f"{sum(seen.unexplained.values())}",
        "alias moves": f"{seen.calls['move']}",
        "leases and rows left at the end": "0" if not seen.left else "; ".join(seen.left),
        "MB after the warm-up, at the end": f"{first.rss_mb:.0f}, {last.rss_mb:.0f}",
        "MB an hour, ± standard error": f"{slope.mb_per_h:.1f} ± {slope.error_mb_per_h:.1f}",
        "threads after the warm-up, at the end": f"{first.num_threads}, {last.num_threads}",
        "open files after the warm-up, at the end": f"{first.num_files}, {last.num_files}",
    }
    return [[name, figure] for name, figure in figures.items()]


def draw(report: Report, path: Path) -> None:
    """Draw memory over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    minutes = [sample.at_s / 60 for sample in report.seen.samples]
    axes.plot(minutes, [sample.rss_mb for sample in report.seen.samples], linewidth=1)
    axes.axvspan(0, WARM_UP * report.seconds / 60, alpha=0.1, label="warm-up")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes of mixed traffic with faults")
    axes.set_ylabel("MB resident")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
