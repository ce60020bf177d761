"""What can go wrong with a call, as the caller sees it. A raw `grpc.RpcError` never leaves the SDK.

LoradockError                      has `reason`, `metadata`, `request_id`, `retry_after_s`
├── InvalidRequest                 the request itself can't be right; also a ValueError
│   ├── PromptTooLong              prompt and answer do not fit the context; the numbers are told
│   └── RequestIdReused            a request id came again with another payload
├── NotFound                       nothing of that name is here; `metadata` has kind and name
├── AlreadyExists                  the name is taken by something different
├── Aborted                        what you read has changed since: read again, decide again
│   └── StaleAlias                 somebody moved the alias first
├── PreconditionFailed             the state of things forbids it
│   ├── NotAdmitted                an upload that can't be served; `problems` lists everything
│   │   └── BaseModelMismatch      it was made for another base
│   ├── EvalGateFailed             a version does not meet an alias's policy; see `problems`
│   ├── VersionYanked              the version is auditable, but not resolvable
│   └── StillReferenced            something points there; `metadata` has the referrers
├── Unauthenticated                no token, or one that is not known
├── PermissionDenied               the token's roles do not allow it
├── ResourceExhausted              no room now; `retry_after_s` says when to come again
│   └── MessageTooLarge            over a size limit, which is named
├── Unavailable                    nobody answers, or not now; safe calls were retried already
│   └── AdapterLoadFailed          the version could not be brought in
├── DeadlineExceeded               the deadline passed
├── Cancelled                      the caller or the server cancelled the call
├── DataLoss                       bytes do not hash to what was promised
├── ClientClosed                   the client was closed
└── ServerError                    a fault of the server; its log has the request id
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: with what, a stable code, and a sentence."""

    subject: str
    code: str
    message: str


class LoradockError(Exception):
    """Base of all; `except LoradockError` catches whatever a call can raise."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
        retry_after_s: float | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.problems = tuple(problems)
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]" if self.reason else self.message


class InvalidRequest(LoradockError, ValueError):
    """The request itself can't be right."""


class PromptTooLong(InvalidRequest):
    """Prompt and answer do not fit the context."""


class RequestIdReused(InvalidRequest):
    """A request id came again with another payload."""


class NotFound(LoradockError):
    """Nothing of that name is here."""


class AlreadyExists(LoradockError):
    """The name is taken by something different."""


class Aborted(LoradockError):
    """What was read has changed since: read again, decide again."""


class StaleAlias(Aborted):
    """Somebody moved the alias first."""


class PreconditionFailed(LoradockError):
    """The state of things forbids it."""


class NotAdmitted(PreconditionFailed):
    """An upload that can't be served; `problems` lists everything that is wrong with it."""


class BaseModelMismatch(NotAdmitted):
    """The adapter was made for another base."""


class EvalGateFailed(PreconditionFailed):
    """A version does not meet an alias's policy; `problems` lists every demand it misses."""


class VersionYanked(PreconditionFailed):
    """The version is auditable, but not resolvable."""


class StillReferenced(PreconditionFailed):
    """Something points at what should go."""


class Unauthenticated(LoradockError):
    """No token, or one that is not known."""


class PermissionDenied(LoradockError):
    """The token's roles do not allow it."""


class ResourceExhausted(LoradockError):
    """No room now; `retry_after_s` says when to come again."""


class MessageTooLarge(ResourceExhausted):
    """Over a size limit, which is named."""


class Unavailable(LoradockError):
    """Nobody answers, or not now."""


class AdapterLoadFailed(Unavailable):
    """The version could not be brought in."""


class DeadlineExceeded(LoradockError):
    """The deadline passed."""


class Cancelled(LoradockError):
    """The caller or the server cancelled the call."""


class DataLoss(LoradockError):
    """Bytes do not hash to what was promised."""


class ClientClosed(LoradockError):
    """The client was closed."""


class ServerError(LoradockError):
    """A fault of the server; its log has the request id."""
