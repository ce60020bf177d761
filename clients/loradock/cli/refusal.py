"""What a command itself refuses, and the exit codes. Imports nothing, so that `--help` is quick."""

from __future__ import annotations

GENERIC, USAGE, NOT_FOUND, AUTH, CONFLICT, PRECONDITION, INTEGRITY, UNAVAILABLE = range(1, 9)
INTERRUPTED = 130


class CommandError(Exception):
    """A sentence on what is wrong, and one on what to do."""

    def __init__(self, message: str, hint: str = "", exit_code: int = USAGE) -> None:
        self.hint, self.exit_code = hint, exit_code
        super().__init__(message)
