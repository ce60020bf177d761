"""From what gRPC reports to one typed error, chosen by the server's reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import grpc
from google.protobuf.message import DecodeError

from loradock.client import _errors as errors
from loradock.v1 import rpc_status_pb2 as wire

Metadata = Iterable[tuple[str, str | bytes]]

ERROR_BY_REASON: dict[str, type[errors.LoradockError]] = {
    "INVALID_NAME": errors.InvalidRequest,
    "INVALID_FIELD": errors.InvalidRequest,
    "PROMPT_TOO_LONG": errors.PromptTooLong,
    "REQUEST_ID_REUSED": errors.RequestIdReused,
    "NOT_FOUND": errors.NotFound,
    "ALREADY_EXISTS": errors.AlreadyExists,
    "STALE_GENERATION": errors.StaleAlias,
    "STALE_ETAG": errors.Aborted,
    "VERSION_IMMUTABLE": errors.PreconditionFailed,
    "NOTHING_TO_ROLL_BACK": errors.PreconditionFailed,
    "ROLLOUT_RUNNING": errors.PreconditionFailed,
    "ROLLOUT_ENDED": errors.PreconditionFailed,
    "NOT_RESIDENT": errors.PreconditionFailed,
    "ADAPTER_PINNED": errors.PreconditionFailed,
    "ADAPTER_TOO_LARGE": errors.PreconditionFailed,
    "NO_ENGINE": errors.PreconditionFailed,
    "NO_REGISTRY": errors.PreconditionFailed,
    "CATALOG_ANSWERS": errors.PreconditionFailed,
    "NOT_ADMITTED": errors.NotAdmitted,
    "BASE_MODEL_MISMATCH": errors.BaseModelMismatch,
    "EVAL_GATE_FAILED": errors.EvalGateFailed,
    "VERSION_YANKED": errors.VersionYanked,
    "STILL_REFERENCED": errors.StillReferenced,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "PERMISSION_DENIED": errors.PermissionDenied,
    "ALIAS_PROTECTED": errors.PermissionDenied,
    "QUEUE_FULL": errors.ResourceExhausted,
    "ADAPTER_MEMORY_FULL": errors.ResourceExhausted,
    "SLOW_READER": errors.ResourceExhausted,
    "UPLOAD_OFFSET": errors.Aborted,
    "DISK_FULL": errors.ResourceExhausted,
    "UPLOAD_TOO_LARGE": errors.MessageTooLarge,
    "MESSAGE_TOO_LARGE": errors.MessageTooLarge,
    "CHUNK_TOO_LARGE": errors.MessageTooLarge,
    "ADAPTER_LOAD_FAILED": errors.AdapterLoadFailed,
    "CATALOG_UNAVAILABLE": errors.Unavailable,
    "STORE_UNAVAILABLE": errors.Unavailable,
    "DRAINING": errors.Unavailable,
    "ENGINE_STOPPED": errors.Unavailable,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "CANCELLED": errors.Cancelled,
    "DIGEST_MISMATCH": errors.DataLoss,
    "ENGINE_FAILED": errors.ServerError,
    "INTERNAL": errors.ServerError,
}

_ERROR_BY_CODE: dict[grpc.StatusCode, type[errors.LoradockError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.ABORTED: errors.Aborted,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PreconditionFailed,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.DATA_LOSS: errors.DataLoss,
}

_TOO_LARGE = re.compile(r"(Sent|Received) message larger than max \((\d+) vs\.? (\d+)\)")
_BROKEN = "Internal error from Core"  # grpc.aio's word for a connection lost while it sent
_PIECES_INSTEAD = (
    "send a shorter prompt or fewer items in one call; weights go up in chunks by "
    "`versions.push` (client side: `Client(max_message_bytes=…)`)"
)


@dataclass(slots=True)
class _Details:
    """What came beside code and text."""

    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None
    problems: list[errors.Problem] = field(default_factory=list)
    request_id: str = ""


def error_of(failure: grpc.RpcError, request_id: str) -> errors.LoradockError:
    """Give the typed error for a failed call that was sent with `request_id`."""
    code, text = failure.code(), failure.details() or ""
    details = _details_of(cast(Metadata, failure.trailing_metadata() or ()))
    too_large = _TOO_LARGE.search(text)
    if not details.reason and code is grpc.StatusCode.RESOURCE_EXHAUSTED and too_large:
        return _too_large(too_large, request_id)
    if not details.reason and text == _BROKEN:
        code, text = grpc.StatusCode.UNAVAILABLE, "the connection broke while the request was sent"
    kind = ERROR_BY_REASON.get(details.reason) or _ERROR_BY_CODE.get(code, errors.ServerError)
    return kind(
        text or code.name,
        reason=details.reason or code.name,
        metadata=details.metadata,
        request_id=details.request_id or details.metadata.get("request_id", "") or request_id,
        retry_after_s=details.retry_after_s,
        problems=details.problems,
    )


def _too_large(match: re.Match[str], request_id: str) -> errors.MessageTooLarge:
    direction, size, limit = match.groups()
    what = "request" if direction == "Sent" else "message"
    return errors.MessageTooLarge(
        f"the {what} has {size} bytes, over the limit of {limit}: {_PIECES_INSTEAD}",
        reason="MESSAGE_TOO_LARGE",
        metadata={"size_bytes": size, "limit_bytes": limit},
        request_id=request_id,
    )


def _details_of(metadata: Metadata) -> _Details:
    details = _Details()
    for key, value in metadata:
        if key == "x-request-id" and isinstance(value, str):
            details.request_id = value
        elif key == "grpc-status-details-bin" and isinstance(value, bytes):
            _read_status(value, details)
    return details


def _read_status(content: bytes, details: _Details) -> None:
    try:
        status = wire.RpcStatus.FromString(content)
        for packed in status.details:
            _read_detail(packed.type_url.rpartition("/")[2], packed.value, details)
    except DecodeError:
        return  # a proxy's own bytes: code and text still stand


def _read_detail(kind: str, content: bytes, details: _Details) -> None:
    if kind == "google.rpc.ErrorInfo":
        info = wire.RpcErrorInfo.FromString(content)
        details.reason, details.metadata = info.reason, dict(info.metadata)
    elif kind == "google.rpc.RetryInfo":
        delay = wire.RpcRetryInfo.FromString(content).retry_delay
        details.retry_after_s = delay.seconds + delay.nanos / 1e9
    elif kind == "google.rpc.BadRequest":
        for field_violation in wire.RpcBadRequest.FromString(content).field_violations:
            details.problems.append(
                errors.Problem(
                    field_violation.field, field_violation.reason, field_violation.description
                )
            )
    elif kind == "google.rpc.PreconditionFailure":
        for violation in wire.RpcPreconditionFailure.FromString(content).violations:
            details.problems.append(
                errors.Problem(violation.subject, violation.type, violation.description)
            )
