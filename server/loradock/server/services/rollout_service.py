"""RolloutService: brings versions under aliases in stages."""

from __future__ import annotations

from loradock.registry.registry import Registry
from loradock.server.services import convert_alias, convert_policy, names
from loradock.server.services import convert_rollout as convert
from loradock.server.services.call import current_call
from loradock.server.services.principal import Role
from loradock.server.threads import Threads
from loradock.v1 import rollout_service_pb2 as wire
from loradock.v1 import rollout_service_pb2_grpc as grpc_wire


class RolloutService(grpc_wire.RolloutServiceServicer):
    """Starts and steers rollouts; a `Controller` takes their steps."""

    def __init__(self, registry: Registry, threads: Threads) -> None:
        self._rollouts = registry.rollouts
        self._threads = threads

    async def StartRollout(
        self, request: wire.StartRolloutRequest, context: object
    ) -> wire.StartRolloutResponse:
        """Give a candidate its first share."""
        key = names.alias_of(request.name, Role.PROMOTE)
        started = await self._threads.run(
            self._rollouts.start,
            *key,
            version_number=request.version_number,
            expected_generation=convert_alias.read_needed_etag(request.etag),
            plan=convert.read_plan(request),
            reason=request.reason,
            by=current_call().principal.subject,
            request_id=request.request_id,
            validate_only=request.validate_only,
            override_gate=overrides(request.override_policy),
            may_move_protected=current_call().principal.may(Role.OPERATE),
        )
        return wire.StartRolloutResponse(
            rollout=convert.rollout(started.rollout), checks=convert_policy.checks(started.report)
        )

    async def GetRollout(
        self, request: wire.GetRolloutRequest, context: object
    ) -> wire.GetRolloutResponse:
        """Give an alias's rollout, or its last one."""
        key = names.rollout_of(request.name, Role.VIEW)
        standing = await self._threads.run(self._rollouts.get, *key)
        return wire.GetRolloutResponse(rollout=convert.standing(standing))

    async def PauseRollout(
        self, request: wire.PauseRolloutRequest, context: object
    ) -> wire.PauseRolloutResponse:
        """Stay at the stage that is reached."""
        key = names.rollout_of(request.name, Role.PROMOTE)
        by = current_call().principal.subject
        standing = await self._threads.run(self._rollouts.pause, *key, reason=request.reason, by=by)
        return wire.PauseRolloutResponse(rollout=convert.standing(standing))

    async def ResumeRollout(
        self, request: wire.ResumeRolloutRequest, context: object
    ) -> wire.ResumeRolloutResponse:
        """Go on where it was paused."""
        key = names.rollout_of(request.name, Role.PROMOTE)
        by = current_call().principal.subject
        standing = await self._threads.run(
            self._rollouts.resume,
            *key,
            reason=request.reason,
            by=by,
            may_move_protected=current_call().principal.may(Role.OPERATE),
        )
        return wire.ResumeRolloutResponse(rollout=convert.standing(standing))

    async def PromoteRollout(
        self, request: wire.PromoteRolloutRequest, context: object
    ) -> wire.PromoteRolloutResponse:
        """Move the alias to the candidate now."""
        key = names.rollout_of(request.name, Role.PROMOTE)
        standing = await self._threads.run(
            self._rollouts.promote,
            *key,
            reason=request.reason,
            by=current_call().principal.subject,
            override_gate=overrides(request.override_policy),
            may_move_protected=current_call().principal.may(Role.OPERATE),
            expected_generation=convert_alias.read_etag(request.etag),
        )
        return wire.PromoteRolloutResponse(rollout=convert.standing(standing))

    async def AbortRollout(
        self, request: wire.AbortRolloutRequest, context: object
    ) -> wire.AbortRolloutResponse:
        """Give all requests back to the incumbent."""
        key = names.rollout_of(request.name, Role.PROMOTE)
        by = current_call().principal.subject
        standing = await self._threads.run(self._rollouts.abort, *key, reason=request.reason, by=by)
        return wire.AbortRolloutResponse(rollout=convert.standing(standing))


def overrides(wanted: bool) -> bool:
    """Whether the policy is overridden; who may move an alias may not do that yet."""
    if wanted:
        current_call().principal.require(Role.OPERATE)
    return wanted
