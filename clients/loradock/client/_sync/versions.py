# Generated from _async/versions.py by scripts/generate_sync_client.py. Do not edit.
"""The immutable states of adapters: push, pull, and what there is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from loradock.client._blocking import in_place
from loradock.client._folder import AdapterFolder, read_folder
from loradock.client._names import (
    adapter_name,
    base_name,
    parse_reference,
    project_name,
    split_adapter,
    version_name,
)
from loradock.client._pulled import files_to_fetch, finish_pull
from loradock.client._sync.blobs import Blobs
from loradock.client._sync.calls import Calls
from loradock.client._transfer import OnProgress
from loradock.client._values.registry import (
    BaseDigests,
    Dataset,
    Lineage,
    MetricFilter,
    Profile,
    Published,
    Resolution,
    Version,
)
from loradock.client._wire.built import built
from loradock.client._wire.registry import (
    base_digests_message,
    blob_message,
    filter_message,
    lineage_message,
    profile_message,
    version_of,
)
from loradock.client._wire.scalars import timestamp
from loradock.v1 import registry_service_pb2 as wire
from loradock.v1 import resources_pb2
from loradock.v1.registry_service_pb2_grpc import RegistryServiceStub


class Versions:
    """Versions: immutable, numbered, known everywhere by their digest."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = RegistryServiceStub(calls.channel)
        self._blobs = Blobs(calls)

    def push(
        self,
        adapter: str,
        folder: str | os.PathLike[str],
        *,
        base: str,
        base_digests: BaseDigests | None = None,
        parents: Sequence[str] | None = None,
        merge_of: Sequence[str] | None = None,
        distilled_from: Sequence[str] | None = None,
        datasets: Sequence[Dataset] | None = None,
        training: Mapping[str, Any] | None = None,
        profile: Profile | None = None,
        progress: OnProgress | None = None,
        validate_only: bool = False,
        request_id: str | None = None,
    ) -> Published:
        """Publish a PEFT folder as a version of `adapter`, made for `base`.

        What the registry has already isn't sent again. `profile.json` and `lineage.json` in the
        folder are read, and the `version.json` of a pull: the weights were made for the base whose
        digests it has. What is given here goes before them. `parents`, `merge_of` (whose weights
        were merged) and `distilled_from` (whose answers were learnt) are references or digests.
        With `validate_only` the bytes go up and everything is checked, but nothing is published.
        """
        project, adapter_id = split_adapter(adapter, self._calls.project)
        local = in_place(read_folder, Path(folder))
        request = built(
            wire.PublishVersionRequest,
            parent=adapter_name(adapter_id, project),
            base_model=base_name(base),
            base_digests=base_digests_message(base_digests or local.base_digests),
            delta=_delta(local),
            profile=profile_message(local.profile if profile is None else profile),
            validate_only=validate_only,
        )
        lineage = Lineage(
            self._digests(local.lineage.parents if parents is None else parents, project),
            tuple(local.lineage.datasets if datasets is None else datasets),
            local.lineage.training if training is None else training,
            self._digests(local.lineage.merge_of if merge_of is None else merge_of, project),
            self._digests(
                local.lineage.distilled_from if distilled_from is None else distilled_from, project
            ),
        )
        request.lineage.CopyFrom(lineage_message(lineage))
        sent_bytes = self._blobs.send(project, (local.config, local.weights), progress)
        response = self._calls.unary(self._stub.PublishVersion, request, request_id=request_id)
        return Published(version_of(response.version), response.created, sent_bytes)

    def _digests(self, parents: Sequence[str], project: str) -> tuple[str, ...]:
        digests = []
        for parent in parents:
            known = parent.startswith("sha256:")
            resolved = None if known else self._resolve(parent, project)
            digests.append(parent if resolved is None else resolved.version.digest)
        return tuple(digests)

    def pull(
        self,
        reference: str,
        folder: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        progress: OnProgress | None = None,
    ) -> Version:
        """Fetch a version into a folder that can be pushed again to the same digest.

        Each file appears only when its bytes are proven. `version.json` tells what it is. Files
        that differ are not replaced unless `overwrite` says so.
        """
        version = (self.resolve(reference)).version
        target = Path(folder)
        for path, blob in in_place(files_to_fetch, target, version, overwrite):
            self._blobs.fetch(version.project, blob, path, progress)
        in_place(finish_pull, target, version)
        return version

    def get(self, adapter: str, number: int) -> Version:
        """Give a version, also a yanked one."""
        request = built(
            wire.GetVersionRequest, name=version_name(adapter, number, self._calls.project)
        )
        return version_of((self._calls.unary(self._stub.GetVersion, request)).version)

    def resolve(self, reference: str) -> Resolution:
        """Tell what a reference means now; a bare adapter name means its `production`."""
        return self._resolve(reference, self._calls.project)

    def _resolve(self, reference: str, project: str) -> Resolution:
        wanted = parse_reference(reference, project)
        request = built(
            wire.ResolveVersionRequest, parent=project_name(wanted.project), reference=wanted.text
        )
        response = self._calls.unary(self._stub.ResolveVersion, request)
        return Resolution(
            version=version_of(response.version),
            alias=response.alias if response.HasField("alias") else None,
            generation=response.generation if response.HasField("generation") else None,
        )

    def list(
        self, adapter: str, *, include_yanked: bool = False, page_size: int = 0
    ) -> Iterator[Version]:
        """List an adapter's versions."""
        request = built(
            wire.ListVersionsRequest,
            parent=adapter_name(adapter, self._calls.project),
            include_yanked=include_yanked,
            page_size=page_size,
        )
        return self._calls.pages(
            self._stub.ListVersions, request, lambda page: page.versions, version_of
        )

    def search(
        self,
        *,
        base: str = "",
        tag: str = "",
        text: str = "",
        metric: MetricFilter | None = None,
        derived_from: str = "",
        page_size: int = 0,
    ) -> Iterator[Version]:
        """Find versions over all adapters of the project.

        `derived_from` is the digest of a dataset or a version that they came from, at any distance.
        """
        request = built(
            wire.SearchVersionsRequest,
            parent=project_name(self._calls.project),
            filter=filter_message(base, tag, text, metric, derived_from),
            page_size=page_size,
        )
        return self._calls.pages(
            self._stub.SearchVersions, request, lambda page: page.versions, version_of
        )

    def yank(self, adapter: str, number: int, *, reason: str) -> Version:
        """Make a version unresolvable; it stays auditable."""
        name = version_name(adapter, number, self._calls.project)
        request = built(wire.YankVersionRequest, name=name, reason=reason)
        return version_of((self._calls.unary(self._stub.YankVersion, request)).version)

    def unyank(self, adapter: str, number: int, *, reason: str) -> Version:
        """Make a yanked version resolvable again."""
        name = version_name(adapter, number, self._calls.project)
        request = built(wire.UnyankVersionRequest, name=name, reason=reason)
        return version_of((self._calls.unary(self._stub.UnyankVersion, request)).version)

    def hold(
        self, adapter: str, number: int, *, reason: str, expires_at: datetime | None = None
    ) -> Version:
        """Keep a version from being deleted, until a time or until `unhold`; again is anew."""
        request = built(
            wire.HoldVersionRequest,
            name=version_name(adapter, number, self._calls.project),
            reason=reason,
            expires_at=None if expires_at is None else timestamp(expires_at),
        )
        return version_of((self._calls.unary(self._stub.HoldVersion, request)).version)

    def unhold(self, adapter: str, number: int, *, reason: str = "") -> Version:
        """Take a hold back; without one nothing happens."""
        name = version_name(adapter, number, self._calls.project)
        request = built(wire.UnholdVersionRequest, name=name, reason=reason)
        return version_of((self._calls.unary(self._stub.UnholdVersion, request)).version)

    def delete(self, adapter: str, number: int) -> None:
        """Remove a version that nothing refers to."""
        name = version_name(adapter, number, self._calls.project)
        self._calls.unary(self._stub.DeleteVersion, built(wire.DeleteVersionRequest, name=name))


def _delta(local: AdapterFolder) -> resources_pb2.Delta:
    return built(
        resources_pb2.Delta,
        weights=blob_message(local.weights.blob),
        config=blob_message(local.config.blob),
    )
