"""What the server itself refuses. The registry's and the engine's errors pass through as they are.

ServerError
├── Unauthenticated        no token, or one that is not known
├── PermissionDenied       the caller's roles do not allow it
├── MessageTooLarge        a request or a response over the size limit
├── StaleEtag              an adapter was changed by somebody else first
├── ChunkTooLarge          a chunk of an upload over its limit
├── Draining               the server is stopping
├── QueueFull              as much waits as may wait
├── WrongBase              a version made for another base than this server runs
├── AdapterTooLarge        a version that does not fit even into empty memory
├── AdapterPinned          a version that shall be let go, but is pinned
├── AdapterMemoryFull      no room for one more resident version
├── AdapterLoadFailed      a version could not be brought in
├── NotResidentHere        an override names a version that is not resident
├── NoEngine               this process serves the registry only
├── NoRegistry             this process answers only; others have the registry
├── CatalogAnswers         an override while the catalog answers
├── EngineFailed           the engine gave up on a row
├── SlowReader             a stream's reader fell too far behind
├── DeadlineExceeded       the deadline passed
├── Cancelled              the caller went away, or the server stops
└── StartRefused           the server can't start as it is configured
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from loradock.engine.protocol import Failure

_FAILURES = {
    Failure.NOT_FINITE: "the model's output is no number, by a broken adapter or base",
    Failure.COMPUTE: "it could not be computed",
    Failure.MEMORY: "there was no memory for it",
    Failure.ENGINE: "the engine has stopped",
}


Stage = Literal["arrival", "load", "prompt", "queue", "batch", "stream"]  # of a request's way

_STAGES: Mapping[Stage, str] = {
    "arrival": "the request was read",
    "load": "its adapter was brought in",
    "prompt": "its prompt was made",
    "queue": "it waited for a place in the batch",
    "batch": "it was computed",
    "stream": "its answer was taken by the reader",
}


class ServerError(Exception):
    """Base of all errors of the server's own."""


class Unauthenticated(ServerError):
    """No token, or one that is not known."""

    def __init__(self) -> None:
        super().__init__("send `authorization: Bearer <token>`; this token is missing or not known")


class PermissionDenied(ServerError):
    """The caller's roles do not allow it."""

    def __init__(self, role: str) -> None:
        self.role = role
        super().__init__(f"this needs the role {role!r}")


class MessageTooLarge(ServerError):
    """A message is over the size limit."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int, instead: str) -> None:
        self.what, self.size_bytes, self.limit_bytes = what, size_bytes, limit_bytes
        super().__init__(
            f"the {what} has {size_bytes} bytes, over max_message_bytes = {limit_bytes}: {instead}"
        )


class StaleEtag(ServerError):
    """An adapter was changed by somebody else first."""

    def __init__(self, name: str, expected: str, actual: str) -> None:
        self.name, self.expected, self.actual = name, expected, actual
        super().__init__(
            f"adapter {name!r} has the etag {actual}, not {expected}: read it again and retry"
        )


class ChunkTooLarge(ServerError):
    """A chunk of an upload is over its limit."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes
        super().__init__(
            f"a chunk has {size_bytes} bytes; send chunks of at most {limit_bytes} bytes"
        )


class Draining(ServerError):
    """The server is stopping and takes nothing new."""

    def __init__(self) -> None:
        super().__init__("this server is stopping; ask again, another one answers")


class QueueFull(ServerError):
    """As much waits as may wait."""

    def __init__(
        self, num_taken: int, limit: int, what: str = "requests", retry_after_s: float = 1.0
    ) -> None:
        self.what, self.num_taken, self.limit = what, num_taken, limit
        self.retry_after_s = retry_after_s
        super().__init__(f"{num_taken} {what} run or wait, and {limit} is the limit")


class WrongBase(ServerError):
    """A version was made for another base than this server runs."""

    def __init__(self, version: str, wanted: str, served: str) -> None:
        self.version, self.wanted, self.served = version, wanted, served
        super().__init__(f"{version} was made for the base {wanted}; this server runs {served}")


class AdapterMemoryFull(ServerError):
    """Everything resident is in use, and one more version does not fit."""

    def __init__(self, needed_bytes: int, free_bytes: int, budget_bytes: int) -> None:
        self.needed_bytes, self.free_bytes = needed_bytes, free_bytes
        self.budget_bytes = budget_bytes
        super().__init__(
            f"the version needs {needed_bytes} bytes; of max_adapter_bytes = {budget_bytes} "
            f"only {free_bytes} can be freed now"
        )


class AdapterTooLarge(ServerError):
    """A version does not fit even into empty memory."""

    def __init__(self, needed_bytes: int, budget_bytes: int) -> None:
        self.needed_bytes, self.budget_bytes = needed_bytes, budget_bytes
        super().__init__(
            f"the version needs {needed_bytes} bytes, over max_adapter_bytes = {budget_bytes}"
        )


class AdapterPinned(ServerError):
    """A version shall be let go, but is pinned."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        super().__init__(f"version {digest} is pinned on this server: unpin it first")


class AdapterLoadFailed(ServerError):
    """A version could not be brought in; it is tried again after a while."""

    def __init__(self, digest: str, cause: str, retry_after_s: float) -> None:
        self.digest, self.cause, self.retry_after_s = digest, cause, retry_after_s
        super().__init__(f"version {digest} could not be brought in: {cause}")


class NotResidentHere(ServerError):
    """An override names a version that this server does not hold."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        super().__init__(f"version {digest} is not resident on this server")


class NoEngine(ServerError):
    """The process serves the registry only."""

    def __init__(self) -> None:
        super().__init__("this process has the role registry only; ask a server that answers")


class NoRegistry(ServerError):
    """The process answers only."""

    def __init__(self) -> None:
        super().__init__("this server has no registry; ask one with the role registry")


class CatalogAnswers(ServerError):
    """An override is for the time when the catalog is down; it answers."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        super().__init__(f"the catalog answers: move {alias} by SetAlias or RollbackAlias")


class EngineFailed(ServerError):
    """The engine gave up on a row; the log says why."""

    def __init__(self, failure: Failure) -> None:
        self.cause = failure.value
        super().__init__(f"the engine failed on this request: {_FAILURES[failure]}")


class SlowReader(ServerError):
    """A stream's reader fell too far behind, and was cancelled."""

    def __init__(self, limit_tokens: int) -> None:
        self.limit_tokens = limit_tokens
        super().__init__(f"more than {limit_tokens} tokens waited for this stream's reader")


class DeadlineExceeded(ServerError):
    """The deadline passed; `stage` says during what."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        super().__init__(f"the deadline passed while {_STAGES[stage]}")


class Cancelled(ServerError):
    """The caller went away, or the server stops."""

    def __init__(self) -> None:
        super().__init__("the call was cancelled")


class StartRefused(ServerError):
    """The server can't start as it is configured; the message says what to change."""
