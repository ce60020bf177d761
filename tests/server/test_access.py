"""X1's embedded part: each method without a token, without its role, of another's project."""

from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from methods import ALIAS, METHODS, NAMES, PARENTS, ask
from served import reason_of, running

from loradock.server.services.principal import Authenticator, Principal, Role

ROLES = {
    Role.VIEW: "GetBaseModel ListBaseModels GetAdapter ListAdapters DownloadBlob GetVersion "
    "ResolveVersion ListVersions SearchVersions GetAlias ListAliases ListAliasHistory "
    "ListAliasPolicyRevisions ListApprovals ListAffected "
    "GetAliasPolicy CheckAliasPolicy GetEvaluation ListEvaluations GetLineage GetServer GetRollout "
    "ListServers ListAuditEvents",
    Role.PUBLISH: "CreateAdapter UpdateAdapter FindMissingBlobs UploadBlob PublishVersion "
    "RecordEvaluation",
    Role.PROMOTE: "HoldVersion UnholdVersion ApproveVersion WithdrawApproval "
    "DeleteAdapter YankVersion UnyankVersion DeleteVersion SetAlias RollbackAlias "
    "DeleteAlias StartRollout PauseRollout ResumeRollout PromoteRollout AbortRollout",
    Role.INFER: "Generate StreamGenerate Score Classify CountTokens",
    Role.OPERATE: "RegisterBaseModel LoadAdapter UnloadAdapter SetAliasPolicy "
    "PrefetchAdapter PinAdapter UnpinAdapter UndrainServer DrainServer "
    "CollectGarbage VerifyBlobs VerifyAudit Diagnose "
    "ExportBundle ImportBundle OverrideAlias",
}
OF_NO_PROJECT = {
    *("RegisterBaseModel", "GetBaseModel", "ListBaseModels"),
    *("GetServer", "ListServers", "UnloadAdapter", "DrainServer", "UndrainServer"),
}


class ByMetadata(Authenticator):
    """Lets callers say themselves which roles they have."""

    def principal(self, metadata: Mapping[str, str]) -> Principal:
        roles = frozenset(Role(name) for name in metadata.get("roles", "").split())
        return Principal("default", "test", roles)


def role_of(name: str) -> Role:
    return next(role for role, names in ROLES.items() if name in names.split())


def request_of(name: str) -> Any:
    """Ask a method for something of another project."""
    request: Any = METHODS[name].input_type._concrete_class()
    fields = METHODS[name].input_type.fields_by_name
    if "name" in fields:
        request.name = next(v for end, v in NAMES.items() if name.endswith(end))
    if "parent" in fields:
        request.parent = PARENTS.get(name, "projects/other")
    if "header" in fields:
        request.header.parent = "projects/other"
    if "policy" in fields:
        request.policy.name = f"{ALIAS}/policy"
    if "target" in fields:
        request.target.project, request.target.base = "other", True
    return request


async def reason(channel: grpc.aio.Channel, name: str, **metadata: str) -> str:
    """Call a method of another's project; give the reason of its refusal, or nothing."""
    try:
        await ask(channel, name, request_of(name), 20, **metadata)
    except grpc.aio.AioRpcError as error:
        return reason_of(error)
    return ""


@pytest.mark.contract("X1")
def test_x1_every_method_has_its_role():
    named = [name for names in ROLES.values() for name in names.split()]
    assert len(named) == len(set(named))
    assert set(METHODS) == set(named)


@pytest.mark.contract("X1")
async def test_x1_without_the_role_each_method_is_refused_and_with_it_only_the_project(
    tiny_base, tmp_path
):
    async with running(tiny_base, tmp_path, ByMetadata(None, "default")) as served:
        for name in METHODS:
            role = role_of(name)
            others = " ".join(other.value for other in Role if other is not role)
            assert await reason(served.channel, name, roles=others) == "PERMISSION_DENIED", name
            found = await reason(served.channel, name, roles=role.value)
            if name not in OF_NO_PROJECT:
                assert found == "NOT_FOUND", name
            else:
                assert found != "PERMISSION_DENIED", name


@pytest.mark.contract("X1")
async def test_x1_without_the_token_everything_but_health_is_refused(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path, token="right") as served:
        for name in METHODS:
            for given in ("", "Bearer wrong", "Bearer ", "right"):
                found = await reason(served.channel, name, authorization=given)
                assert found == "UNAUTHENTICATED", name
        health = health_pb2_grpc.HealthStub(served.channel)
        await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
