# Generated from _async/evaluations.py by scripts/generate_sync_client.py. Do not edit.
"""Records of how good versions are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from loradock.client._errors import InvalidRequest
from loradock.client._names import base_name, parse_reference, project_name, version_name
from loradock.client._sync.calls import Calls
from loradock.client._values.evaluation import Evaluation, ItemScores, Metric
from loradock.client._wire.built import built
from loradock.client._wire.evaluation import evaluation_of, item_messages, metric_message
from loradock.v1 import evaluation_service_pb2 as wire
from loradock.v1 import registry_service_pb2 as registry_wire
from loradock.v1 import resources_pb2
from loradock.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from loradock.v1.registry_service_pb2_grpc import RegistryServiceStub


class Evaluations:
    """Evaluations: append-only, of a version or of a base alone."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = EvaluationServiceStub(calls.channel)
        self._registry = RegistryServiceStub(calls.channel)

    def record(
        self,
        suite: str,
        *,
        metrics: Sequence[Metric],
        dataset_digest: str,
        version: str | None = None,
        base: str | None = None,
        items: ItemScores | None = None,
        cost: Mapping[str, float] | None = None,
        harness: str = "",
        engine_profile: str = "",
        request_id: str | None = None,
    ) -> Evaluation:
        """Append a measurement of a `version` ("support-triage@2") or of a `base` alone.

        A version is measured on the base that it was made for, unless `base` says otherwise. With
        `items`, what each item was worth, policies compare versions item by item, which tells more.
        """
        project, name = self._measured_version(version)
        base = self._base_of(name) if base is None and name else base or ""
        message = built(
            resources_pb2.Evaluation,
            suite=suite,
            dataset_digest=dataset_digest,
            base_model=base_name(base),
            version=name,
            metrics=[metric_message(metric) for metric in metrics],
            item_ids=() if items is None else items.ids,
            item_scores=item_messages(items),
            cost=cost or {},
            harness=harness,
            engine_profile=engine_profile,
        )
        request = built(
            wire.RecordEvaluationRequest, parent=project_name(project), evaluation=message
        )
        response = self._calls.unary(self._stub.RecordEvaluation, request, request_id=request_id)
        return evaluation_of(response.evaluation)

    def _base_of(self, name: str) -> str:
        request = built(registry_wire.GetVersionRequest, name=name)
        response = self._calls.unary(self._registry.GetVersion, request)
        return str(response.version.base_model)

    def _measured_version(self, version: str | None) -> tuple[str, str]:
        if version is None:
            return self._calls.project, ""
        reference = parse_reference(version, self._calls.project)
        if reference.number is None:
            raise InvalidRequest(
                f"{version!r} can mean another version tomorrow: name it by number, as in "
                f"'{reference.adapter}@2'",
                reason="INVALID_FIELD",
                metadata={"field": "version"},
            )
        return reference.project, version_name(
            reference.adapter, reference.number, reference.project
        )

    def get(self, evaluation_id: str) -> Evaluation:
        """Give an evaluation."""
        parent = project_name(self._calls.project)
        request = built(wire.GetEvaluationRequest, name=f"{parent}/evaluations/{evaluation_id}")
        response = self._calls.unary(self._stub.GetEvaluation, request)
        return evaluation_of(response.evaluation)

    def list(
        self,
        *,
        adapter: str = "",
        number: int | None = None,
        base: str = "",
        suite: str = "",
        page_size: int = 0,
    ) -> Iterator[Evaluation]:
        """List the project's evaluations, those that all given filters let through."""
        request = built(
            wire.ListEvaluationsRequest,
            parent=project_name(self._calls.project),
            adapter=adapter,
            version_number=number,
            base_model=base_name(base) if base else "",
            suite=suite,
            page_size=page_size,
        )
        return self._calls.pages(
            self._stub.ListEvaluations, request, lambda page: page.evaluations, evaluation_of
        )
