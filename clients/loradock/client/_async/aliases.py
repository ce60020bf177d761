"""Which version is live, and which was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from loradock.client._async.calls import AsyncCalls
from loradock.client._errors import NotFound
from loradock.client._names import adapter_name, alias_name
from loradock.client._values.policy import Approval
from loradock.client._values.registry import Alias, AliasChange, AliasMove
from loradock.client._wire.built import built
from loradock.client._wire.policy import approval_of
from loradock.client._wire.registry import alias_change_of, alias_move_of, alias_of
from loradock.client._wire.scalars import duration, timestamp
from loradock.v1 import alias_service_pb2 as wire
from loradock.v1.alias_service_pb2_grpc import AliasServiceStub


class AsyncAliases:
    """Aliases: movable names for versions, each with a ledger of every move.

    A move compares first: it passes only if the alias is still what `etag` says. Without an `etag`
    the alias is read just before, which leaves only a moment for somebody else's move; who decides
    on what was read earlier gives the `etag` that was read then.
    """

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls
        self._stub = AliasServiceStub(calls.channel)

    async def set(
        self,
        adapter: str,
        alias: str,
        number: int,
        *,
        etag: str | None = None,
        reason: str = "",
        wait_s: float | None = None,
        validate_only: bool = False,
        override_policy: bool = False,
        request_id: str | None = None,
    ) -> AliasChange:
        """Create an alias or move it; an empty `etag` only creates.

        With `wait_s`, return when the live servers have followed, or after so long. A version that
        does not meet the alias's policy is refused (`EvalGateFailed`, `problems` lists everything);
        `override_policy` moves the alias all the same, and needs a role and a `reason`.
        """
        request = built(
            wire.SetAliasRequest,
            name=alias_name(adapter, alias, self._calls.project),
            version_number=number,
            etag=await self._current_etag(adapter, alias) if etag is None else etag,
            reason=reason,
            validate_only=validate_only,
            override_policy=override_policy,
            wait=None if wait_s is None else duration(wait_s),
        )
        response = await self._calls.unary(
            self._stub.SetAlias, request, longer_s=wait_s or 0.0, request_id=request_id
        )
        return alias_change_of(response)

    async def _current_etag(self, adapter: str, alias: str) -> str:
        try:
            return (await self.get(adapter, alias)).etag
        except NotFound:
            return ""

    async def get(self, adapter: str, alias: str) -> Alias:
        """Give an alias."""
        request = built(wire.GetAliasRequest, name=alias_name(adapter, alias, self._calls.project))
        return alias_of((await self._calls.unary(self._stub.GetAlias, request)).alias)

    def list(self, adapter: str, *, page_size: int = 0) -> AsyncIterator[Alias]:
        """List an adapter's aliases."""
        parent = adapter_name(adapter, self._calls.project)
        request = built(wire.ListAliasesRequest, parent=parent, page_size=page_size)
        return self._calls.pages(
            self._stub.ListAliases, request, lambda page: page.aliases, alias_of
        )

    def history(self, adapter: str, alias: str, *, page_size: int = 0) -> AsyncIterator[AliasMove]:
        """List an alias's moves, the newest first."""
        name = alias_name(adapter, alias, self._calls.project)
        request = built(wire.ListAliasHistoryRequest, name=name, page_size=page_size)
        return self._calls.pages(
            self._stub.ListAliasHistory, request, lambda page: page.moves, alias_move_of
        )

    async def at(self, adapter: str, alias: str, time: datetime) -> AliasMove | None:
        """Give the move that was in force at a time; None before the first."""
        name = alias_name(adapter, alias, self._calls.project)
        request = built(wire.ListAliasHistoryRequest, name=name, at=timestamp(time))
        moves = (await self._calls.unary(self._stub.ListAliasHistory, request)).moves
        return alias_move_of(moves[0]) if moves else None

    async def rollback(
        self,
        adapter: str,
        alias: str,
        *,
        etag: str | None = None,
        reason: str = "",
        wait_s: float | None = None,
        override_policy: bool = False,
        request_id: str | None = None,
    ) -> AliasChange:
        """Walk the ledger back by one. Twice walks back twice; it never toggles.

        Beyond the policy's rollback window the policy has to be met, or overridden as in `set`.
        """
        request = built(
            wire.RollbackAliasRequest,
            name=alias_name(adapter, alias, self._calls.project),
            etag=(await self.get(adapter, alias)).etag if etag is None else etag,
            reason=reason,
            override_policy=override_policy,
            wait=None if wait_s is None else duration(wait_s),
        )
        response = await self._calls.unary(
            self._stub.RollbackAlias, request, longer_s=wait_s or 0.0, request_id=request_id
        )
        return alias_change_of(response)

    async def approve(
        self, adapter: str, alias: str, number: int, *, reason: str = ""
    ) -> tuple[Approval, ...]:
        """Agree to an alias's move to a version; give all approvals of it that stand."""
        name = alias_name(adapter, alias, self._calls.project)
        request = built(wire.ApproveVersionRequest, name=name, version_number=number, reason=reason)
        response = await self._calls.unary(self._stub.ApproveVersion, request)
        return tuple(map(approval_of, response.approvals))

    async def withdraw(
        self, adapter: str, alias: str, number: int, *, reason: str = ""
    ) -> tuple[Approval, ...]:
        """Take one's own approval back; give those that stand. NotFound if there is none."""
        name = alias_name(adapter, alias, self._calls.project)
        request = built(
            wire.WithdrawApprovalRequest, name=name, version_number=number, reason=reason
        )
        response = await self._calls.unary(self._stub.WithdrawApproval, request)
        return tuple(map(approval_of, response.approvals))

    async def approvals(self, adapter: str, alias: str, number: int) -> tuple[Approval, ...]:
        """Give the approvals of a version that were not taken back."""
        name = alias_name(adapter, alias, self._calls.project)
        request = built(wire.ListApprovalsRequest, name=name, version_number=number)
        response = await self._calls.unary(self._stub.ListApprovals, request)
        return tuple(map(approval_of, response.approvals))

    async def delete(
        self, adapter: str, alias: str, *, etag: str | None = None, reason: str = ""
    ) -> None:
        """Remove an alias; its ledger stays."""
        request = built(
            wire.DeleteAliasRequest,
            name=alias_name(adapter, alias, self._calls.project),
            etag=(await self.get(adapter, alias)).etag if etag is None else etag,
            reason=reason,
        )
        await self._calls.unary(self._stub.DeleteAlias, request)
