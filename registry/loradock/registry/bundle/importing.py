"""Reads bundles: each blob hashed, each version admitted and published as if it were made here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from loradock.registry.blobs import Blobs
from loradock.registry.bundle.archive import Member, Readable, members
from loradock.registry.bundle.index import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    BundledAdapter,
    BundledAlias,
    BundledVersion,
    Index,
    parse_index,
)
from loradock.registry.catalog.adapters import Adapters
from loradock.registry.catalog.aliases import Aliases
from loradock.registry.catalog.bases import Bases
from loradock.registry.catalog.evaluation_import import EvaluationImport
from loradock.registry.errors import AlreadyExists, DigestMismatch, InvalidArgument, NotFound
from loradock.registry.manifest import Manifest, parse_manifest
from loradock.registry.names import check_name, check_text
from loradock.registry.resources import BaseDigests, BaseModel, BlobRef, Published
from loradock.registry.stores import blob_key
from loradock.registry.versions import Versions

MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class ImportedVersion:
    """A version of a bundle, and what it is here."""

    digest: str
    source: str  # "support-triage@7", where it comes from
    reference: str  # here; empty if nothing was published
    created: bool


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did, or would do."""

    versions: tuple[ImportedVersion, ...]
    base_models: tuple[str, ...]  # made known here
    num_evaluations: int  # not here before
    aliases: tuple[str, ...]  # moved


class Importer:
    """Takes bundles in. The same bundle again changes nothing."""

    def __init__(
        self,
        bases: Bases,
        adapters: Adapters,
        versions: Versions,
        aliases: Aliases,
        evaluations: EvaluationImport,
        blobs: Blobs,
    ) -> None:
        self._bases = bases
        self._adapters = adapters
        self._versions = versions
        self._aliases = aliases
        self._evaluations = evaluations
        self._blobs = blobs

    def take(
        self,
        project: str,
        file: Readable,
        *,
        with_aliases: bool = False,
        may_move_protected: bool = False,
        validate_only: bool = False,
        by: str,
    ) -> Imported:
        """Take all of a bundle in, in the order in which it grew.

        Broken off, it has taken in what stands first; again, it goes on from there. To validate
        reads and hashes everything, and tells what is new; what needs the bytes to be here (the
        check of the tensors) is then done for what is here.
        """
        check_name("project", project)
        check_text("by", by, 256)
        reading = members(file)
        index = _index_of(next(reading, None))
        manifests = self._blobs_of(project, index, reading, validate_only)
        bases = tuple(self._known_bases(index.bases, by, validate_only))
        names = {base.digests: name for base, name in self._named(index.bases)}
        if not validate_only:
            self._describe(project, index.adapters, by)
        taken = [
            self._version(project, one, manifests, names, by, validate_only)
            for one in index.versions
        ]
        evaluations = self._evaluations.take(project, index.evaluations, by, validate_only)
        aliases = index.aliases if with_aliases else ()
        moved = self._moved(project, aliases, by, validate_only, may_move_protected)
        return Imported(tuple(taken), bases, evaluations, tuple(moved))

    def _blobs_of(
        self, project: str, index: Index, reading: Iterator[Member], validate_only: bool
    ) -> dict[str, Manifest]:
        """Read every blob that the index promises, in its order, and nothing else."""
        wanted = {version.manifest.digest: version.manifest for version in index.versions}
        manifests: dict[str, Manifest] = {}
        for ref in index.blobs:
            member = next(reading, None)
            if member is None or member.name != blob_key(ref.digest):
                found = "nothing" if member is None else repr(member.name)
                raise InvalidArgument("bundle", f"{ref.digest} should follow, not {found:.120}")
            if member.size_bytes != ref.size_bytes:
                raise InvalidArgument("bundle", f"{ref.digest} has {member.size_bytes} bytes")
            if ref.digest in wanted:
                manifests[ref.digest] = _manifest(ref, member)
            else:
                self._blob(project, ref, member, validate_only)
        if (extra := next(reading, None)) is not None:
            raise InvalidArgument("bundle", f"{extra.name!r:.120} is in no index")
        return manifests

    def _blob(self, project: str, ref: BlobRef, member: Member, validate_only: bool) -> None:
        if validate_only or not self._blobs.find_missing(project, [ref]):
            _check(ref, member)
            return
        with self._blobs.writer(project, ref) as writer:
            for chunk in member.content:
                writer.write(chunk)
            writer.commit()

    def _known_bases(
        self, bases: tuple[BaseModel, ...], by: str, validate_only: bool
    ) -> Iterator[str]:
        for base in bases:
            if self._bases.by_digests(base.digests) is None:
                if not validate_only:
                    self._bases.register(base, by=by)
                yield base.name

    def _named(self, bases: tuple[BaseModel, ...]) -> Iterator[tuple[BaseModel, str]]:
        """Give each base with its name here: it may be another one."""
        for base in bases:
            known = self._bases.by_digests(base.digests)
            yield base, base.name if known is None else known.name

    def _describe(self, project: str, adapters: tuple[BundledAdapter, ...], by: str) -> None:
        """Make adapters that are not here; those that are stay as they are."""
        for one in adapters:
            with suppress(AlreadyExists):
                self._adapters.create(
                    project,
                    one.name,
                    owner=one.owner,
                    description=one.description,
                    tags=one.tags,
                    by=by,
                )

    def _version(
        self,
        project: str,
        bundled: BundledVersion,
        manifests: dict[str, Manifest],
        names: dict[BaseDigests, str],
        by: str,
        validate_only: bool,
    ) -> ImportedVersion:
        digest = bundled.manifest.digest
        manifest = manifests.get(digest)
        if manifest is None or manifest.base not in names:
            raise InvalidArgument("bundle", f"{bundled.source} lacks its manifest or its base")
        if validate_only:
            here = self._here(project, bundled.adapter, digest)
            return ImportedVersion(digest, bundled.source, here, not here)
        published = self._publish(project, bundled, manifest, names[manifest.base], by)
        version = published.version
        if version.digest != digest:
            raise DigestMismatch(digest, version.digest)
        reference = f"{version.adapter}@{version.number}"
        return ImportedVersion(digest, bundled.source, reference, published.created)

    def _publish(
        self, project: str, bundled: BundledVersion, manifest: Manifest, base: str, by: str
    ) -> Published:
        return self._versions.publish(
            project,
            bundled.adapter,
            base=base,
            base_digests=manifest.base,
            delta=manifest.delta,
            profile=manifest.profile,
            lineage=manifest.lineage,
            yanked=bundled.yanked,
            by=by,
        )

    def _here(self, project: str, adapter: str, digest: str) -> str:
        found = self._versions.twin(project, adapter, digest)
        return "" if found is None else f"{found.adapter}@{found.number}"

    def _moved(
        self,
        project: str,
        aliases: tuple[BundledAlias, ...],
        by: str,
        validate_only: bool,
        may_move_protected: bool,
    ) -> Iterator[str]:
        for alias in aliases:
            twin = self._versions.twin(project, alias.adapter, alias.digest)
            points_at, generation = self._points_at(project, alias)
            if points_at == alias.digest:
                continue
            if twin is not None and not validate_only:
                self._aliases.set(
                    project,
                    alias.adapter,
                    alias.name,
                    version_number=twin.number,
                    expected_generation=generation,
                    reason="imported with a bundle",
                    by=by,
                    may_move_protected=may_move_protected,
                )
            yield f"{alias.adapter}:{alias.name}"

    def _points_at(self, project: str, alias: BundledAlias) -> tuple[str, int | None]:
        try:
            found = self._aliases.get(project, alias.adapter, alias.name)
        except NotFound:
            return "", None
        return found.version_digest, found.generation


def _index_of(member: Member | None) -> Index:
    if member is None or member.name != INDEX_NAME:
        raise InvalidArgument("bundle", f"does not begin with {INDEX_NAME}")
    if member.size_bytes > MAX_INDEX_BYTES:
        raise InvalidArgument("bundle", f"its index has {member.size_bytes} bytes")
    return parse_index(b"".join(member.content))


def _manifest(ref: BlobRef, member: Member) -> Manifest:
    if ref.size_bytes > MAX_MANIFEST_BYTES:
        raise InvalidArgument("bundle", f"the manifest {ref.digest} has {ref.size_bytes} bytes")
    content = b"".join(member.content)
    _check(ref, Member(member.name, member.size_bytes, iter((content,))))
    return parse_manifest(content)


def _check(ref: BlobRef, member: Member) -> None:
    sha256 = hashlib.sha256()
    for chunk in member.content:
        sha256.update(chunk)
    if (found := f"sha256:{sha256.hexdigest()}") != ref.digest:
        raise DigestMismatch(ref.digest, found)
