"""What went wrong, as a person at a terminal is told: what, what next, and an exit code.

Commands contain no `try`; every error comes here.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

from loradock.cli.refusal import (
    AUTH,
    CONFLICT,
    GENERIC,
    INTEGRITY,
    NOT_FOUND,
    PRECONDITION,
    UNAVAILABLE,
    USAGE,
    CommandError,
)
from loradock.client import (
    Aborted,
    AlreadyExists,
    DataLoss,
    DeadlineExceeded,
    EvalGateFailed,
    InvalidRequest,
    LoradockError,
    MessageTooLarge,
    NotAdmitted,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RequestIdReused,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

# What Typer refuses a command line with, whichever Click it goes with.
UsageError: Any = typer.BadParameter.__bases__[0]

# The first that fits, so the narrower come first.
EXIT_CODES: tuple[tuple[type[LoradockError], int], ...] = (
    (RequestIdReused, CONFLICT),
    (InvalidRequest, USAGE),
    (NotFound, NOT_FOUND),
    (Unauthenticated, AUTH),
    (PermissionDenied, AUTH),
    (AlreadyExists, CONFLICT),
    (Aborted, CONFLICT),
    (PreconditionFailed, PRECONDITION),
    (DataLoss, INTEGRITY),
    (MessageTooLarge, GENERIC),
    (ResourceExhausted, UNAVAILABLE),
    (Unavailable, UNAVAILABLE),
    (DeadlineExceeded, UNAVAILABLE),
)

_HINTS = {
    "ALREADY_EXISTS": "choose another name, or look at what is there",
    "STALE_GENERATION": "somebody was first: see `loradock alias history`, or "
    "`loradock alias policy history`, and decide again",
    "STALE_ETAG": "somebody changed it: read it again, and decide again",
    "NOTHING_TO_ROLL_BACK": "see `loradock alias history`; move it with `loradock alias set`",
    "ROLLOUT_RUNNING": "see `loradock rollout status`",
    "ROLLOUT_ENDED": "see `loradock rollout status`; start another one",
    "VERSION_YANKED": "choose another version, or take it back with `loradock adapter unyank`",
    "EVAL_GATE_FAILED": "measure it (`loradock eval run`), or move it with --override and --reason",
    "STILL_REFERENCED": "move or delete what refers to it first: `loradock alias list`",
    "BASE_MODEL_MISMATCH": "see `loradock base list` for the bases that are known",
    "UNAUTHENTICATED": "give a token: --token-file, or LORADOCK_TOKEN in the environment",
    "ALIAS_PROTECTED": "ask one who has the role operate to move it, or to change its policy",
    "PERMISSION_DENIED": "ask for the role, or use a token that has it",
    "DEADLINE_EXCEEDED": "give it longer with --timeout",
    "UNAVAILABLE": "is a server there? name it with --address, or start one: `loradock serve`",
    "QUEUE_FULL": "the server is busy: try again in a moment",
    "ADAPTER_MEMORY_FULL": "let one go with `loradock server unload`, or try again in a moment",
    "ADAPTER_PINNED": "take the pin back first: `loradock server unpin`",
    "ADAPTER_TOO_LARGE": "the server needs a larger max_adapter_bytes to serve it",
    "DISK_FULL": "`loradock doctor` tells which disk is full; `loradock gc` makes room",
    "UPLOAD_OFFSET": "another upload of the same bytes is in the way: try again in a moment",
    "ADAPTER_LOAD_FAILED": "`loradock server status` tells why; if the registry's bytes are not as "
    "promised, `loradock verify` says so, and pushing the same files again mends them",
    "DIGEST_MISMATCH": "if the registry's own bytes are damaged, `loradock verify` says so, and "
    "pushing the same files again mends them",
    "REQUEST_ID_REUSED": "leave the request id out",
    "NOT_RESIDENT": "see `loradock server status` for what is resident",
    "NO_ENGINE": "ask a server with the role inference: `loradock server list`",
    "NO_REGISTRY": "name such a server with --address",
    "UNIMPLEMENTED": "the server is of another release: `loradock server status` tells which",
    "CATALOG_ANSWERS": "move it with `loradock alias set` or `loradock alias rollback`",
}
_NOT_SERVING = "a server is there, but takes no such requests now: see `loradock server status`"
_NO_HANDSHAKE = "does it speak TLS, by a certificate that is trusted here? --tls asks for that"
_FILES_DIFFER = "replace them with --overwrite"
_HINTS_BY_KIND = {
    "adapter": "see `loradock adapter list`",
    "version": "see `loradock adapter show`",
    "alias": "see `loradock adapter list`, and `loradock alias list` for an adapter's aliases",
    "base": "see `loradock base list`",
    "base model": "see `loradock base list`",
    "policy": "demand something with `loradock alias policy set`",
    "rollout": "see `loradock alias list`; start one with `loradock rollout start`",
    "lineage node": "nothing that was published came of it: is it the right file, or digest?",
    "project": "name another with --project, or LORADOCK_PROJECT in the environment",
}


def exit_code_of(error: Exception) -> int:
    """Give the exit code of an error."""
    if isinstance(error, CommandError):
        return error.exit_code
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), GENERIC)


def report(error: Exception, as_json: bool) -> int | None:
    """Tell an error on stderr and give its exit code; None if it is a fault of the CLI itself."""
    if isinstance(error, ImportError):
        error = _lacking(error)
    if type(error).__name__ == "NoArgsIsHelpError":  # which older ones do not raise
        print(error, file=sys.stderr)
        return USAGE
    if isinstance(error, UsageError | typer.Abort):
        error = _misread(error)
    if isinstance(error, UnicodeError):
        error = CommandError(f"what was given is not UTF-8: {error}")
    if not isinstance(error, CommandError | LoradockError | OSError):
        return None
    lines = [_as_json(error)] if as_json else _as_text(error)
    print(*lines, sep="\n", file=sys.stderr)
    return exit_code_of(error)


def _misread(error: Any) -> CommandError:  # noqa: ANN401 - of either Click
    """Tell in the CLI's own words what of a command line, or of an answer, can't be read."""
    if isinstance(error, typer.Abort):
        print(file=sys.stderr)  # the question's line
        return CommandError("nothing was done", exit_code=GENERIC)
    text = error.format_message().rstrip(".")
    if error.ctx is None:
        return CommandError(text[:1].lower() + text[1:])
    return CommandError(text[:1].lower() + text[1:], f"see `{error.ctx.command_path} --help`")


def _lacking(error: ImportError) -> Exception:
    """Tell how to install what a command of the server's host needs."""
    if (error.name or "").startswith(("loradock.cli", "loradock.client", "loradock.v1")):
        return error
    return CommandError(
        f"this command needs the server, which is not installed here ({error})",
        "install it: pip install 'loradock[server]'",
        GENERIC,
    )


def _as_text(error: Exception) -> list[str]:
    lines = [f"error: {_text(error)}"]
    if isinstance(error, NotAdmitted | EvalGateFailed) and len(error.problems) > 1:
        left_out = int(error.metadata.get("num_problems_left_out", 0))
        lines = [f"error: {len(error.problems) + left_out} things are wrong with it"]
        lines += [f"  {p.subject}: {p.message} [{p.code}]" for p in error.problems]
        lines += [f"  and {left_out} more"] if left_out else []
    if hint := _hint(error):
        lines.append(f"  {hint}")
    elif isinstance(error, LoradockError) and exit_code_of(error) == GENERIC and error.request_id:
        lines.append(f"  the server's log has it under request id {error.request_id}")
    return lines


def _text(error: Exception) -> str:
    if isinstance(error, LoradockError):
        return error.message
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _hint(error: Exception) -> str:
    if isinstance(error, CommandError):
        return error.hint
    if not isinstance(error, LoradockError):
        return ""
    if error.reason == "NOT_FOUND":
        return _HINTS_BY_KIND.get(error.metadata.get("kind", ""), "")
    if error.reason == "ALREADY_EXISTS" and error.metadata.get("kind") == "file":
        return _FILES_DIFFER
    if isinstance(error, Unavailable) and "backend unhealthy" in error.message:  # so gRPC says it
        return _NOT_SERVING
    if isinstance(error, Unavailable) and "handshake failed" in error.message:
        return _NO_HANDSHAKE
    return _HINTS.get(error.reason, "")


def _as_json(error: Exception) -> str:
    told: dict[str, object] = {"message": _text(error), "exit_code": exit_code_of(error)}
    if hint := _hint(error):
        told["hint"] = hint
    if isinstance(error, LoradockError):
        told |= {
            "reason": error.reason,
            "metadata": dict(error.metadata),
            "request_id": error.request_id,
            "retry_after_s": error.retry_after_s,
            "problems": [
                {"subject": p.subject, "code": p.code, "message": p.message} for p in error.problems
            ],
        }
    return json.dumps({"error": told}, ensure_ascii=False)
