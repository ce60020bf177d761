"""RegistryService: bases, adapters and versions. Bytes are `blobs.py`'s."""

from __future__ import annotations

from collections.abc import AsyncIterator

from loradock.registry.errors import InvalidArgument, StaleGeneration
from loradock.registry.registry import Registry
from loradock.registry.resources import Adapter, BaseDigests
from loradock.server.blobs import BlobTransfers
from loradock.server.errors import StaleEtag
from loradock.server.services import convert_registry as convert
from loradock.server.services import names
from loradock.server.services.call import current_call
from loradock.server.services.fields import metric_filter, moment_of, page_size
from loradock.server.services.principal import Role
from loradock.server.threads import Threads
from loradock.v1 import registry_service_pb2 as wire
from loradock.v1 import registry_service_pb2_grpc as grpc_wire


class RegistryService(grpc_wire.RegistryServiceServicer):
    """Says what exists. Every method asks the principal, then the registry on a thread."""

    def __init__(self, registry: Registry, threads: Threads, transfers: BlobTransfers) -> None:
        self._registry = registry
        self._threads = threads
        self._transfers = transfers

    async def RegisterBaseModel(
        self, request: wire.RegisterBaseModelRequest, context: object
    ) -> wire.RegisterBaseModelResponse:
        """Record a base."""
        principal = current_call().principal
        principal.require(Role.OPERATE)
        base, created = await self._threads.run(
            self._registry.bases.register,
            convert.read_base_model(request.base_model),
            by=principal.subject,
        )
        return wire.RegisterBaseModelResponse(base_model=convert.base_model(base), created=created)

    async def GetBaseModel(
        self, request: wire.GetBaseModelRequest, context: object
    ) -> wire.GetBaseModelResponse:
        """Give a base with its modules."""
        current_call().principal.require(Role.VIEW)
        base = await self._threads.run(self._registry.bases.get, names.base_of(request.name))
        return wire.GetBaseModelResponse(base_model=convert.base_model(base))

    async def ListBaseModels(
        self, request: wire.ListBaseModelsRequest, context: object
    ) -> wire.ListBaseModelsResponse:
        """List the bases."""
        current_call().principal.require(Role.VIEW)
        page = await self._threads.run(
            self._registry.bases.list,
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        return wire.ListBaseModelsResponse(
            base_models=[convert.base_model(base, with_modules=False) for base in page.items],
            next_page_token=page.next_page_token,
        )

    async def CreateAdapter(
        self, request: wire.CreateAdapterRequest, context: object
    ) -> wire.CreateAdapterResponse:
        """Create an adapter without versions."""
        project = names.project_of(request.parent, Role.PUBLISH)
        adapter = await self._threads.run(
            self._registry.adapters.create,
            project,
            request.adapter_id,
            owner=request.owner,
            description=request.description,
            tags=tuple(request.tags),
            by=current_call().principal.subject,
            request_id=request.request_id,
        )
        return wire.CreateAdapterResponse(adapter=convert.adapter(adapter))

    async def GetAdapter(
        self, request: wire.GetAdapterRequest, context: object
    ) -> wire.GetAdapterResponse:
        """Give an adapter."""
        project, name = names.adapter_of(request.name, Role.VIEW)
        adapter = await self._threads.run(self._registry.adapters.get, project, name)
        return wire.GetAdapterResponse(adapter=convert.adapter(adapter))

    async def ListAdapters(
        self, request: wire.ListAdaptersRequest, context: object
    ) -> wire.ListAdaptersResponse:
        """List a project's adapters, those that the filter lets through."""
        project = names.project_of(request.parent, Role.VIEW)
        page = await self._threads.run(
            self._registry.adapters.list,
            project,
            base=names.optional_base_of(request.filter.base_model),
            tag=request.filter.tag,
            text=request.filter.text,
            metric=metric_filter(request.filter),
            derived_from=request.filter.derived_from,
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        return wire.ListAdaptersResponse(
            adapters=[convert.adapter(adapter) for adapter in page.items],
            next_page_token=page.next_page_token,
        )

    async def UpdateAdapter(
        self, request: wire.UpdateAdapterRequest, context: object
    ) -> wire.UpdateAdapterResponse:
        """Change the fields that are present."""
        project, name = names.adapter_of(request.name, Role.PUBLISH)
        adapter = await self._threads.run(
            _update_adapter,
            self._registry,
            project,
            name,
            request,
            current_call().principal.subject,
        )
        return wire.UpdateAdapterResponse(adapter=convert.adapter(adapter))

    async def DeleteAdapter(
        self, request: wire.DeleteAdapterRequest, context: object
    ) -> wire.DeleteAdapterResponse:
        """Remove an adapter that has nothing left."""
        project, name = names.adapter_of(request.name, Role.PROMOTE)
        subject = current_call().principal.subject
        await self._threads.run(self._registry.adapters.delete, project, name, by=subject)
        return wire.DeleteAdapterResponse()

    async def FindMissingBlobs(
        self, request: wire.FindMissingBlobsRequest, context: object
    ) -> wire.FindMissingBlobsResponse:
        """Answer which bytes have to be sent."""
        project = names.project_of(request.parent, Role.PUBLISH)
        refs = [convert.read_blob(blob) for blob in request.blobs]
        missing = await self._threads.run(self._registry.blobs.find_missing, project, refs)
        committed = await self._threads.run(self._registry.blobs.committed, project, missing)
        return wire.FindMissingBlobsResponse(
            missing=[convert.blob(ref) for ref in missing], committed_bytes=committed
        )

    async def UploadBlob(
        self, request_iterator: AsyncIterator[wire.UploadBlobRequest], context: object
    ) -> wire.UploadBlobResponse:
        """Take a header and then chunks."""
        return await self._transfers.upload(request_iterator)

    async def DownloadBlob(
        self, request: wire.DownloadBlobRequest, context: object
    ) -> AsyncIterator[wire.DownloadBlobResponse]:
        """Stream bytes in chunks."""
        async for chunk in self._transfers.download(request):
            yield chunk

    async def PublishVersion(
        self, request: wire.PublishVersionRequest, context: object
    ) -> wire.PublishVersionResponse:
        """Admit uploaded bytes as a READY version."""
        project, adapter = names.adapter_of(request.parent, Role.PUBLISH)
        published = await self._threads.run(
            self._registry.versions.publish,
            project,
            adapter,
            base=names.base_of(request.base_model),
            base_digests=_promised_base(request),
            delta=convert.read_delta(request.delta),
            profile=convert.read_profile(request.profile),
            lineage=convert.read_lineage(request.lineage),
            by=current_call().principal.subject,
            validate_only=request.validate_only,
            request_id=request.request_id,
        )
        return wire.PublishVersionResponse(
            version=convert.version(published.version), created=published.created
        )

    async def GetVersion(
        self, request: wire.GetVersionRequest, context: object
    ) -> wire.GetVersionResponse:
        """Give a version, yanked ones too."""
        project, adapter, number = names.version_of(request.name, Role.VIEW)
        version = await self._threads.run(self._registry.versions.get, project, adapter, number)
        return wire.GetVersionResponse(version=convert.version(version))

    async def ResolveVersion(
        self, request: wire.ResolveVersionRequest, context: object
    ) -> wire.ResolveVersionResponse:
        """Answer what a reference means now, in the catalog."""
        parent = names.project_of(request.parent, Role.VIEW)
        project, reference = names.reference_of(request.reference, parent)
        resolved = await self._threads.run(self._registry.reader.resolve, project, reference)
        return convert.resolved(resolved)

    async def ListVersions(
        self, request: wire.ListVersionsRequest, context: object
    ) -> wire.ListVersionsResponse:
        """List an adapter's versions."""
        project, adapter = names.adapter_of(request.parent, Role.VIEW)
        page = await self._threads.run(
            self._registry.versions.list,
            project,
            adapter,
            include_yanked=request.include_yanked,
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        return wire.ListVersionsResponse(
            versions=[convert.version(version) for version in page.items],
            next_page_token=page.next_page_token,
        )

    async def SearchVersions(
        self, request: wire.SearchVersionsRequest, context: object
    ) -> wire.SearchVersionsResponse:
        """Find versions over all adapters of a project."""
        project = names.project_of(request.parent, Role.VIEW)
        page = await self._threads.run(
            self._registry.versions.search,
            project,
            base=names.optional_base_of(request.filter.base_model),
            tag=request.filter.tag,
            text=request.filter.text,
            metric=metric_filter(request.filter),
            derived_from=request.filter.derived_from,
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        return wire.SearchVersionsResponse(
            versions=[convert.version(version) for version in page.items],
            next_page_token=page.next_page_token,
        )

    async def YankVersion(
        self, request: wire.YankVersionRequest, context: object
    ) -> wire.YankVersionResponse:
        """Make a version unresolvable."""
        project, adapter, number = names.version_of(request.name, Role.PROMOTE)
        version = await self._threads.run(
            self._registry.versions.yank,
            project,
            adapter,
            number,
            reason=request.reason,
            by=current_call().principal.subject,
        )
        return wire.YankVersionResponse(version=convert.version(version))

    async def UnyankVersion(
        self, request: wire.UnyankVersionRequest, context: object
    ) -> wire.UnyankVersionResponse:
        """Make a yanked version resolvable again."""
        project, adapter, number = names.version_of(request.name, Role.PROMOTE)
        version = await self._threads.run(
            self._registry.versions.unyank,
            project,
            adapter,
            number,
            reason=request.reason,
            by=current_call().principal.subject,
        )
        return wire.UnyankVersionResponse(version=convert.version(version))

    async def HoldVersion(
        self, request: wire.HoldVersionRequest, context: object
    ) -> wire.HoldVersionResponse:
        """Keep a version from being deleted."""
        project, adapter, number = names.version_of(request.name, Role.PROMOTE)
        until = request.expires_at if request.HasField("expires_at") else None
        version = await self._threads.run(
            self._registry.versions.hold,
            project,
            adapter,
            number,
            reason=request.reason,
            expires_at=None if until is None else moment_of("expires_at", until),
            by=current_call().principal.subject,
        )
        return wire.HoldVersionResponse(version=convert.version(version))

    async def UnholdVersion(
        self, request: wire.UnholdVersionRequest, context: object
    ) -> wire.UnholdVersionResponse:
        """Take a hold back."""
        project, adapter, number = names.version_of(request.name, Role.PROMOTE)
        version = await self._threads.run(
            self._registry.versions.unhold,
            project,
            adapter,
            number,
            reason=request.reason,
            by=current_call().principal.subject,
        )
        return wire.UnholdVersionResponse(version=convert.version(version))

    async def DeleteVersion(
        self, request: wire.DeleteVersionRequest, context: object
    ) -> wire.DeleteVersionResponse:
        """Remove a version that nothing refers to."""
        project, adapter, number = names.version_of(request.name, Role.PROMOTE)
        subject = current_call().principal.subject
        await self._threads.run(
            self._registry.versions.delete, project, adapter, number, by=subject
        )
        return wire.DeleteVersionResponse()


def _update_adapter(
    registry: Registry, project: str, name: str, request: wire.UpdateAdapterRequest, by: str
) -> Adapter:
    try:
        return registry.adapters.update(
            project,
            name,
            owner=request.owner if request.HasField("owner") else None,
            description=request.description if request.HasField("description") else None,
            tags=tuple(request.tags.tags) if request.HasField("tags") else None,
            expected_etag=request.etag or None,
            by=by,
        )
    except StaleGeneration as error:  # the registry's word for an alias; here it is an etag's
        raise StaleEtag(name, request.etag, str(error.actual)) from error


def _promised_base(request: wire.PublishVersionRequest) -> BaseDigests | None:
    if not request.HasField("base_digests"):
        return None
    digests = convert.read_base_digests(request.base_digests)
    if not (digests.structural and digests.weights and digests.tokenizer):
        raise InvalidArgument("base_digests", "needs all three digests, or none")
    return digests
