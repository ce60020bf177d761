"""Torch's threads, kept off the cores while decoders compute on threads of their own.

OpenMP's threads spin after each operation, on the step thread and where adapters are loaded. How
many there are is one setting of the process, however many engines it has.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class TorchThreads:
    """How many threads torch has, and who holds it back to one. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_holders = 0
        self._number = 0  # while it is held back: what it has otherwise

    def get(self) -> int:
        """Give how many it has while nobody holds it back."""
        with self._lock:
            return self._number if self._num_holders else torch.get_num_threads()

    def set(self, number: int) -> None:
        """Let it have so many, once nobody holds it back."""
        with self._lock:
            self._number = number
            if not self._num_holders:
                torch.set_num_threads(number)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Hold it back to one thread, here and on threads that begin meanwhile."""
        with self._lock:
            if not self._num_holders:
                self._number = torch.get_num_threads()
            self._num_holders += 1
            torch.set_num_threads(1)
        try:
            yield
        finally:
            with self._lock:
                self._num_holders -= 1
                if not self._num_holders:
                    torch.set_num_threads(self._number)


TORCH_THREADS = TorchThreads()
