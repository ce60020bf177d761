"""Publishing: admission first, blobs next, the row last."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from loradock.registry.admission import Admission
from loradock.registry.blobs import Blobs, put_held
from loradock.registry.catalog.bases import Bases
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.publishing import (
    Candidate,
    ManifestCollected,
    find_twin,
    find_unknown_parents,
    parent_problems,
    publish,
)
from loradock.registry.catalog.requests import Request
from loradock.registry.catalog.versions import VersionTable
from loradock.registry.errors import BaseMismatch, NotFound, Problem, StoreUnavailable
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
    BlobRef,
    Delta,
    Lineage,
    LoraModule,
    Profile,
    Published,
    Version,
)
from loradock.registry.steps import reached
from loradock.registry.stores import BlobStore

_ATTEMPTS = 5


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
        yanked: str | None = None,
        by: str,
        create_adapter: bool = True,
        validate_only: bool = False,
        request_id: str = "",
    ) -> Published:
        """Admit uploaded bytes as a READY version; the same content again is the same version.

        One that comes with the reason why it was `yanked` elsewhere is so from its first moment.
        """
        check_name("project", project)
        check_name("adapter", adapter)
        check_text("by", by, 256)
        check_text("yanked", yanked or "", self._limits.max_text_chars)
        known_base = self._promised_base(base, base_digests)
        problems = [*check_profile(profile, self._limits), *check_lineage(lineage, self._limits)]
        if problems:
            lineage = Lineage()
            profile = Profile()
        self._check_delta(project, delta)
        manifest = Manifest(known_base.digests, delta, profile, _canonical(lineage))
        content = manifest.to_bytes()
        digest = digest_bytes(content)
        payload = {"do": "version.publish", "adapter": adapter, "digest": digest}
        request = Request(project, request_id, payload)
        twin, outcome = (None, None) if problems else self._twin(project, adapter, digest, request)
        settled = outcome is not None or validate_only or not request.id
        if twin is not None and settled and not self._blobs.is_damaged(digest):
            return Published(twin, created=bool(outcome and outcome["created"]))
        modules = (
            self._admit(project, known_base, manifest, problems)
            if twin is None
            else twin.modules  # of the same bytes for the same base: admitted before
        )
        candidate = Candidate(
            project, adapter, digest, manifest, len(content), known_base, modules, by, yanked
        )
        if validate_only:
            return self._database.rehearse(self._committing(candidate, request, create_adapter))
        return self._publish(candidate, content, request, create_adapter)

    def twin(self, project: str, adapter: str, digest: str) -> Version | None:
        """Give an adapter's version of a digest, a yanked one, too; None if it has none."""
        with self._database.read() as c:
            row = find_twin(c, project, adapter, digest)
            return None if row is None else self.read(c, row)

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
        for ref in self._blobs.find_missing(project, [delta.weights, delta.config]):
            raise NotFound("blob", f"{ref.digest} of {ref.size_bytes} bytes")

    def _twin(
        self, project: str, adapter: str, digest: str, request: Request
    ) -> tuple[Version | None, dict[str, Any] | None]:
        """Find the version of the same content, and what an earlier such request came to."""
        with self._database.read() as c:
            outcome = request.peek(c)
            row = find_twin(c, project, adapter, digest)
            return (None if row is None else self.read(c, row)), outcome

    def _admit(
        self, project: str, base: BaseModel, manifest: Manifest, problems: list[Problem]
    ) -> tuple[LoraModule, ...]:
        parents = manifest.lineage.versions
        with self._database.read() as c:
            unknown = find_unknown_parents(c, project, parents)
        problems += parent_problems(unknown)
        admission = Admission(self._blobs.checked, self._limits)
        return admission.admit(base, manifest.delta, problems)

    def _publish(
        self, candidate: Candidate, content: bytes, request: Request, create_adapter: bool
    ) -> Published:
        reached("publish.admitted")
        for _ in range(_ATTEMPTS):
            born = self._put_manifest(candidate.digest, content)
            reached("publish.manifest_put")
            held = dataclasses.replace(candidate, manifest_born=born)
            with suppress(ManifestCollected):
                published = self._database.write(self._committing(held, request, create_adapter))
                reached("publish.committed")
                return published
        raise StoreUnavailable(f"{candidate.digest}: was collected as garbage {_ATTEMPTS} times")

    def _put_manifest(self, digest: str, content: bytes) -> datetime:
        file = self._store.spool.temporary("manifest")
        try:
            file.write(content)
            reached("publish.manifest_staged")
            return put_held(self._database, self._store, BlobRef(digest, len(content)), file.path)
        finally:
            file.drop()

    def _committing(
        self, candidate: Candidate, request: Request, create_adapter: bool
    ) -> Callable[[Connection], Published]:
        def work(c: Connection) -> Published:
            row, created = publish(c, candidate, request, create_adapter=create_adapter)
            reached("publish.written")
            return Published(self.read(c, row), created)

        return work


def _canonical(lineage: Lineage) -> Lineage:
    return lineage_from_json(lineage_to_json(lineage))
