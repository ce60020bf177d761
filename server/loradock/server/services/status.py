"""How an exception looks on the wire: the one table, and what is made of a row of it.

Every error carries exactly one ErrorInfo. docs/errors.md says the same table in prose; a test holds
the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from loradock.engine import errors as engine
from loradock.registry import errors as registry
from loradock.server import errors as server

DOMAIN = "loradock.v1"
MAX_TRAILER_BYTES = 6 * 1024  # stock clients take 8 KiB of trailers
MAX_TEXT_CHARS = 1000
MAX_VALUE_CHARS = 500

Detail = message.Message
Code = grpc.StatusCode


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what is sent for one kind of exception."""

    code: grpc.StatusCode
    reason: str
    metadata: tuple[str, ...] = ()  # attributes of the exception, as `name` or `key=name`
    details: Callable[[Any], Iterable[Detail]] = lambda error: ()
    retry_after_s: float | None = None


def _problems(error: registry.NotAdmitted) -> Iterable[Detail]:
    violations = [
        error_details_pb2.PreconditionFailure.Violation(
            type=p.code, subject=_cut(p.subject, 200), description=_cut(p.message, 300)
        )
        for p in error.problems
    ]
    yield error_details_pb2.PreconditionFailure(violations=violations)


def _unmet(error: registry.EvalGateFailed) -> Iterable[Detail]:
    violations = [
        error_details_pb2.PreconditionFailure.Violation(
            type=check.code, subject=_cut(check.subject, 200), description=_cut(check.message, 300)
        )
        for check in error.failures
    ]
    yield error_details_pb2.PreconditionFailure(violations=violations)


def _bad_name(error: registry.InvalidName) -> Iterable[Detail]:
    yield _bad_request(error.kind, error.rule, "INVALID_NAME")


def _bad_field(error: registry.InvalidArgument) -> Iterable[Detail]:
    yield _bad_request(error.field, error.reason, "INVALID_FIELD")


def _bad_request(field: str, description: str, reason: str) -> Detail:
    request: Detail = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=field, description=_cut(description, MAX_VALUE_CHARS), reason=reason
            )
        ]
    )
    return request


def _resource(error: registry.NotFound | registry.AlreadyExists) -> Iterable[Detail]:
    yield error_details_pb2.ResourceInfo(
        resource_type=error.kind, resource_name=_cut(error.name, MAX_VALUE_CHARS)
    )


TABLE: Mapping[type[Exception], Row] = {
    registry.InvalidName: Row(
        Code.INVALID_ARGUMENT, "INVALID_NAME", ("kind", "name", "rule"), _bad_name
    ),
    registry.InvalidArgument: Row(
        Code.INVALID_ARGUMENT, "INVALID_FIELD", ("field", "reason"), _bad_field
    ),
    registry.NotFound: Row(Code.NOT_FOUND, "NOT_FOUND", ("kind", "name"), _resource),
    registry.AlreadyExists: Row(Code.ALREADY_EXISTS, "ALREADY_EXISTS", ("kind", "name"), _resource),
    registry.StaleGeneration: Row(
        Code.ABORTED, "STALE_GENERATION", ("alias", "expected", "actual")
    ),
    registry.Immutable: Row(Code.FAILED_PRECONDITION, "VERSION_IMMUTABLE", ("what",)),
    registry.VersionYanked: Row(Code.FAILED_PRECONDITION, "VERSION_YANKED", ("version", "reason")),
    registry.StillReferenced: Row(
        Code.FAILED_PRECONDITION, "STILL_REFERENCED", ("what", "referrers")
    ),
    registry.AliasProtected: Row(Code.PERMISSION_DENIED, "ALIAS_PROTECTED", ("alias",)),
    registry.NothingToRollBack: Row(Code.FAILED_PRECONDITION, "NOTHING_TO_ROLL_BACK", ("alias",)),
    registry.RolloutRunning: Row(
        Code.FAILED_PRECONDITION, "ROLLOUT_RUNNING", ("alias", "candidate")
    ),
    registry.RolloutEnded: Row(
        Code.FAILED_PRECONDITION, "ROLLOUT_ENDED", ("alias", "state", "reason")
    ),
    registry.EvalGateFailed: Row(
        Code.FAILED_PRECONDITION, "EVAL_GATE_FAILED", ("version", "alias", "passed"), _unmet
    ),
    registry.RequestReused: Row(
        Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED", ("reused_id=request_id",)
    ),
    registry.NotAdmitted: Row(Code.FAILED_PRECONDITION, "NOT_ADMITTED", (), _problems),
    registry.BaseMismatch: Row(Code.FAILED_PRECONDITION, "BASE_MODEL_MISMATCH", (), _problems),
    registry.DigestMismatch: Row(Code.DATA_LOSS, "DIGEST_MISMATCH", ("expected", "actual")),
    registry.UploadOffset: Row(
        Code.ABORTED, "UPLOAD_OFFSET", ("offset_bytes", "committed_bytes"), retry_after_s=0.1
    ),
    registry.DiskFull: Row(Code.RESOURCE_EXHAUSTED, "DISK_FULL", ("where", "cause")),
    registry.UploadTooLarge: Row(
        Code.RESOURCE_EXHAUSTED, "UPLOAD_TOO_LARGE", ("what", "size_bytes", "limit_bytes")
    ),
    registry.CatalogUnavailable: Row(Code.UNAVAILABLE, "CATALOG_UNAVAILABLE", retry_after_s=1.0),
    registry.UnknownSchema: Row(Code.UNAVAILABLE, "CATALOG_UNAVAILABLE", retry_after_s=5.0),
    registry.StoreUnavailable: Row(Code.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after_s=1.0),
    engine.TooLong: Row(
        Code.INVALID_ARGUMENT,
        "PROMPT_TOO_LONG",
        ("prompt_tokens", "max_tokens", "limit_tokens"),
    ),
    engine.EngineStopped: Row(Code.UNAVAILABLE, "ENGINE_STOPPED", ("why",)),
    engine.EngineError: Row(Code.INTERNAL, "ENGINE_FAILED"),
    server.EngineFailed: Row(Code.INTERNAL, "ENGINE_FAILED", ("cause",)),
    server.Unauthenticated: Row(Code.UNAUTHENTICATED, "UNAUTHENTICATED"),
    server.PermissionDenied: Row(Code.PERMISSION_DENIED, "PERMISSION_DENIED", ("role",)),
    server.MessageTooLarge: Row(
        Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", ("what", "size_bytes", "limit_bytes")
    ),
    server.StaleEtag: Row(Code.ABORTED, "STALE_ETAG", ("name", "expected", "actual")),
    server.ChunkTooLarge: Row(
        Code.RESOURCE_EXHAUSTED, "CHUNK_TOO_LARGE", ("size_bytes", "limit_bytes")
    ),
    server.Draining: Row(Code.UNAVAILABLE, "DRAINING", retry_after_s=0.5),
    server.QueueFull: Row(Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", ("what", "num_taken", "limit")),
    server.WrongBase: Row(
        Code.FAILED_PRECONDITION, "BASE_MODEL_MISMATCH", ("version", "wanted", "served")
    ),
    server.AdapterMemoryFull: Row(
        Code.RESOURCE_EXHAUSTED,
        "ADAPTER_MEMORY_FULL",
        ("needed_bytes", "free_bytes", "budget_bytes"),
        retry_after_s=1.0,
    ),
    server.AdapterTooLarge: Row(
        Code.FAILED_PRECONDITION, "ADAPTER_TOO_LARGE", ("needed_bytes", "budget_bytes")
    ),
    server.AdapterPinned: Row(Code.FAILED_PRECONDITION, "ADAPTER_PINNED", ("digest",)),
    server.AdapterLoadFailed: Row(
        Code.UNAVAILABLE, "ADAPTER_LOAD_FAILED", ("digest", "cause"), retry_after_s=1.0
    ),
    server.NotResidentHere: Row(Code.FAILED_PRECONDITION, "NOT_RESIDENT", ("digest",)),
    server.NoEngine: Row(Code.FAILED_PRECONDITION, "NO_ENGINE"),
    server.NoRegistry: Row(Code.FAILED_PRECONDITION, "NO_REGISTRY"),
    server.CatalogAnswers: Row(Code.FAILED_PRECONDITION, "CATALOG_ANSWERS", ("alias",)),
    server.SlowReader: Row(Code.RESOURCE_EXHAUSTED, "SLOW_READER", ("limit_tokens",)),
    server.DeadlineExceeded: Row(Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", ("stage",)),
    server.Cancelled: Row(Code.CANCELLED, "CANCELLED"),
}

INTERNAL = Row(Code.INTERNAL, "INTERNAL")


def row_of(error: BaseException) -> Row:
    """Find the nearest row for an exception; INTERNAL for what is not in the table."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return INTERNAL


def status_of(error: BaseException, request_id: str) -> status_pb2.Status:
    """Build the status for an exception; nothing from inside leaves with an unmapped one."""
    row = row_of(error)
    text = str(error) if row is not INTERNAL else f"internal error; the log has {request_id}"
    info = error_details_pb2.ErrorInfo(
        reason=row.reason, domain=DOMAIN, metadata=_metadata(row, error, request_id)
    )
    extra = [*row.details(error), *_retry(row, error)]
    code: int = row.code.value[0]
    return _fitting(code, _cut(text or row.reason, MAX_TEXT_CHARS), info, extra)


def trailers_of(status: status_pb2.Status) -> tuple[tuple[str, str | bytes], ...]:
    """Give the trailing metadata that carries a status."""
    return tuple(rpc_status.to_status(status).trailing_metadata)


def _metadata(row: Row, error: BaseException, request_id: str) -> dict[str, str]:
    pairs = [(name.partition("=")[0], name.rpartition("=")[2]) for name in row.metadata]
    values = {key: _text(getattr(error, name)) for key, name in pairs}
    return {"request_id": request_id} | values


def _text(value: object) -> str:
    joined = ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return _cut(joined, MAX_VALUE_CHARS)


def _retry(row: Row, error: BaseException) -> Iterable[Detail]:
    seconds = getattr(error, "retry_after_s", row.retry_after_s)
    if seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(seconds * 1e9))
        yield error_details_pb2.RetryInfo(retry_delay=delay)


def _fitting(
    code: int, text: str, info: error_details_pb2.ErrorInfo, extra: Sequence[Detail]
) -> status_pb2.Status:
    """Pack the details, dropping the last violations (and saying how many) until they fit."""
    status = _packed(code, text, info, extra)
    dropped = 0
    while status.ByteSize() + len(text.encode()) > MAX_TRAILER_BYTES and _drop_violation(extra):
        dropped += 1
        info.metadata["num_problems_left_out"] = str(dropped)
        status = _packed(code, text, info, extra)
    return status


def _drop_violation(details: Sequence[Detail]) -> bool:
    for detail in details:
        if isinstance(detail, error_details_pb2.PreconditionFailure) and detail.violations:
            del detail.violations[-1]
            return True
    return False


def _packed(
    code: int, text: str, info: error_details_pb2.ErrorInfo, extra: Sequence[Detail]
) -> status_pb2.Status:
    packed = [any_pb2.Any() for _ in range(1 + len(extra))]
    for box, detail in zip(packed, (info, *extra), strict=True):
        box.Pack(detail)
    return status_pb2.Status(code=code, message=text, details=packed)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
