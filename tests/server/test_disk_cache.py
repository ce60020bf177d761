"""The disk cache: what stays within its budget, over restarts, beside other processes."""

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from served import info_of, reason_of, refusal_of, running

from loradock.registry.errors import NotFound, StoreUnavailable
from loradock.registry.resources import BlobRef
from loradock.server.residency.disk_cache import DiskCache, NotCached
from loradock.server.telemetry.outage import Outage
from loradock.server.threads import Threads

SIZE = 1000
HOLD = """
import fcntl, sys
file = open(sys.argv[1], "rb")
fcntl.flock(file, fcntl.LOCK_SH)
print("held", flush=True)
sys.stdin.read()
"""


class Store:
    """Blobs of so many bytes, each of its number; counts what is fetched, and how much at once."""

    def __init__(self) -> None:
        self.contents = {self.blob(n).digest: self.content(n) for n in range(20)}
        self.fetched: list[str] = []
        self.num_at_once = 0
        self.most_at_once = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def content(self, number: int) -> bytes:
        return bytes([number]) * SIZE

    def blob(self, number: int) -> BlobRef:
        return BlobRef(f"sha256:{hashlib.sha256(self.content(number)).hexdigest()}", SIZE)

    def fetch(self, digest: str, path: Path) -> None:
        self.fetched.append(digest)
        self.num_at_once += 1
        self.most_at_once = max(self.most_at_once, self.num_at_once)
        assert self.may_go_on.wait(20)
        partial = path.with_suffix(".partial")
        partial.write_bytes(self.contents[digest])
        partial.replace(path)
        self.num_at_once -= 1


@pytest.fixture
def store():
    return Store()


@pytest.fixture
async def threads():
    pool = Threads("fetch", 3)
    yield pool
    await pool.close()


@pytest.fixture
def make(store, threads, tmp_path):
    """Make a cache on the same folder again and again, as restarts do."""
    return lambda num_files: DiskCache(store.fetch, tmp_path / "cache", num_files * SIZE, threads)


async def use(cache, store, *numbers):
    for number in numbers:
        blob = store.blob(number)
        async with cache.held(blob):
            with cache.verified(blob.digest) as path:
                assert path.read_bytes() == store.content(number)
        time.sleep(0.002)  # so that the times of files tell their order


def numbers_in(cache, store):
    return [number for number in range(20) if cache.has(store.blob(number).digest)]


async def test_the_longest_unused_goes_also_after_a_restart(make, store):
    cache = make(3)
    await use(cache, store, 1, 2, 3, 1)
    assert (numbers_in(cache, store), cache.used_bytes) == ([1, 2, 3], 3 * SIZE)
    cache = make(3)
    assert (numbers_in(cache, store), cache.num_files) == ([1, 2, 3], 3)
    await use(cache, store, 4)
    assert numbers_in(cache, store) == [1, 3, 4]
    assert len(store.fetched) == 4
    with pytest.raises(NotCached), cache.verified(store.blob(2).digest):
        pass


async def test_a_smaller_budget_is_kept_from_the_next_download_on(make, store):
    await use(make(5), store, 1, 2, 3, 4, 5)
    cache = make(2)
    await use(cache, store, 6)
    assert numbers_in(cache, store) == [5, 6]


async def test_many_who_ask_are_one_download_and_downloads_are_bounded(make, store):
    cache = make(10)
    store.may_go_on.clear()
    asks = [use(cache, store, number) for number in range(8) for _ in range(5)]
    running = asyncio.gather(*asks)
    while store.num_at_once < 3:
        await asyncio.sleep(0.01)
    store.may_go_on.set()
    await running
    assert sorted(store.fetched) == sorted(store.blob(number).digest for number in range(8))
    assert store.most_at_once == 3


async def test_what_is_held_stays_whatever_comes(make, store):
    cache = make(1)
    async with cache.held(store.blob(1)):
        await use(cache, store, 2, 3)
        assert 1 in numbers_in(cache, store)
        assert cache._path(store.blob(1).digest).exists()
    await use(cache, store, 4)
    assert numbers_in(cache, store) == [4]


@pytest.mark.contract("R18")
async def test_r18_what_another_process_loads_is_not_removed_under_it(make, store):
    cache = make(1)
    await use(cache, store, 1)
    path = cache._path(store.blob(1).digest)
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        await use(cache, store, 2)
        assert path.exists()
        other.stdin.close()
        other.wait(20)
    await use(cache, store, 3)
    assert not path.exists()


@pytest.mark.contract("S11")
async def test_s11_a_corrupt_file_is_not_given_and_goes(make, store):
    cache = make(3)
    await use(cache, store, 1)
    path = cache._path(store.blob(1).digest)
    path.write_bytes(b"x" * SIZE)
    with pytest.raises(NotCached), cache.verified(store.blob(1).digest):
        pass
    assert not path.exists()
    await use(cache, store, 1)
    assert len(store.fetched) == 2


@pytest.mark.contract("R18")
async def test_r18_what_the_disk_refuses_is_told_and_over_once_it_is_mended(
    tiny_base, tiny_adapter, tmp_path
):
    async with running(tiny_base, tmp_path) as served:
        digest = (await served.publish("triage", tiny_adapter(1))).delta.weights.digest
        folder = served.server.config.cache_folder
        file = folder / f"{digest.removeprefix('sha256:')}.safetensors"

        async def cause():
            error = await refusal_of(served.ask("triage@1"))
            assert reason_of(error) == "ADAPTER_LOAD_FAILED"
            degraded = (await served.look()).degraded
            assert not any("object store" in line for line in degraded), "that is well"
            (place,) = served.parts.inside.residencies.places()
            place.retry_at = 0.0  # as if it had been waited for
            return info_of(error).metadata["cause"]

        folder.rmdir()
        folder.touch()  # a file is where a folder has to be
        assert "disk cache (File exists): its operator has to mend" in await cause()
        folder.unlink()
        file.mkdir(parents=True)  # and a folder where a file has to be
        assert "disk cache (Is a directory)" in await cause()
        file.rmdir()
        assert (await served.ask("triage@1")).text
        assert list(folder.iterdir()) == [file]


@pytest.mark.contract("R18")
def test_r18_what_the_disk_refuses_says_nothing_of_the_store():
    store = Outage("the object store")
    store.begin("it is down")
    with pytest.raises(FileExistsError), store.watching(StoreUnavailable):
        raise FileExistsError("cache_dir")  # before the store was asked for anything
    assert store.goes_on
    with pytest.raises(NotFound), store.watching(StoreUnavailable):
        raise NotFound("blob", "sha256:…")
    assert not store.goes_on


async def test_a_failed_download_is_told_to_all_who_wait_and_tried_by_the_next(make, store):
    cache = make(3)
    missing = BlobRef("sha256:" + "0" * 64, SIZE)

    async def ask():
        async with cache.held(missing):
            pass

    results = await asyncio.gather(*(ask() for _ in range(5)), return_exceptions=True)
    assert {type(result) for result in results} == {KeyError}
    assert len(store.fetched) == 1
    store.contents[missing.digest] = store.content(1)
    await ask()
    assert len(store.fetched) == 2


async def test_what_a_killed_process_left_half_done_is_removed_once_it_is_old(
    make, store, tmp_path
):
    await use(make(3), store, 1)
    folder = tmp_path / "cache"
    (file,) = folder.glob("*.safetensors")
    old, new = folder / f".{file.name}-old", folder / f".{file.name}-new"
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    make(3)
    assert (old.exists(), new.exists(), file.exists()) == (False, True, True)
