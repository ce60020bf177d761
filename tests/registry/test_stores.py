"""One contract for all blob stores: a folder, S3 as AWS does it, S3 that knows no conditions."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from services import make_bucket
from tiny_registry import digest

from loradock.registry.errors import InvalidArgument, NotFound, StoreUnavailable
from loradock.registry.stores import (
    BlobStore,
    Capabilities,
    StoredObject,
    blob_key,
    open_store,
)
from loradock.registry.stores.folder import FolderBlobStore
from loradock.registry.stores.s3 import S3BlobStore, read_url

SMALL = b"a few bytes"
LARGE = bytes(range(256)) * 50_000  # over 12 MB: three parts


@pytest.fixture(params=["folder", "moto", "rclone"])
def store(request, tmp_path):
    if request.param == "folder":
        opened: BlobStore = FolderBlobStore(tmp_path / "blobs")
    else:
        request.getfixturevalue("s3_credentials")
        url = make_bucket(request.getfixturevalue(f"{request.param}_endpoint"))
        location = read_url(url)
        opened = S3BlobStore(replace(location, multipart_above_bytes=6 << 20, part_bytes=5 << 20))
    yield opened
    opened.close()


def _put(store, content, name="file"):
    file = store.spool.folder / name
    file.write_bytes(content)
    written = store.put(digest(content), file)
    file.unlink(missing_ok=True)
    return written


def _get(store, content, **options):
    return b"".join(store.read(digest(content), **options))


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "multipart"])
def test_what_was_put_is_read(store, content):
    assert store.size(digest(content)) is None
    assert _put(store, content)
    assert store.size(digest(content)) == len(content)
    assert _get(store, content) == content
    assert not _put(store, content)


def test_what_lies_there_is_listed_and_can_go(store):
    assert list(store.list()) == []
    for content in (SMALL, b"", b"more"):
        _put(store, content)
    listed = {found.digest: found for found in store.list()}
    assert {name: found.size_bytes for name, found in listed.items()} == {
        digest(SMALL): len(SMALL),
        digest(b""): 0,
        digest(b"more"): 4,
    }
    assert listed[digest(SMALL)].key == blob_key(digest(SMALL))
    assert all(found.modified_at.tzinfo for found in listed.values())
    for _ in range(2):  # again is harmless
        store.delete(digest(SMALL))
    assert {found.digest for found in store.list()} == {digest(b""), digest(b"more")}
    assert store.size(digest(SMALL)) is None
    assert _get(store, b"more") == b"more"


def test_what_is_no_blob_has_no_digest():
    at = datetime.now(UTC)
    key = blob_key(digest(SMALL))
    assert StoredObject(key, 1, at).digest == digest(SMALL)
    for other in (
        key[:-1],
        key.replace("/sha256/", "/md5/"),
        "staging/x",
        key[:13] + "00" + key[15:],
    ):
        assert StoredObject(other, 1, at).digest is None


def test_reading_begins_anywhere(store):
    _put(store, SMALL)
    for offset in (0, 3, len(SMALL), len(SMALL) + 5):
        assert _get(store, SMALL, offset=offset, chunk_bytes=4) == SMALL[offset:]
    assert [len(chunk) for chunk in store.read(digest(SMALL), chunk_bytes=4)] == [4, 4, 3]


def test_what_is_not_there_is_told_before_the_first_chunk(store):
    with pytest.raises(NotFound):
        store.read(digest("absent"))


def test_racing_writers_leave_the_content(store):
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: _put(store, SMALL, f"file-{i}"), range(6)))
    assert _get(store, SMALL) == SMALL


def test_a_damaged_blob_of_another_size_is_healed(store):
    (store.spool.folder / "wrong").write_bytes(b"damage")
    store.put(digest(SMALL), store.spool.folder / "wrong")
    assert _put(store, SMALL)
    assert _get(store, SMALL) == SMALL


def test_a_folder_holds_blobs_where_the_design_says(tmp_path):
    store = FolderBlobStore(tmp_path)
    _put(store, SMALL)
    name = digest(SMALL).removeprefix("sha256:")
    assert (tmp_path / "blobs" / "sha256" / name[:2] / name).read_bytes() == SMALL
    assert list(store.spool.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("moto", Capabilities(True, True, False, True)),
        ("rclone", Capabilities(False, False, False, True)),
    ],
)
def test_the_probe_tells_what_an_endpoint_can_do(endpoint, expected, request, s3_credentials):
    url = make_bucket(request.getfixturevalue(f"{endpoint}_endpoint"))
    store = S3BlobStore(read_url(url))
    found = store.probe()
    assert (found.conditional_put, found.conditional_multipart) == (
        expected.conditional_put,
        expected.conditional_multipart,
    )
    assert store.probe() is found
    assert "Contents" not in store._client.list_objects_v2(Bucket=read_url(url).bucket)
    store.close()


def test_a_missing_bucket_is_unavailable(moto_endpoint, s3_credentials):
    store = open_store(f"s3://no-such-bucket?endpoint_url={moto_endpoint}&region=us-east-1")
    with pytest.raises(StoreUnavailable):
        _put(store, SMALL)
    with pytest.raises(StoreUnavailable):
        store.probe()
    store.close()


class _Page(BaseHTTPRequestHandler):
    """Answers everything with the same page, as a proxy that wants a login does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>log in<p>first")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_an_endpoint_that_speaks_no_s3_is_unavailable(s3_credentials):
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"s3://bucket?endpoint_url=http://127.0.0.1:{server.server_port}&region=us-east-1"
        store = open_store(url)
        with pytest.raises(StoreUnavailable):
            list(store.list())
        with pytest.raises(StoreUnavailable):
            store.size(digest(SMALL))
        store.close()
        server.shutdown()


@pytest.mark.parametrize(
    "url", ["s3://", "s3://b?endpont_url=x", "/folder", "http://x/y", "file://host/x", "file:"]
)
def test_a_url_that_is_none_is_told(url):
    with pytest.raises(InvalidArgument):
        open_store(url)


def test_the_key_is_the_digest():
    assert blob_key("sha256:" + "ab" * 32) == f"blobs/sha256/ab/{'ab' * 32}"
