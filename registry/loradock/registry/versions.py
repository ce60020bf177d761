"""Publishing: admission first, blobs next, the row last."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from sqlalchemy import Connection

from loradock.registry.admission import Admission
from loradock.registry.blobs import Blobs
from loradock.registry.catalog.bases import Bases
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.publishing import (
    Candidate,
    find_twin,
    find_unknown_parents,
    publish,
)
from loradock.registry.catalog.requests import Request
from loradock.registry.catalog.versions import VersionTable
from loradock.registry.errors import BaseMismatch, NotFound, Problem
from loradock.registry.limits import Limits
from loradock.registry.manifest import (
    Manifest,
    digest_bytes,
    digests_to_json,
    lineage_from_json,
    lineage_to_json,
)
from loradock.registry.names import check_digest, check_name, check_text
from loradock.registry.profile import check_lineage, check_profile
from loradock.registry.resources import (
    BaseDigests,
    BaseModel,
    Delta,
    Lineage,
    LoraModule,
    Profile,
    Published,
    Version,
)
from loradock.registry.stores import BlobStore


class Versions(VersionTable):
    """An adapter's states: published here, kept by the table."""

    def __init__(
        self, database: Database, store: BlobStore, bases: Bases, blobs: Blobs, limits: Limits
    ) -> None:
        super().__init__(database, bases, limits)
        self._store = store
        self._blobs = blobs

    def publish(
        self,
        project: str,
        adapter: str,
        *,
        base: str,
        base_digests: BaseDigests | None,
        delta: Delta,
        profile: Profile = Profile(),  # noqa: B008 - frozen
        lineage: Lineage = Lineage(),  # noqa: B008 - frozen
        by: str,
        create_adapter: bool = True,
        validate_only: bool = False,
        request_id: str = "",
    ) -> Published:
        """Admit uploaded bytes as a READY version; the same content again is the same version."""
        check_name("project", project)
        check_name("adapter", adapter)
        check_text("by", by, 256)
        known_base = self._promised_base(base, base_digests)
        problems = [*check_profile(profile, self._limits), *check_lineage(lineage, self._limits)]
        if problems:
            lineage = dataclasses.replace(lineage, training={}, parents=(), datasets=())
            profile = Profile()
        self._check_delta(project, delta)
        manifest = Manifest(known_base.digests, delta, profile, _canonical(lineage))
        content = manifest.to_bytes()
        digest = digest_bytes(content)
        payload = {"do": "version.publish", "adapter": adapter, "digest": digest}
        request = Request(project, request_id, payload)
        if not problems:
            earlier = self._earlier(project, adapter, digest, request, validate_only)
            if earlier is not None:
                return earlier
        modules = self._admit(project, known_base, manifest, problems)
        candidate = Candidate(
            project, adapter, digest, manifest, len(content), known_base, modules, by
        )
        if not validate_only:
            self._put_manifest(digest, content)
        return self._commit(candidate, request, create_adapter, validate_only)

    def manifest(self, version: Version) -> bytes:
        """Give a version's canonical manifest, whose sha256 is the version's digest."""
        return Manifest(
            version.base.digests, version.delta, version.profile, version.lineage
        ).to_bytes()

    def _promised_base(self, name: str, promised: BaseDigests | None) -> BaseModel:
        base = self._bases.get(name)
        if promised is not None and promised != base.digests:
            registered = digests_to_json(base.digests)
            raise BaseMismatch(
                [
                    Problem(f"base.{part}", "BASE_MODEL_MISMATCH", f"is {digest}, not {wanted}")
                    for part, digest in digests_to_json(promised).items()
                    if digest != (wanted := registered[part])
                ]
            )
        return base

    def _check_delta(self, project: str, delta: Delta) -> None:
        for field, ref in (("weights", delta.weights), ("config", delta.config)):
            check_digest(f"delta.{field}", ref.digest)
            if self._blobs.ref(project, ref.digest) != ref:
                raise NotFound("blob", f"{ref.digest} of {ref.size_bytes} bytes")

    def _earlier(
        self, project: str, adapter: str, digest: str, request: Request, validate_only: bool
    ) -> Published | None:
        with self._database.read() as c:
            outcome = request.peek(c)
            row = find_twin(c, project, adapter, digest)
            if row is None:
                return None
            version = self.read(c, row)
        if outcome is not None:
            return Published(version, bool(outcome["created"]))
        if validate_only or not request.id:
            return Published(version, created=False)
        return None

    def _admit(
        self, project: str, base: BaseModel, manifest: Manifest, problems: list[Problem]
    ) -> tuple[LoraModule, ...]:
        parents = manifest.lineage.parents
        with self._database.read() as c:
            unknown = find_unknown_parents(c, project, parents)
        problems += [
            Problem("lineage.parents", "PARENT_UNKNOWN", f"the project has no version {parent}")
            for parent in unknown
        ]
        admission = Admission(self._store.read, self._limits)
        return admission.admit(base, manifest.delta, problems)

    def _put_manifest(self, digest: str, content: bytes) -> None:
        with tempfile.NamedTemporaryFile(
            dir=self._store.staging, prefix="manifest-", delete=False
        ) as file:
            file.write(content)
        try:
            self._store.put(digest, Path(file.name))
        finally:
            Path(file.name).unlink(missing_ok=True)

    def _commit(
        self, candidate: Candidate, request: Request, create_adapter: bool, validate_only: bool
    ) -> Published:
        def work(c: Connection) -> Published:
            row, created = publish(c, candidate, request, create_adapter=create_adapter)
            return Published(self.read(c, row), created)

        run = self._database.rehearse if validate_only else self._database.write
        return run(work)


def _canonical(lineage: Lineage) -> Lineage:
    return lineage_from_json(lineage_to_json(lineage))
