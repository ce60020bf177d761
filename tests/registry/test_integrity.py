"""Verification: every byte is hashed again, and nothing that is wrong stays unsaid (R12)."""

import shutil

import pytest
from services import make_bucket
from tiny_adapters import adapter_bytes
from tiny_registry import TARGETS, TinyRegistry, digest

from loradock.registry.errors import DigestMismatch, NotAdmitted, NotFound
from loradock.registry.integrity import DamageKind
from loradock.registry.registry import open_registry
from loradock.registry.resources import Delta
from loradock.registry.stores import blob_key


@pytest.fixture(params=["folder", "moto"])
def anywhere(request, database_url, blob_url):
    if request.param == "moto":
        request.getfixturevalue("s3_credentials")
        blob_url = make_bucket(request.getfixturevalue("moto_endpoint"))
    registry = open_registry(database_url, blob_url)
    yield TinyRegistry(registry)
    registry.close()


def write(tiny, key, content):
    """Write behind the registry's back; None deletes."""
    store = tiny.registry.versions._store
    if hasattr(store, "_client"):
        target = {"Bucket": store._bucket, "Key": store._prefix + key}
        if content is None:
            store._client.delete_object(**target)
        else:
            store._client.put_object(**target, Body=content)
        return
    path = store._root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


def found(tiny):
    told = list(tiny.registry.integrity.verify())
    return {damage.name: damage for page in told for damage in page.damages}, told[-1]


@pytest.mark.contract("R12")
def test_r12_a_flipped_byte_and_missing_orphaned_and_strange_objects_are_found(anywhere):
    kept, flipped, gone = (anywhere.version(seed=seed) for seed in range(3))
    damages, last = found(anywhere)
    assert damages == {} and last.num_blobs == 7
    weights = flipped.delta.weights
    content = bytearray(b"".join(anywhere.registry.blobs.read("acme", weights.digest)))
    content[-1] ^= 1
    write(anywhere, blob_key(weights.digest), bytes(content))
    write(anywhere, blob_key(gone.delta.weights.digest), None)
    write(anywhere, blob_key(gone.digest), b"")
    write(anywhere, blob_key(digest(b"orphan")), b"orphan")
    write(anywhere, "blobs/sha256/readme", b"hello")

    damages, last = found(anywhere)
    assert {name: damage.kind for name, damage in damages.items()} == {
        weights.digest: DamageKind.CORRUPT,
        gone.delta.weights.digest: DamageKind.MISSING,
        gone.digest: DamageKind.CORRUPT,
        digest(b"orphan"): DamageKind.ORPHAN,
        "blobs/sha256/readme": DamageKind.STRANGER,
    }
    assert damages[weights.digest].referrers == ("acme/triage@2",)
    assert digest(bytes(content)) in damages[weights.digest].detail
    assert damages[gone.delta.weights.digest].referrers == ("acme/triage@3",)
    assert kept.digest not in damages
    assert last.num_blobs == 7 and last.size_bytes > 3 * weights.size_bytes


@pytest.mark.contract("R12")
def test_r12_each_byte_counts(lite, tmp_path):
    ref = lite.upload(b"0123456789")
    path = tmp_path / "lite-blobs" / blob_key(ref.digest)
    for place in range(ref.size_bytes):
        content = bytearray(b"0123456789")
        content[place] ^= 0x80
        path.write_bytes(content)
        damages, _ = found(lite)
        assert damages[ref.digest].kind is DamageKind.CORRUPT
    path.write_bytes(b"0123456789")
    assert found(lite)[0] == {}


def test_pages_cover_everything(lite):
    refs = [lite.upload(b"blob %d" % i) for i in range(205)]
    told = list(lite.registry.integrity.verify())
    assert [page.num_blobs for page in told] == [100, 200, 205, 205]
    assert told[-1].size_bytes == sum(ref.size_bytes for ref in refs)


def test_an_upload_that_broke_off_is_no_damage(lite, tmp_path):
    """Its row is there before its bytes."""
    from loradock.registry import steps

    def stop(step):
        if step == "blob.held":
            raise KeyboardInterrupt

    steps.on_step = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            lite.upload(b"broken off")
    finally:
        steps.on_step = None
    assert found(lite)[0] == {}


@pytest.mark.contract("R12")
def test_r12_pushing_again_sends_and_replaces_what_was_found_damaged(anywhere):
    """Whether it is corrupt (and of the same size) or gone."""
    registry = anywhere.registry
    version, whole = anywhere.version(seed=1), anywhere.version(seed=2)
    weights, _ = adapter_bytes(TARGETS, seed=1)
    flipped = weights[:-1] + bytes([weights[-1] ^ 1])
    for content in (flipped, None):
        write(anywhere, blob_key(version.delta.weights.digest), content)
        write(anywhere, blob_key(version.digest), content and b"{}")
        delta = version.delta
        refs = [delta.weights, delta.config, whole.delta.weights]
        assert registry.blobs.find_missing("acme", refs) == [], "nobody has found out yet"
        assert set(found(anywhere)[0]) == {delta.weights.digest, version.digest}
        assert registry.blobs.find_missing("acme", refs) == [delta.weights]
        with pytest.raises(NotFound):
            anywhere.publish(delta=delta)
        with pytest.raises(DigestMismatch), registry.blobs.writer("acme", delta.weights) as writer:
            writer.write(flipped)
            writer.commit()
        assert registry.blobs.find_missing("acme", refs) == [delta.weights], "still"
        anywhere.upload(weights)
        again = anywhere.publish(delta=delta)
        assert (again.created, again.version.digest) == (False, version.digest)
        assert b"".join(registry.blobs.read("acme", delta.weights.digest)) == weights
        assert found(anywhere)[0] == {}
        assert registry.blobs.find_missing("acme", refs) == []


@pytest.mark.contract("R5")
def test_r5_bytes_that_changed_since_their_upload_do_not_become_ready(lite, tmp_path):
    """And are asked for by the next push, though nobody has verified the store."""
    weights, config = adapter_bytes(TARGETS, seed=1)
    delta = Delta(lite.upload(weights), lite.upload(config))
    for ref, content in ((delta.weights, weights), (delta.config, config)):
        path = tmp_path / "lite-blobs" / blob_key(ref.digest)
        path.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
        with pytest.raises((DigestMismatch, NotAdmitted)) as caught:
            lite.publish(delta=delta)
        assert lite.registry.versions.search("acme").items == []
        if caught.type is DigestMismatch:
            assert lite.registry.blobs.find_missing("acme", [ref]) == [ref]
        path.write_bytes(content)
        lite.upload(content)
    assert lite.publish(delta=delta).created


def test_damage_that_is_no_more_is_forgotten(lite, tmp_path):
    version = lite.version()
    path = tmp_path / "lite-blobs" / blob_key(version.delta.weights.digest)
    kept = path.rename(tmp_path / "kept")
    assert found(lite)[0][version.delta.weights.digest].kind is DamageKind.MISSING
    shutil.copy(kept, path)
    assert found(lite)[0] == {}
    assert lite.registry.blobs.find_missing("acme", [version.delta.weights]) == []
