"""The named series of versions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from loradock.client._async.calls import AsyncCalls
from loradock.client._names import adapter_name, project_name, split_adapter
from loradock.client._values.registry import Adapter, MetricFilter
from loradock.client._wire.built import built
from loradock.client._wire.registry import adapter_of, filter_message
from loradock.v1 import registry_service_pb2 as wire
from loradock.v1.registry_service_pb2_grpc import RegistryServiceStub


class AsyncAdapters:
    """Adapters: one per task, each a series of versions."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls
        self._stub = RegistryServiceStub(calls.channel)

    async def create(
        self,
        adapter: str,
        *,
        owner: str = "",
        description: str = "",
        tags: Sequence[str] = (),
        request_id: str | None = None,
    ) -> Adapter:
        """Create an adapter without a version. A push of the first version does so, too."""
        project, adapter_id = split_adapter(adapter, self._calls.project)
        request = built(
            wire.CreateAdapterRequest,
            parent=project_name(project),
            adapter_id=adapter_id,
            owner=owner,
            description=description,
            tags=tags,
        )
        response = await self._calls.unary(self._stub.CreateAdapter, request, request_id=request_id)
        return adapter_of(response.adapter)

    async def get(self, adapter: str) -> Adapter:
        """Give an adapter."""
        request = built(wire.GetAdapterRequest, name=adapter_name(adapter, self._calls.project))
        return adapter_of((await self._calls.unary(self._stub.GetAdapter, request)).adapter)

    def list(
        self,
        *,
        base: str = "",
        tag: str = "",
        text: str = "",
        metric: MetricFilter | None = None,
        derived_from: str = "",
        page_size: int = 0,
    ) -> AsyncIterator[Adapter]:
        """List the project's adapters, those that all given filters let through."""
        request = built(
            wire.ListAdaptersRequest,
            parent=project_name(self._calls.project),
            filter=filter_message(base, tag, text, metric, derived_from),
            page_size=page_size,
        )
        return self._calls.pages(
            self._stub.ListAdapters, request, lambda page: page.adapters, adapter_of
        )

    async def update(
        self,
        adapter: str,
        *,
        owner: str | None = None,
        description: str | None = None,
        tags: Sequence[str] | None = None,
        etag: str = "",
    ) -> Adapter:
        """Change what is not None; with an `etag`, only what was read under it."""
        request = built(
            wire.UpdateAdapterRequest,
            name=adapter_name(adapter, self._calls.project),
            owner=owner,
            description=description,
            tags=None if tags is None else built(wire.TagSet, tags=tags),
            etag=etag,
        )
        return adapter_of((await self._calls.unary(self._stub.UpdateAdapter, request)).adapter)

    async def delete(self, adapter: str) -> None:
        """Remove an adapter that has no version and no alias left."""
        request = built(wire.DeleteAdapterRequest, name=adapter_name(adapter, self._calls.project))
        await self._calls.unary(self._stub.DeleteAdapter, request)
