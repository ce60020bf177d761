"""Progress on a terminal, and nothing off it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loradock.client import TransferProgress


@contextmanager
def transfer_progress() -> Iterator[Callable[[TransferProgress], None] | None]:
    """Show a bar for each file that is sent or fetched."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def show(told: TransferProgress) -> None:
            if told.file not in tasks:
                tasks[told.file] = bars.add_task(told.file, total=told.total_bytes)
            bars.update(tasks[told.file], completed=told.done_bytes)

        yield show


@contextmanager
def row_progress(what: str, num_rows: int) -> Iterator[Callable[[], None]]:
    """Show a bar that advances by one at each call."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=num_rows)
        yield lambda: bars.advance(task)


@contextmanager
def count_progress(what: str) -> Iterator[Callable[[int], None]]:
    """Show how many there were, of a number that nobody knows beforehand."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.completed:.0f} {task.description}")
    columns = (SpinnerColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda count: bars.update(task, completed=count)
