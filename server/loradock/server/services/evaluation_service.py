"""EvaluationService: what was measured, and where versions came from."""

from __future__ import annotations

from loradock.registry.errors import InvalidArgument, NotFound
from loradock.registry.registry import Registry
from loradock.registry.resources import Evaluation
from loradock.server.services import convert_evaluation as convert
from loradock.server.services import names
from loradock.server.services.call import current_call
from loradock.server.services.fields import page_size
from loradock.server.services.principal import Role
from loradock.server.threads import Threads
from loradock.v1 import evaluation_service_pb2 as wire
from loradock.v1 import evaluation_service_pb2_grpc as grpc_wire

MAX_DEPTH = 32


class EvaluationService(grpc_wire.EvaluationServiceServicer):
    """Appends and lists evaluations, and walks lineage."""

    def __init__(self, registry: Registry, threads: Threads) -> None:
        self._registry = registry
        self._threads = threads

    async def RecordEvaluation(
        self, request: wire.RecordEvaluationRequest, context: object
    ) -> wire.RecordEvaluationResponse:
        """Append a measurement."""
        project = names.project_of(request.parent, Role.PUBLISH)
        recorded = await self._threads.run(
            self._record, project, request, current_call().principal.subject
        )
        return wire.RecordEvaluationResponse(evaluation=convert.evaluation(recorded))

    def _record(
        self, project: str, request: wire.RecordEvaluationRequest, subject: str
    ) -> Evaluation:
        given = request.evaluation
        adapter, number = None, None
        if given.version:
            owner, adapter, number = names.version_parts(given.version)
            if owner != project:
                raise NotFound("version", given.version)
        return self._registry.evaluations.record(
            project,
            suite=given.suite,
            dataset_digest=given.dataset_digest,
            base_name=names.base_of(given.base_model),
            base_digests=convert.read_measured_base(given),
            adapter=adapter,
            version_number=number,
            metrics=convert.read_metrics(given),
            items=convert.read_items(given),
            cost=dict(given.cost),
            harness=given.harness,
            engine_profile=given.engine_profile,
            by=subject,
            request_id=request.request_id,
        )

    async def GetEvaluation(
        self, request: wire.GetEvaluationRequest, context: object
    ) -> wire.GetEvaluationResponse:
        """Give one record."""
        project, evaluation_id = names.evaluation_of(request.name, Role.VIEW)
        found = await self._threads.run(self._registry.evaluations.get, project, evaluation_id)
        return wire.GetEvaluationResponse(evaluation=convert.evaluation(found))

    async def ListEvaluations(
        self, request: wire.ListEvaluationsRequest, context: object
    ) -> wire.ListEvaluationsResponse:
        """List records, newest first."""
        project = names.project_of(request.parent, Role.VIEW)
        page = await self._threads.run(
            self._registry.evaluations.list,
            project,
            adapter=request.adapter,
            version_number=request.version_number if request.HasField("version_number") else None,
            base=names.optional_base_of(request.base_model),
            suite=request.suite,
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        return wire.ListEvaluationsResponse(
            evaluations=[convert.evaluation(found) for found in page.items],
            next_page_token=page.next_page_token,
        )

    async def GetLineage(
        self, request: wire.GetLineageRequest, context: object
    ) -> wire.GetLineageResponse:
        """Walk up or down from a version, a dataset or a base."""
        project = names.project_of(request.parent, Role.VIEW)
        if request.direction == wire.LINEAGE_DIRECTION_UNSPECIFIED:
            raise InvalidArgument("direction", "say UPSTREAM or DOWNSTREAM")
        if request.max_depth < 0:
            raise InvalidArgument("max_depth", "is negative")
        graph = await self._threads.run(
            self._registry.lineage.graph,
            project,
            await self._start(project, request),
            upstream=request.direction == wire.LINEAGE_DIRECTION_UPSTREAM,
            depth=min(request.max_depth or MAX_DEPTH, MAX_DEPTH),
        )
        return convert.lineage_graph(graph)

    async def ListAffected(
        self, request: wire.ListAffectedRequest, context: object
    ) -> wire.ListAffectedResponse:
        """Tell what came of something, and where that answers now."""
        project = names.project_of(request.parent, Role.VIEW)
        start = await self._start(project, request)
        found = await self._threads.run(self._registry.lineage.affected, project, start)
        return convert.affected(project, found)

    async def _start(
        self, project: str, request: wire.GetLineageRequest | wire.ListAffectedRequest
    ) -> str:
        match request.WhichOneof("start"):
            case "reference":
                _, reference = names.reference_of(request.reference, project)
                resolved = await self._threads.run(
                    self._registry.reader.resolve, project, reference
                )
                return resolved.version.digest
            case "dataset_digest":
                return request.dataset_digest
            case "base_model":
                return names.base_of(request.base_model)
            case _:
                raise InvalidArgument("start", "name a reference, a dataset digest or a base")
