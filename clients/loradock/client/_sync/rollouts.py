# Generated from _async/rollouts.py by scripts/generate_sync_client.py. Do not edit.
"""Versions on their way to aliases."""

from __future__ import annotations

from collections.abc import Sequence

from loradock.client._names import alias_name, rollout_name
from loradock.client._sync.calls import Calls
from loradock.client._values.rollout import (
    Rollout,
    RolloutGuards,
    RolloutStage,
    StartedRollout,
)
from loradock.client._wire.built import built
from loradock.client._wire.rollout import (
    basis_points,
    guards_message,
    rollout_of,
    stage_messages,
    started_rollout_of,
)
from loradock.v1 import alias_service_pb2
from loradock.v1 import rollout_service_pb2 as wire
from loradock.v1.alias_service_pb2_grpc import AliasServiceStub
from loradock.v1.rollout_service_pb2_grpc import RolloutServiceStub


class Rollouts:
    """Rollouts: a candidate gets a growing share of an alias's requests, and at last the alias.

    The registry takes the steps, and takes the candidate back by itself where it fails its callers,
    or keeps them waiting, more than the incumbent does.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = RolloutServiceStub(calls.channel)
        self._aliases = AliasServiceStub(calls.channel)

    def start(
        self,
        adapter: str,
        alias: str,
        number: int,
        *,
        stages: Sequence[RolloutStage] = (),
        guards: RolloutGuards = RolloutGuards(),  # noqa: B008 - frozen
        shadow_percent: float = 0.0,
        etag: str | None = None,
        reason: str = "",
        validate_only: bool = False,
        override_policy: bool = False,
        request_id: str | None = None,
    ) -> StartedRollout:
        """Give a version its first share; without stages 1, 10, 50 and 100 %, ten minutes each.

        The version has to meet the alias's policy (`EvalGateFailed`), now and at the end;
        `validate_only` tells what the policy says of it, and starts nothing.
        """
        request = built(
            wire.StartRolloutRequest,
            name=alias_name(adapter, alias, self._calls.project),
            version_number=number,
            etag=self._current_etag(adapter, alias) if etag is None else etag,
            stages=stage_messages(stages),
            guards=guards_message(guards),
            shadow_basis_points=basis_points(shadow_percent),
            reason=reason,
            validate_only=validate_only,
            override_policy=override_policy,
        )
        response = self._calls.unary(self._stub.StartRollout, request, request_id=request_id)
        return started_rollout_of(response)

    def _current_etag(self, adapter: str, alias: str) -> str:
        name = alias_name(adapter, alias, self._calls.project)
        request = built(alias_service_pb2.GetAliasRequest, name=name)
        return (self._calls.unary(self._aliases.GetAlias, request)).alias.etag

    def get(self, adapter: str, alias: str) -> Rollout:
        """Give an alias's rollout, or its last one, as the servers last reported."""
        request = built(wire.GetRolloutRequest, name=self._name(adapter, alias))
        return rollout_of((self._calls.unary(self._stub.GetRollout, request)).rollout)

    def pause(self, adapter: str, alias: str, *, reason: str = "") -> Rollout:
        """Stay at the stage that is reached; the guards go on."""
        request = built(wire.PauseRolloutRequest, name=self._name(adapter, alias), reason=reason)
        return rollout_of((self._calls.unary(self._stub.PauseRollout, request)).rollout)

    def resume(self, adapter: str, alias: str, *, reason: str = "") -> Rollout:
        """Go on where it was paused; the stage's hold begins anew."""
        request = built(wire.ResumeRolloutRequest, name=self._name(adapter, alias), reason=reason)
        return rollout_of((self._calls.unary(self._stub.ResumeRollout, request)).rollout)

    def promote(
        self,
        adapter: str,
        alias: str,
        *,
        reason: str = "",
        etag: str = "",
        override_policy: bool = False,
    ) -> Rollout:
        """Move the alias to the candidate now; with an `etag`, only from the stage it is of.

        `override_policy` is as in `aliases.set`.
        """
        request = built(
            wire.PromoteRolloutRequest,
            name=self._name(adapter, alias),
            reason=reason,
            etag=etag,
            override_policy=override_policy,
        )
        return rollout_of((self._calls.unary(self._stub.PromoteRollout, request)).rollout)

    def abort(self, adapter: str, alias: str, *, reason: str = "") -> Rollout:
        """Give all requests back to the incumbent."""
        request = built(wire.AbortRolloutRequest, name=self._name(adapter, alias), reason=reason)
        return rollout_of((self._calls.unary(self._stub.AbortRollout, request)).rollout)

    def _name(self, adapter: str, alias: str) -> str:
        return rollout_name(adapter, alias, self._calls.project)
