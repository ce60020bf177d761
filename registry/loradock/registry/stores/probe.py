"""What an S3 endpoint can do, found out by doing it under a key of its own."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from loradock.registry.stores import Capabilities

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def probe(client: S3Client, bucket: str, prefix: str) -> Capabilities:
    """Write, overwrite and lie a little; leave nothing behind."""
    key = f"{prefix}probe/{uuid.uuid4().hex}"
    target = {"Bucket": bucket, "Key": key}
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"first")
        return Capabilities(
            conditional_put=_holds(
                lambda: client.put_object(Bucket=bucket, Key=key, Body=b"second", IfNoneMatch="*")
            ),
            conditional_multipart=_holds(lambda: _multipart(client, target, IfNoneMatch="*")),
            verifies_checksums=_refused(
                lambda: client.put_object(
                    Bucket=bucket, Key=key, Body=b"third", ChecksumSHA256=_sha256(b"other")
                )
            ),
            multipart=not _refused(lambda: _multipart(client, target)),
        )
    finally:
        client.delete_object(Bucket=bucket, Key=key)


def _multipart(client: S3Client, target: Mapping[str, str], **condition: str) -> None:
    where: Any = target
    given: Any = condition
    upload: Any = {**target, "UploadId": client.create_multipart_upload(**where)["UploadId"]}
    try:
        part = client.upload_part(**upload, PartNumber=1, Body=b"part")
        parts: Any = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
        client.complete_multipart_upload(**upload, MultipartUpload=parts, **given)
    except ClientError:
        client.abort_multipart_upload(**upload)
        raise


def _holds(act: Callable[[], object]) -> bool:
    """Whether a condition that does not hold was seen, not just stumbled over."""
    try:
        act()
    except ClientError as error:
        answer: Any = error.response
        return answer.get("ResponseMetadata", {}).get("HTTPStatusCode") in (304, 409, 412)
    return False


def _refused(act: Callable[[], object]) -> bool:
    try:
        act()
    except ClientError:
        return True
    return False


def _sha256(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()
