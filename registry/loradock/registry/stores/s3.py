"""Blobs in S3 or what speaks like it.

Writes are conditional where the endpoint can do that. Where it can't, nothing is lost: a key is the
digest of its content and content is checked before it is sent, so overwriting changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody
from urllib3.exceptions import HTTPError

from loradock.registry.errors import DiskFull, InvalidArgument, NotFound, StoreUnavailable
from loradock.registry.stores import CHUNK_BYTES, Capabilities, StoredObject, blob_key
from loradock.registry.stores.probe import probe
from loradock.registry.stores.spool import Spool

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART_BYTES = 16 << 20
MULTIPART_ABOVE_BYTES = 64 << 20
_ATTEMPTS = 5
_Arguments: TypeAlias = Any  # of a client's method, spread
_TAKEN = {"412", "304", "PreconditionFailed", "NotModified"}
_RACING = {"409", "ConditionalRequestConflict", "OperationAborted"}
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_BEYOND_THE_END = {"416", "InvalidRange"}
_FULL = {"507", "InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"}


@dataclass(frozen=True, slots=True)
class S3Location:
    """Where the blobs are; None leaves it to boto3's own configuration."""

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    multipart_above_bytes: int = MULTIPART_ABOVE_BYTES
    part_bytes: int = PART_BYTES


def read_url(url: str) -> S3Location:
    """`s3://bucket/prefix?endpoint_url=…&region=…`."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    unknown = sorted(query.keys() - {"endpoint_url", "region"})
    if unknown:
        raise InvalidArgument("blob_url", f"knows no option {', '.join(unknown)}")
    prefix = unquote(parts.path).strip("/")
    return S3Location(parts.netloc, prefix, query.get("endpoint_url"), query.get("region"))


def make_client(location: S3Location) -> S3Client:
    """Make a client that gives up in bounded time; it sends what any endpoint understands."""
    config: dict[str, Any] = {
        "connect_timeout": 3,
        "read_timeout": 20,
        "retries": {"mode": "standard", "total_max_attempts": 3},
        "max_pool_connections": 32,
    }
    if location.endpoint_url:
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
        config["s3"] = {"addressing_style": "path"}
    return boto3.session.Session().client(
        "s3",
        endpoint_url=location.endpoint_url,
        region_name=location.region,
        config=Config(**config),
    )


class S3BlobStore:
    """A BlobStore in a bucket."""

    def __init__(self, location: S3Location, spool: Path | None = None) -> None:
        with _store_errors("configuration"):
            self._client = make_client(location)
        self._location = location
        self._spool = Spool(spool or _temporary_folder(location))
        self._capabilities: Capabilities | None = None

    @property
    def spool(self) -> Spool:
        return self._spool

    def size(self, digest: str) -> int | None:
        with _store_errors(digest):
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=self._key(digest))
            except ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
            return head["ContentLength"]

    def put(self, digest: str, file: Path, *, replace: bool = False) -> bool:
        with _store_errors(digest):
            size, there = file.stat().st_size, self.size(digest)
            if there == size and not replace:
                return False
            conditional = there is None
            for _ in range(_ATTEMPTS):
                try:
                    self._send(digest, file, size, conditional)
                    return True
                except ClientError as error:
                    if _code(error) in _TAKEN and self.size(digest) == size:
                        return False
                    if _code(error) in ("501", "NotImplemented") and conditional:
                        conditional = False
                    elif _code(error) not in _RACING:
                        raise
        raise StoreUnavailable(f"{digest}: other writers were in the way {_ATTEMPTS} times")

    def read(
        self, digest: str, *, offset: int = 0, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        # One trip: what is far away must not be asked twice before its first byte comes.
        where: dict[str, Any] = {"Bucket": self._bucket, "Key": self._key(digest)}
        if offset:
            where["Range"] = f"bytes={offset}-"
        with _store_errors(digest):
            try:
                answer = self._client.get_object(**where)
            except ClientError as error:
                if _code(error) in _ABSENT:
                    raise NotFound("blob", digest) from error
                if _code(error) in _BEYOND_THE_END:
                    return iter(())
                raise
        return _chunks(answer["Body"], digest, chunk_bytes)

    def delete(self, digest: str) -> None:
        with _store_errors(digest):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(digest))

    def list(self) -> Iterator[StoredObject]:
        yield from self._objects("blobs/")

    def leftovers(self, before: datetime) -> Iterator[StoredObject]:
        yield from self._spool.leftovers(before)
        yield from (found for found in self._objects("probe/") if found.modified_at < before)
        where = {"Bucket": self._bucket, "Prefix": self._prefix}
        for page in self._pages("list_multipart_uploads", where):
            for found in page.get("Uploads", ()):
                if found["Initiated"] < before:
                    key = found["Key"].removeprefix(self._prefix)
                    yield StoredObject(key, 0, found["Initiated"], found["UploadId"])

    def discard(self, leftover: StoredObject) -> bool:
        if leftover.key.startswith("staging/"):
            return self._spool.discard(leftover)
        with _store_errors(leftover.key):
            if not leftover.upload_id:
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + leftover.key)
                return True
            try:
                self._client.abort_multipart_upload(
                    Bucket=self._bucket,
                    Key=self._prefix + leftover.key,
                    UploadId=leftover.upload_id,
                )
            except ClientError as error:
                if _code(error) not in _ABSENT | {"NoSuchUpload"}:
                    raise
        return True

    @property
    def where(self) -> str:
        endpoint = self._client.meta.endpoint_url
        return f"bucket {self._bucket}/{self._prefix} at {endpoint}"

    @property
    def disk(self) -> Path | None:
        return None

    def probe(self, *, again: bool = False) -> Capabilities:
        if self._capabilities is None or again:
            with _store_errors("probe"):
                self._capabilities = probe(self._client, self._bucket, self._prefix)
        return self._capabilities

    def close(self) -> None:
        self._client.close()

    @property
    def _bucket(self) -> str:
        return self._location.bucket

    @property
    def _prefix(self) -> str:
        return f"{self._location.prefix}/" if self._location.prefix else ""

    def _objects(self, folder: str) -> Iterator[StoredObject]:
        where = {"Bucket": self._bucket, "Prefix": self._prefix + folder}
        for page in self._pages("list_objects_v2", where):
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self._prefix)
                yield StoredObject(key, found["Size"], found["LastModified"])

    def _pages(self, operation: Any, where: _Arguments) -> Iterator[Any]:  # noqa: ANN401
        """Give an answer's pages, each fetched under the store's own errors."""
        with _store_errors(operation):
            pages = iter(self._client.get_paginator(operation).paginate(**where))
        while True:
            with _store_errors(operation):
                try:
                    found = next(pages)
                except StopIteration:
                    return
            yield found

    def _key(self, digest: str) -> str:
        return self._prefix + blob_key(digest)

    def _send(self, digest: str, file: Path, size: int, conditional: bool) -> None:
        if size > self._location.multipart_above_bytes:
            self._send_parts(digest, file, conditional)
        else:
            self._send_whole(digest, file, size, conditional)

    def _send_whole(self, digest: str, file: Path, size: int, conditional: bool) -> None:
        sha256 = base64.b64encode(bytes.fromhex(digest.removeprefix("sha256:"))).decode()
        with file.open("rb") as body:
            self._client.put_object(
                Bucket=self._bucket,
                Key=self._key(digest),
                Body=body,
                ContentLength=size,
                ChecksumSHA256=sha256,
                **_condition(conditional),
            )

    def _send_parts(self, digest: str, file: Path, conditional: bool) -> None:
        target: Any = {"Bucket": self._bucket, "Key": self._key(digest)}
        upload = {**target, "UploadId": self._client.create_multipart_upload(**target)["UploadId"]}
        try:
            parts: list[CompletedPartTypeDef] = []
            with file.open("rb") as body:
                while chunk := body.read(self._location.part_bytes):
                    number = len(parts) + 1
                    sent = self._client.upload_part(**upload, PartNumber=number, Body=chunk)
                    parts.append({"ETag": sent["ETag"], "PartNumber": number})
            self._client.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": parts}, **_condition(conditional)
            )
        except BaseException:
            self._abort(upload)
            raise

    def _abort(self, upload: _Arguments) -> None:
        # What can't be aborted now, the bucket's lifecycle rule for incomplete uploads reclaims.
        with suppress(ClientError, BotoCoreError):
            self._client.abort_multipart_upload(**upload)


def _temporary_folder(location: S3Location) -> Path:
    """Give the same place to every process of a user that has no better one."""
    where = f"{location.endpoint_url} {location.bucket} {location.prefix}"
    name = hashlib.sha256(where.encode()).hexdigest()[:16]
    mine = Path(tempfile.gettempdir()) / f"loradock-{os.getuid()}"
    mine.mkdir(mode=0o700, exist_ok=True)
    if mine.is_symlink() or mine.stat().st_uid != os.getuid():
        raise StoreUnavailable(f"{mine} is somebody else's: say where uploads may wait")
    return mine / name


def _condition(conditional: bool) -> _Arguments:
    return {"IfNoneMatch": "*"} if conditional else {}


def _code(error: ClientError) -> str:
    answer: Any = error.response
    status = str(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    if status in _TAKEN | _RACING | _ABSENT | _FULL and answer.get("Error", {}).get("Code") not in (
        "NoSuchBucket",
        "NoSuchUpload",
    ):
        return status
    return str(answer.get("Error", {}).get("Code", ""))


def _chunks(body: StreamingBody, digest: str, chunk_bytes: int) -> Iterator[bytes]:
    with _store_errors(digest):
        try:
            yield from body.iter_chunks(chunk_bytes)
        finally:
            body.close()


@contextmanager
def _store_errors(what: str) -> Iterator[None]:
    try:
        yield
    # What is not S3's answers without what S3's always have: hence the KeyError.
    except (BotoCoreError, ClientError, HTTPError, OSError, ValueError, KeyError) as error:
        if isinstance(error, ClientError) and _code(error) in _FULL:
            raise DiskFull("the object store", str(error)) from error
        raise StoreUnavailable(f"{what}: {error}") from error
