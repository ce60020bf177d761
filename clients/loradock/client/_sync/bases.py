# Generated from _async/bases.py by scripts/generate_sync_client.py. Do not edit.
"""The bases that versions are admitted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from loradock.client._names import base_name
from loradock.client._sync.calls import Calls
from loradock.client._values.registry import BaseDigests, BaseModel, ModuleShape, RegisteredBase
from loradock.client._wire.built import built
from loradock.client._wire.registry import base_digests_message, base_model_of
from loradock.v1 import registry_service_pb2 as wire
from loradock.v1 import resources_pb2
from loradock.v1.registry_service_pb2_grpc import RegistryServiceStub


class Bases:
    """Bases. Shared by all projects, known by their digests."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = RegistryServiceStub(calls.channel)

    def register(
        self,
        base: str,
        *,
        digests: BaseDigests,
        architecture: str,
        modules: Mapping[str, ModuleShape],
        context_length_tokens: int,
        num_parameters: int,
        description: str = "",
    ) -> RegisteredBase:
        """Record a base. The same digests under the same name change nothing."""
        message = built(
            resources_pb2.BaseModel,
            name=base_name(base),
            digests=base_digests_message(digests),
            architecture=architecture,
            modules={
                path: built(
                    resources_pb2.ModuleShape,
                    in_features=shape.in_features,
                    out_features=shape.out_features,
                )
                for path, shape in modules.items()
            },
            context_length_tokens=context_length_tokens,
            num_parameters=num_parameters,
            description=description,
        )
        request = built(wire.RegisterBaseModelRequest, base_model=message)
        response = self._calls.unary(self._stub.RegisterBaseModel, request)
        return RegisteredBase(base_model_of(response.base_model), response.created)

    def get(self, base: str) -> BaseModel:
        """Give a base with its modules."""
        request = built(wire.GetBaseModelRequest, name=base_name(base))
        return base_model_of((self._calls.unary(self._stub.GetBaseModel, request)).base_model)

    def list(self, *, page_size: int = 0) -> Iterator[BaseModel]:
        """List the bases, without their modules."""
        request = built(wire.ListBaseModelsRequest, page_size=page_size)
        return self._calls.pages(
            self._stub.ListBaseModels, request, lambda page: page.base_models, base_model_of
        )
