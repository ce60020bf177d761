"""Every method of the wire by its name, and what its requests name; with something of "other"."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import Message

from loradock.v1 import (
    admin_service_pb2,
    alias_service_pb2,
    evaluation_service_pb2,
    inference_service_pb2,
    registry_service_pb2,
    rollout_service_pb2,
    server_service_pb2,
)

FILES = (
    admin_service_pb2,
    registry_service_pb2,
    alias_service_pb2,
    evaluation_service_pb2,
    inference_service_pb2,
    rollout_service_pb2,
    server_service_pb2,
)
METHODS = {
    method.name: method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
ADAPTER = "projects/other/adapters/triage"
ALIAS = f"{ADAPTER}/aliases/production"
NAMES = {  # by how a method's name ends; the first that fits
    "AliasPolicy": f"{ALIAS}/policy",
    "AliasPolicyRevisions": f"{ALIAS}/policy",
    "ApproveVersion": ALIAS,
    "BaseModel": "baseModels/tiny",
    "Adapter": ADAPTER,
    "Version": f"{ADAPTER}/versions/1",
    "Evaluation": "projects/other/evaluations/one",
    "StartRollout": ALIAS,
    "Rollout": f"{ALIAS}/rollout",
    "": ALIAS,
}
PARENTS = {"PublishVersion": ADAPTER, "ListVersions": ADAPTER, "ListAliases": ADAPTER}


async def ask(
    channel: grpc.aio.Channel, name: str, request: Message, timeout_s: float, **metadata: str
) -> None:
    """Call a method and hear it out. Raises what it is refused with."""
    method = METHODS[name]
    kinds = {True: "stream", False: "unary"}
    kind = f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
    call = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=method.output_type._concrete_class.FromString,
    )
    given: Any = once(request) if method.client_streaming else request
    answer = call(given, timeout=timeout_s, metadata=tuple(metadata.items()))
    if method.server_streaming:
        async for _ in answer:
            pass
    else:
        await answer


async def once(request: Message) -> AsyncIterator[Message]:
    yield request
