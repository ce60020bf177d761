"""Row, manifest and blobs: each is enough to find out what the others must be (R17)."""

import hashlib
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_registry import TinyRegistry, digest

from loradock.registry.admission import Admission
from loradock.registry.limits import Limits
from loradock.registry.manifest import Manifest, parse_manifest
from loradock.registry.registry import open_registry
from loradock.registry.resources import Dataset, Decoding, Lineage, Profile

words = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=8)
facts = st.one_of(words, st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6), st.booleans())
lineages = st.builds(
    Lineage,
    datasets=st.lists(st.builds(Dataset, words, words.map(digest)), max_size=3).map(tuple),
    training=st.dictionaries(words, facts, max_size=3),
)
profiles = st.builds(
    Profile,
    system=st.none() | words,
    labels=st.lists(words.filter(str.strip), max_size=3, unique=True).map(tuple),
    decoding=st.builds(Decoding, max_tokens=st.none() | st.integers(1, 100)),
)


def assert_each_gives_the_others(registry, version):
    """Go from the row to the manifest, from there to the blobs, and from the blobs to the row."""
    content = registry.versions.manifest(version)  # made of the row
    assert digest(content) == version.digest
    stored = b"".join(registry.blobs.read(version.project, version.digest))
    assert stored == content
    manifest = parse_manifest(stored)
    assert manifest == Manifest(
        version.base.digests, version.delta, version.profile, version.lineage
    )
    for ref in (manifest.delta.weights, manifest.delta.config):
        blob = b"".join(registry.blobs.read(version.project, ref.digest))
        assert (f"sha256:{hashlib.sha256(blob).hexdigest()}", len(blob)) == (
            ref.digest,
            ref.size_bytes,
        )
    base = registry.bases.by_digests(manifest.base)
    assert base == version.base
    admission = Admission(registry.versions._store.read, Limits())
    assert admission.admit(base, manifest.delta, []) == version.modules
    assert registry.versions.by_digest(version.project, digest(stored)) == version


@pytest.mark.contract("R17")
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(profile=profiles, lineage=lineages, seed=st.integers(0, 3))
def test_r17_row_manifest_and_blobs_give_each_other(tiny, profile, lineage, seed):
    version = tiny.version(seed=seed, profile=profile, lineage=lineage)
    assert_each_gives_the_others(tiny.registry, version)


@pytest.mark.contract("R17")
def test_r17_the_same_parts_are_the_same_version_in_any_catalog(tiny, tmp_path):
    """Neither the adapter's name, nor its project, nor who publishes when, is part of it."""
    parent = tiny.version(seed=1)
    lineage = Lineage(parents=(parent.digest,), merge_of=(parent.digest,))
    version = tiny.version(lineage=lineage)
    other = open_registry(
        f"sqlite:///{tmp_path}/other.db", f"file://{tmp_path}/other", migrate=True
    )
    elsewhere = TinyRegistry(other, "rival")
    elsewhere.version("renamed", seed=1, by="eve")
    manifest = parse_manifest(tiny.registry.versions.manifest(version))
    for ref in (manifest.delta.weights, manifest.delta.config):
        elsewhere.upload(b"".join(tiny.registry.blobs.read("acme", ref.digest)))
    again = elsewhere.version("renamed", delta=manifest.delta, lineage=manifest.lineage, by="eve")
    assert (again.digest, again.number) == (version.digest, 2)
    assert_each_gives_the_others(other, again)
    other.close()


@pytest.mark.contract("R17")
def test_r17_nothing_is_in_a_path_or_a_process(tiny, database_url, tmp_path):
    version = tiny.version()
    tiny.registry.close()
    shutil.move(tmp_path / "blobs", tmp_path / "moved" / "blobs")
    reopened = open_registry(database_url, f"file://{tmp_path}/moved/blobs")
    assert_each_gives_the_others(reopened, reopened.versions.get("acme", "triage", 1))
    assert TinyRegistry(reopened).publish().version == version
    reopened.close()
