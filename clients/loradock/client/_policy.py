"""How each method is called: its deadline, and whether a lost call may be sent again."""

from __future__ import annotations

import json

DEFAULT_DEADLINE_S = 30.0
DEADLINES_S = {
    "Generate": 120.0,
    "StreamGenerate": 300.0,
    "Score": 120.0,
    "Classify": 120.0,
    "LoadAdapter": 120.0,
    "PrefetchAdapter": 120.0,
    "PinAdapter": 120.0,
    "PublishVersion": 120.0,
    "GetLineage": 60.0,
    "ListAffected": 60.0,
    "CollectGarbage": 600.0,
    "VerifyBlobs": 600.0,
    "VerifyAudit": 300.0,
    "Diagnose": 300.0,
    "ExportBundle": 600.0,
    "ImportBundle": 600.0,
}
SLOWEST_TRANSFER_BYTES_PER_S = 256 * 1024

# Sending these twice is as good as once: they only read, they set what is set already, or they
# carry a request id under which the server keeps the outcome. An inference changes nothing, and
# names the version that answered; once its first message has come, gRPC doesn't send it again.
IDEMPOTENT_METHODS = {
    "RegistryService": (
        *("RegisterBaseModel", "GetBaseModel", "ListBaseModels"),
        *("CreateAdapter", "GetAdapter", "ListAdapters"),
        *("FindMissingBlobs", "DownloadBlob", "PublishVersion"),
        *("GetVersion", "ResolveVersion", "ListVersions", "SearchVersions"),
        *("HoldVersion", "UnholdVersion"),
    ),
    "AliasService": (
        *("SetAlias", "GetAlias", "ListAliases", "ListAliasHistory", "RollbackAlias"),
        *("SetAliasPolicy", "GetAliasPolicy", "CheckAliasPolicy"),
        *("ListAliasPolicyRevisions", "ApproveVersion", "ListApprovals"),
    ),
    "RolloutService": (
        *("StartRollout", "GetRollout", "PauseRollout", "ResumeRollout"),
        *("PromoteRollout", "AbortRollout"),
    ),
    "EvaluationService": (
        *("RecordEvaluation", "GetEvaluation", "ListEvaluations"),
        *("GetLineage", "ListAffected"),
    ),
    "InferenceService": ("Generate", "StreamGenerate", "Score", "Classify", "CountTokens"),
    "AdminService": (
        *(
            "CollectGarbage",
            "VerifyBlobs",
            "Diagnose",
            "ExportBundle",
            "ListAuditEvents",
            "VerifyAudit",
        ),
    ),
    "ServerService": ("GetServer", "ListServers", "PrefetchAdapter", "LoadAdapter"),
}


def deadline_s(method: str) -> float:
    """Give the deadline of a method that was not given one."""
    return DEADLINES_S.get(method, DEFAULT_DEADLINE_S)


def transfer_deadline_s(size_bytes: int) -> float:
    """Give the deadline of an upload or download."""
    return DEFAULT_DEADLINE_S + size_bytes / SLOWEST_TRANSFER_BYTES_PER_S


def service_config(health_name: str) -> str:
    """Retry what is UNAVAILABLE and idempotent; spread calls over where health serves this name."""
    names = [
        {"service": f"loradock.v1.{service}", "method": method}
        for service, methods in IDEMPOTENT_METHODS.items()
        for method in methods
    ]
    retry = {
        "maxAttempts": 5,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": health_name},
            "methodConfig": [{"name": names, "retryPolicy": retry}],
            "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        }
    )
