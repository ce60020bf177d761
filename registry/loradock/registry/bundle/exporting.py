"""Writes bundles: what is asked for, all that it grew from, and all bytes that this needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TypeVar

from loradock.registry.blobs import Blobs
from loradock.registry.bundle import archive
from loradock.registry.bundle.index import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    BundledAdapter,
    BundledAlias,
    BundledVersion,
    Index,
)
from loradock.registry.catalog.adapters import Adapters
from loradock.registry.catalog.aliases import Aliases
from loradock.registry.catalog.evaluations import Evaluations
from loradock.registry.errors import DigestMismatch, InvalidArgument
from loradock.registry.names import parse_reference
from loradock.registry.reader import CatalogReader
from loradock.registry.resources import Alias, BlobRef, Evaluation, Page, Version, VersionState
from loradock.registry.stores import blob_key
from loradock.registry.versions import Versions

T = TypeVar("T")
_PAGE = 200


class Exporter:
    """Makes bundles of a project's versions. Changes nothing."""

    def __init__(
        self,
        versions: Versions,
        adapters: Adapters,
        aliases: Aliases,
        evaluations: Evaluations,
        reader: CatalogReader,
        blobs: Blobs,
    ) -> None:
        self._versions = versions
        self._adapters = adapters
        self._aliases = aliases
        self._evaluations = evaluations
        self._reader = reader
        self._blobs = blobs

    def bundle(
        self,
        project: str,
        references: Sequence[str] = (),
        adapters: Sequence[str] = (),
        *,
        with_aliases: bool = False,
    ) -> Iterator[bytes]:
        """Give a bundle's bytes. Every blob is hashed on its way (DigestMismatch)."""
        found = self._with_ancestors(project, self._asked_for(project, references, adapters))
        if not found:
            raise InvalidArgument("references", "name at least one version")
        index = self._index(project, found, with_aliases)
        content = index.to_bytes()
        if len(content) > MAX_INDEX_BYTES:
            why = f"with their evaluations are too much for one bundle: {len(content)} bytes of "
            raise InvalidArgument("references", f"{why}index, over {MAX_INDEX_BYTES}; name fewer")
        return self._bytes(project, index, content)

    def _asked_for(
        self, project: str, references: Sequence[str], adapters: Sequence[str]
    ) -> Iterator[Version]:
        for text in references:
            reference = parse_reference(text)
            if reference.project not in (None, project):
                raise InvalidArgument("references", f"{text} is of another project")
            if reference.number is not None:  # a yanked one, too
                yield self._versions.get(project, reference.adapter, reference.number)
            else:
                yield self._reader.resolve(project, reference).version
        for adapter in adapters:
            yield from list(self._all_versions(project, adapter))[::-1]  # the oldest first

    def _all_versions(self, project: str, adapter: str) -> Iterator[Version]:
        return _all(
            lambda token: self._versions.list(
                project, adapter, include_yanked=True, page_size=_PAGE, page_token=token
            )
        )

    def _with_ancestors(self, project: str, asked: Iterator[Version]) -> list[Version]:
        """Give each version once, behind all that it grew from."""
        ordered: dict[tuple[str, int], Version] = {}
        known: set[str] = set()
        stack = [(version, False) for version in asked][::-1]
        while stack:
            version, parents_are_in = stack.pop()
            key = (version.adapter, version.number)
            if key in ordered or version.state is VersionState.DELETED:
                continue
            if parents_are_in:
                ordered[key] = version
                known.add(version.digest)
                continue
            stack.append((version, True))
            for parent in version.lineage.versions:
                if parent not in known:
                    stack.append((self._versions.by_digest(project, parent), False))
        return list(ordered.values())

    def _index(self, project: str, versions: list[Version], with_aliases: bool) -> Index:
        manifests = {v.digest: self._blobs.ref(project, v.digest) for v in versions}
        parts = ((manifests[v.digest], v.delta.config, v.delta.weights) for v in versions)
        names = sorted({version.adapter for version in versions})
        return Index(
            bases=tuple({v.base.digests: v.base for v in versions}.values()),
            adapters=tuple(self._adapter(project, name) for name in names),
            versions=tuple(
                BundledVersion(
                    version.adapter,
                    version.number,
                    manifests[version.digest],
                    version.state_reason if version.state is VersionState.YANKED else None,
                )
                for version in versions
            ),
            blobs=tuple(dict.fromkeys(chain.from_iterable(parts))),
            evaluations=tuple(chain.from_iterable(map(self._measured, versions))),
            aliases=tuple(self._pointing(project, names, manifests) if with_aliases else ()),
        )

    def _adapter(self, project: str, name: str) -> BundledAdapter:
        adapter = self._adapters.get(project, name)
        tags = tuple(sorted(adapter.tags))
        return BundledAdapter(name, adapter.owner, adapter.description, tags)

    def _measured(self, version: Version) -> list[Evaluation]:
        listed = _all(
            lambda token: self._evaluations.list(
                version.project,
                adapter=version.adapter,
                version_number=version.number,
                page_size=_PAGE,
                page_token=token,
            )
        )
        made = [self._evaluations.get(version.project, one.id) for one in listed]  # with items
        return made[::-1]  # in the order in which they were made

    def _pointing(
        self, project: str, adapters: list[str], versions: dict[str, BlobRef]
    ) -> Iterator[BundledAlias]:
        for adapter in adapters:
            for alias in _all(partial(self._some_aliases, project, adapter)):
                if alias.version_digest in versions:
                    yield BundledAlias(adapter, alias.name, alias.version_digest)

    def _some_aliases(self, project: str, adapter: str, token: str) -> Page[Alias]:
        return self._aliases.list(project, adapter, page_size=_PAGE, page_token=token)

    def _bytes(self, project: str, index: Index, content: bytes) -> Iterator[bytes]:
        yield archive.header(INDEX_NAME, len(content)) + content + archive.padding(len(content))
        for ref in index.blobs:
            yield archive.header(blob_key(ref.digest), ref.size_bytes)
            yield from self._checked(project, ref)
            yield archive.padding(ref.size_bytes)
        yield archive.END

    def _checked(self, project: str, ref: BlobRef) -> Iterator[bytes]:
        sha256, size = hashlib.sha256(), 0
        for chunk in self._blobs.read(project, ref.digest):
            sha256.update(chunk)
            size += len(chunk)
            yield chunk
        found = BlobRef(f"sha256:{sha256.hexdigest()}", size)
        if found != ref:
            raise DigestMismatch(ref.digest, f"{found.digest} of {size} bytes")


def _all(page: Callable[[str], Page[T]]) -> Iterator[T]:
    token = ""
    while True:
        found = page(token)
        yield from found.items
        token = found.next_page_token
        if not token:
            return
