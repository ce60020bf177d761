"""AliasService: which version is live. A move returns at commit, or waits for the live servers."""

from __future__ import annotations

from loradock.registry.registry import Registry
from loradock.registry.resources import Alias, Page
from loradock.server.aliases.follow_wait import SHARE_OF_DEADLINE, Followed, FollowWait
from loradock.server.services import convert_alias as convert
from loradock.server.services import convert_policy, names
from loradock.server.services.call import current_call
from loradock.server.services.fields import moment_of, page_size, seconds_of
from loradock.server.services.principal import Role
from loradock.server.threads import Threads
from loradock.v1 import alias_service_pb2 as wire
from loradock.v1 import alias_service_pb2_grpc as grpc_wire


class AliasService(grpc_wire.AliasServiceServicer):
    """Moves aliases and tells where they point and pointed."""

    def __init__(self, registry: Registry, threads: Threads, follow_wait: FollowWait) -> None:
        self._registry = registry
        self._threads = threads
        self._follow_wait = follow_wait

    async def SetAlias(
        self, request: wire.SetAliasRequest, context: object
    ) -> wire.SetAliasResponse:
        """Create or move an alias by compare-and-set."""
        project, adapter, name = names.alias_of(request.name, Role.PROMOTE)
        alias = await self._threads.run(
            self._registry.aliases.set,
            project,
            adapter,
            name,
            version_number=request.version_number,
            expected_generation=convert.read_etag(request.etag),
            reason=request.reason,
            by=current_call().principal.subject,
            request_id=request.request_id,
            validate_only=request.validate_only,
            override_gate=_overrides(request.override_policy),
            may_move_protected=current_call().principal.may(Role.OPERATE),
        )
        response = wire.SetAliasResponse(alias=convert.alias(alias))
        if request.HasField("wait") and not request.validate_only:
            followed = await self._followed(alias, seconds_of("wait", request.wait))
            response.followed.CopyFrom(followed)
        return response

    async def RollbackAlias(
        self, request: wire.RollbackAliasRequest, context: object
    ) -> wire.RollbackAliasResponse:
        """Walk the alias's ledger back by one."""
        project, adapter, name = names.alias_of(request.name, Role.PROMOTE)
        alias = await self._threads.run(
            self._registry.aliases.rollback,
            project,
            adapter,
            name,
            expected_generation=convert.read_needed_etag(request.etag),
            reason=request.reason,
            by=current_call().principal.subject,
            request_id=request.request_id,
            override_gate=_overrides(request.override_policy),
            may_move_protected=current_call().principal.may(Role.OPERATE),
        )
        response = wire.RollbackAliasResponse(alias=convert.alias(alias))
        if request.HasField("wait"):
            followed = await self._followed(alias, seconds_of("wait", request.wait))
            response.followed.CopyFrom(followed)
        return response

    async def _followed(self, alias: Alias, wait_s: float) -> wire.FollowState:
        name = names.alias_name(alias.project, alias.adapter, alias.name)
        wait_s = min(wait_s, current_call().remaining_s * SHARE_OF_DEADLINE)
        return _follow_state(await self._follow_wait.until_followed(name, wait_s))

    async def GetAlias(
        self, request: wire.GetAliasRequest, context: object
    ) -> wire.GetAliasResponse:
        """Give an alias as the catalog has it."""
        project, adapter, name = names.alias_of(request.name, Role.VIEW)
        alias = await self._threads.run(self._registry.aliases.get, project, adapter, name)
        return wire.GetAliasResponse(alias=convert.alias(alias))

    async def ListAliases(
        self, request: wire.ListAliasesRequest, context: object
    ) -> wire.ListAliasesResponse:
        """List an adapter's aliases."""
        project, adapter = names.adapter_of(request.parent, Role.VIEW)
        page: Page[Alias] = await self._threads.run(
            self._registry.aliases.list,
            project,
            adapter,
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        return wire.ListAliasesResponse(
            aliases=[convert.alias(alias) for alias in page.items],
            next_page_token=page.next_page_token,
        )

    async def ListAliasHistory(
        self, request: wire.ListAliasHistoryRequest, context: object
    ) -> wire.ListAliasHistoryResponse:
        """List an alias's ledger, or the one move in force at a time."""
        project, adapter, name = names.alias_of(request.name, Role.VIEW)
        if request.HasField("at"):
            moment = moment_of("at", request.at)
            move = await self._threads.run(
                self._registry.aliases.at, project, adapter, name, moment
            )
            moves = [] if move is None else [convert.alias_move(move)]
            return wire.ListAliasHistoryResponse(moves=moves)
        page = await self._threads.run(
            self._registry.aliases.history,
            project,
            adapter,
            name,
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        return wire.ListAliasHistoryResponse(
            moves=[convert.alias_move(move) for move in page.items],
            next_page_token=page.next_page_token,
        )

    async def DeleteAlias(
        self, request: wire.DeleteAliasRequest, context: object
    ) -> wire.DeleteAliasResponse:
        """Remove an alias; its history stays."""
        project, adapter, name = names.alias_of(request.name, Role.PROMOTE)
        await self._threads.run(
            self._registry.aliases.delete,
            project,
            adapter,
            name,
            expected_generation=convert.read_needed_etag(request.etag),
            reason=request.reason,
            by=current_call().principal.subject,
            may_move_protected=current_call().principal.may(Role.OPERATE),
        )
        return wire.DeleteAliasResponse()

    async def SetAliasPolicy(
        self, request: wire.SetAliasPolicyRequest, context: object
    ) -> wire.SetAliasPolicyResponse:
        """Say what an alias demands from now on."""
        project, adapter, alias = names.policy_of(request.policy.name, Role.OPERATE)
        policy = await self._threads.run(
            self._registry.policies.set,
            project,
            adapter,
            alias,
            convert_policy.read_demands(request.policy),
            expected_revision=convert.read_etag(request.etag),
            reason=request.reason,
            by=current_call().principal.subject,
            request_id=request.request_id,
            validate_only=request.validate_only,
        )
        return wire.SetAliasPolicyResponse(policy=convert_policy.policy(policy))

    async def GetAliasPolicy(
        self, request: wire.GetAliasPolicyRequest, context: object
    ) -> wire.GetAliasPolicyResponse:
        """Give what an alias demands."""
        key = names.policy_of(request.name, Role.VIEW)
        policies, revision = self._registry.policies, request.revision
        policy = await (
            self._threads.run(policies.revision, *key, revision)
            if revision
            else self._threads.run(policies.get, *key)
        )
        return wire.GetAliasPolicyResponse(policy=convert_policy.policy(policy))

    async def ListAliasPolicyRevisions(
        self, request: wire.ListAliasPolicyRevisionsRequest, context: object
    ) -> wire.ListAliasPolicyRevisionsResponse:
        """List what an alias demanded since when."""
        key = names.policy_of(request.name, Role.VIEW)
        page = await self._threads.run(
            self._registry.policies.history,
            *key,
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        return wire.ListAliasPolicyRevisionsResponse(
            policies=[convert_policy.policy(policy) for policy in page.items],
            next_page_token=page.next_page_token,
        )

    async def ApproveVersion(
        self, request: wire.ApproveVersionRequest, context: object
    ) -> wire.ApproveVersionResponse:
        """Agree to an alias's move to a version."""
        key = names.alias_of(request.name, Role.PROMOTE)
        found = await self._threads.run(
            self._registry.approvals.approve,
            *key,
            request.version_number,
            reason=request.reason,
            by=current_call().principal.subject,
        )
        return wire.ApproveVersionResponse(approvals=map(convert_policy.approval, found))

    async def WithdrawApproval(
        self, request: wire.WithdrawApprovalRequest, context: object
    ) -> wire.WithdrawApprovalResponse:
        """Take the caller's own approval back."""
        key = names.alias_of(request.name, Role.PROMOTE)
        found = await self._threads.run(
            self._registry.approvals.withdraw,
            *key,
            request.version_number,
            reason=request.reason,
            by=current_call().principal.subject,
        )
        return wire.WithdrawApprovalResponse(approvals=map(convert_policy.approval, found))

    async def ListApprovals(
        self, request: wire.ListApprovalsRequest, context: object
    ) -> wire.ListApprovalsResponse:
        """List who agreed to a version."""
        key = names.alias_of(request.name, Role.VIEW)
        found = await self._threads.run(
            self._registry.approvals.standing, *key, request.version_number
        )
        return wire.ListApprovalsResponse(approvals=map(convert_policy.approval, found))

    async def CheckAliasPolicy(
        self, request: wire.CheckAliasPolicyRequest, context: object
    ) -> wire.CheckAliasPolicyResponse:
        """Hold a version against what an alias demands."""
        key = names.policy_of(request.name, Role.VIEW)
        report = await self._threads.run(
            self._registry.policies.check,
            *key,
            request.version_number,
            by=current_call().principal.subject,
        )
        return convert_policy.report(report)


def _overrides(wanted: bool) -> bool:
    """Whether the policy is overridden; who may move an alias may not do that yet."""
    if wanted:
        current_call().principal.require(Role.OPERATE)
    return wanted


def _follow_state(followed: Followed) -> wire.FollowState:
    return wire.FollowState(
        num_servers=followed.num_servers,
        num_following=followed.num_following,
        reasons=followed.reasons,
    )
