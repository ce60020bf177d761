"""Every method of the wire by its name, and what its requests name; with something of "other"."""

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
