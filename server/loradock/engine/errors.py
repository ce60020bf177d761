"""What can go wrong in an engine.

EngineError
├── BaseError        the base can't be loaded
├── AdapterError     an adapter's tensors don't fit the base
├── OutOfMemory      an adapter does not fit into this host's memory now
├── NotResident      work names an adapter that isn't resident
├── BadWork          work that makes no sense: an empty prompt, an unknown token
├── EngineStopped    the engine failed as a whole and takes no more work
└── TooLong          a prompt, with what it asks for, exceeds the context or the key/value memory
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that an engine raises to its server."""


class BaseError(EngineError):
    """The base model can't be loaded; the message says what to change."""


class AdapterError(EngineError):
    """An adapter does not fit. `problems` lists everything that is wrong with it."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class OutOfMemory(EngineError):
    """There is no memory for one more adapter; what is resident is as it was."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        super().__init__(
            f"this host has no memory left for an adapter of {size_bytes} bytes: lower "
            "max_adapter_bytes"
        )


class NotResident(EngineError):
    """Work names an adapter that is not resident."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        super().__init__(f"adapter {digest} is not resident")


class TooLong(EngineError):
    """A request can never fit."""

    def __init__(self, prompt_tokens: int, max_tokens: int, limit_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.limit_tokens = limit_tokens
        super().__init__(
            f"the prompt has {prompt_tokens} tokens and asks for up to {max_tokens} more; "
            f"this base holds {limit_tokens} in all"
        )


class BadWork(EngineError):
    """Work that makes no sense: an empty prompt, a token that the base does not have."""


class EngineStopped(EngineError):
    """The engine failed as a whole, or was closed, and takes no more work."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"this server's engine has stopped: {why}")
