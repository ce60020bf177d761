"""What aliases demand of versions."""

from __future__ import annotations

from collections.abc import Iterable

from loradock.client._async.calls import AsyncCalls
from loradock.client._errors import NotFound
from loradock.client._names import policy_name
from loradock.client._values.policy import AliasPolicy, PolicyReport, SuiteDemand
from loradock.client._wire.built import built
from loradock.client._wire.policy import policy_message, policy_of, policy_report_of
from loradock.v1 import alias_service_pb2 as wire
from loradock.v1.alias_service_pb2_grpc import AliasServiceStub


class AsyncPolicies:
    """Policies: what an alias demands of a version before it may point there."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls
        self._stub = AliasServiceStub(calls.channel)

    async def set(
        self,
        adapter: str,
        alias: str,
        suites: Iterable[SuiteDemand],
        *,
        max_age_s: float | None = None,
        rollback_window_s: float | None = None,
        etag: str | None = None,
        reason: str = "",
        validate_only: bool = False,
        request_id: str | None = None,
    ) -> AliasPolicy:
        """Demand this from now on; without suites, nothing. Where the alias points, it stays.

        Without an `etag` the policy is read just before; an empty one only sets the first.
        """
        name = policy_name(adapter, alias, self._calls.project)
        request = built(
            wire.SetAliasPolicyRequest,
            policy=policy_message(name, tuple(suites), max_age_s, rollback_window_s),
            etag=await self._current_etag(adapter, alias) if etag is None else etag,
            reason=reason,
            validate_only=validate_only,
        )
        response = await self._calls.unary(
            self._stub.SetAliasPolicy, request, request_id=request_id
        )
        return policy_of(response.policy)

    async def _current_etag(self, adapter: str, alias: str) -> str:
        try:
            return (await self.get(adapter, alias)).etag
        except NotFound:
            return ""

    async def get(self, adapter: str, alias: str) -> AliasPolicy:
        """Give what an alias demands; NotFound if nothing was ever demanded."""
        request = built(
            wire.GetAliasPolicyRequest, name=policy_name(adapter, alias, self._calls.project)
        )
        return policy_of((await self._calls.unary(self._stub.GetAliasPolicy, request)).policy)

    async def check(self, adapter: str, alias: str, number: int) -> PolicyReport:
        """Hold a version against what an alias demands."""
        name = policy_name(adapter, alias, self._calls.project)
        request = built(wire.CheckAliasPolicyRequest, name=name, version_number=number)
        return policy_report_of(await self._calls.unary(self._stub.CheckAliasPolicy, request))
