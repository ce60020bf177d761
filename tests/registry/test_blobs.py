"""A project's bytes: verified before they are kept, seen by nobody else."""

import pytest
from tiny_registry import TinyRegistry, digest

from loradock.registry.errors import (
    DigestMismatch,
    InvalidArgument,
    NotFound,
    UploadOffset,
    UploadTooLarge,
)
from loradock.registry.garbage import Garbage, GarbageKind
from loradock.registry.limits import Limits
from loradock.registry.registry import open_registry
from loradock.registry.resources import BlobRef

CONTENT = b"some weights" * 1000
REF = BlobRef(digest(CONTENT), len(CONTENT))


@pytest.fixture
def blobs(lite):
    return lite.registry.blobs


def _staged(tmp_path):
    return [path for path in (tmp_path / "lite-blobs" / "staging").rglob("*") if path.is_file()]


def test_bytes_that_are_not_what_was_promised_are_not_kept(blobs, tmp_path):
    for sent in (CONTENT[:-1], CONTENT[:-1] + b"x", CONTENT + b"x", b""):
        with pytest.raises(DigestMismatch), blobs.writer("acme", REF) as writer:
            writer.write(sent)
            writer.commit()
    assert blobs.find_missing("acme", [REF]) == [REF]
    assert _staged(tmp_path) == []


def _begin(blobs, content, offset=0, ref=REF):
    """Send some bytes and break off."""
    with blobs.writer("acme", ref, offset) as writer:
        writer.write(content)


@pytest.mark.contract("R5")
def test_r5_an_upload_goes_on_where_it_broke_off(blobs, tmp_path):
    with pytest.raises(RuntimeError), blobs.writer("acme", REF) as writer:
        writer.write(CONTENT[:700])
        raise RuntimeError("the line broke")
    assert blobs.find_missing("acme", [REF]) == [REF]
    assert blobs.committed("acme", [REF]) == {REF.digest: 700}
    assert blobs.committed("rival", [REF]) == {}
    _begin(blobs, CONTENT[700:900], 700)
    assert blobs.committed("acme", [REF]) == {REF.digest: 900}
    with blobs.writer("acme", REF, 900) as writer:
        writer.write(CONTENT[900:])
        writer.commit()
    assert b"".join(blobs.read("acme", REF.digest)) == CONTENT
    assert _staged(tmp_path) == [] and blobs.committed("acme", [REF]) == {}


@pytest.mark.contract("R5")
def test_r5_a_part_that_is_wrong_spoils_nothing_for_good(blobs, tmp_path):
    _begin(blobs, b"something else")
    with pytest.raises(DigestMismatch), blobs.writer("acme", REF, 14) as writer:
        writer.write(CONTENT[14:])
        writer.commit()
    assert _staged(tmp_path) == []
    _begin(blobs, CONTENT)  # all of it, but for the commit
    with blobs.writer("acme", REF, len(CONTENT)) as writer:
        writer.commit()
    assert b"".join(blobs.read("acme", REF.digest)) == CONTENT


@pytest.mark.contract("R5")
def test_r5_an_upload_goes_on_at_no_other_place(blobs):
    _begin(blobs, CONTENT[:100])
    with pytest.raises(UploadOffset) as caught, blobs.writer("acme", REF, 101):
        pass
    assert (caught.value.offset_bytes, caught.value.committed_bytes) == (101, 100)
    for offset in (-1, len(CONTENT) + 1):
        with pytest.raises(InvalidArgument):
            blobs.writer("acme", REF, offset)
    _begin(blobs, CONTENT[40:50], 40)  # an earlier place is one, and what was behind it is gone
    assert blobs.committed("acme", [REF]) == {REF.digest: 50}
    _begin(blobs, CONTENT[:7])  # and so is the beginning
    assert blobs.committed("acme", [REF]) == {REF.digest: 7}


@pytest.mark.contract("R5")
def test_r5_two_uploads_of_the_same_bytes_do_not_meet(blobs, tmp_path):
    with blobs.writer("acme", REF) as first, blobs.writer("acme", REF) as second:
        first.write(CONTENT[:500])
        assert blobs.committed("acme", [REF]) == {}, "somebody is writing it"
        with pytest.raises(UploadOffset), blobs.writer("acme", REF, 500):
            pass
        for writer, content in ((second, CONTENT), (first, CONTENT[500:])):
            writer.write(content)
            writer.commit()
    assert b"".join(blobs.read("acme", REF.digest)) == CONTENT
    assert _staged(tmp_path) == []


@pytest.mark.contract("R5")
def test_r5_what_nobody_goes_on_with_is_collected_and_what_is_written_is_not(lite, tmp_path):
    blobs, collect = lite.registry.blobs, lite.registry.garbage.collect
    abandoned = BlobRef(digest(b"abandoned"), 9)
    _begin(blobs, b"aband", ref=abandoned)
    assert list(collect("acme", by="op")) == [], "within the grace"
    with blobs.writer("acme", REF) as writer:
        writer.write(CONTENT)
        key = f"staging/uploads/acme/{abandoned.digest[7:]}"
        found = [Garbage(GarbageKind.UNFINISHED, key, 5)]
        assert list(collect("acme", grace_s=0.0, dry_run=True, by="op")) == found
        assert list(collect("acme", grace_s=0.0, by="op")) == found
        writer.commit()
    assert b"".join(blobs.read("acme", REF.digest)) == CONTENT
    assert _staged(tmp_path) == [] and blobs.committed("acme", [abandoned]) == {}


def test_nobody_learns_what_others_have(lite):
    blobs = lite.registry.blobs
    assert lite.upload(CONTENT) == REF
    assert blobs.find_missing("acme", [REF, REF]) == []
    assert blobs.find_missing("rival", [REF, REF]) == [REF]
    with pytest.raises(NotFound):
        blobs.read("rival", REF.digest)
    with pytest.raises(DigestMismatch), blobs.writer("rival", REF) as writer:
        writer.commit()
    TinyRegistry(lite.registry, "rival").upload(CONTENT)
    assert b"".join(blobs.read("rival", REF.digest, offset=4)) == CONTENT[4:]


def test_a_size_that_is_not_the_blobs_is_missing(lite):
    lite.upload(CONTENT)
    wrong = BlobRef(REF.digest, 3)
    assert lite.registry.blobs.find_missing("acme", [wrong]) == [wrong]


@pytest.mark.contract("A4")
def test_a4_an_upload_over_the_limit_is_refused_before_a_byte(sqlite_template, tmp_path):
    import shutil

    shutil.copy(sqlite_template, tmp_path / "catalog.db")
    url, folder = f"sqlite:///{tmp_path}/catalog.db", f"file://{tmp_path}/blobs"
    registry = open_registry(url, folder, limits=Limits(max_blob_bytes=100))
    with pytest.raises(UploadTooLarge) as caught:
        registry.blobs.writer("acme", REF)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (len(CONTENT), 100)
    registry.close()


@pytest.mark.contract("A4")
@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "sha256:../x", "sha256:" + "A" * 64, "", "sha256:" + "a" * 63]
)
def test_a4_a_name_that_is_no_digest_reaches_no_path(blobs, name, tmp_path):
    for act in (
        lambda: blobs.writer("acme", BlobRef(name, 1)),
        lambda: blobs.read("acme", name),
        lambda: blobs.fetch(name, tmp_path / "file"),
        lambda: blobs.find_missing("acme", [BlobRef(name, 1)]),
    ):
        with pytest.raises(InvalidArgument):
            act()


def test_fetch_brings_verified_bytes(lite, tmp_path):
    lite.upload(CONTENT)
    target = tmp_path / "cache" / "file"
    lite.registry.blobs.fetch(REF.digest, target)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_fetch_of_damaged_bytes_leaves_nothing(lite, tmp_path):
    lite.upload(CONTENT)
    (stored,) = (tmp_path / "lite-blobs" / "blobs").rglob(REF.digest[7:])
    stored.write_bytes(b"x" + CONTENT[1:])
    target = tmp_path / "cache" / "file"
    with pytest.raises(DigestMismatch):
        lite.registry.blobs.fetch(REF.digest, target)
    with pytest.raises(NotFound):
        lite.registry.blobs.fetch(digest("absent"), target)
    assert list(target.parent.iterdir()) == []
    (tmp_path / "taken").touch()
    with pytest.raises(FileExistsError):  # of the caller's disk, and not the store's
        lite.registry.blobs.fetch(REF.digest, tmp_path / "taken" / "file")


def test_r1_a_registry_on_s3_keeps_content_once(database_url, s3_url):
    registry = open_registry(database_url, s3_url)
    tiny = TinyRegistry(registry)
    version = tiny.version()
    assert not tiny.publish().created
    assert b"".join(registry.blobs.read("acme", version.digest)).startswith(b"{")
    assert registry.blobs.probe().conditional_put
    registry.close()
