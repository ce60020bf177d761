"""A bundle's outermost form: a tar file of plain files, written and read by ourselves.

Any tar lists and unpacks it. What is read has to be exactly what is written here: plain files with
short names, whole, without links, folders, extensions or anything behind the end. So reading takes
bounded memory and never touches a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from loradock.registry.errors import InvalidArgument

BLOCK_BYTES = 512
CHUNK_BYTES = 1 << 20
_MAX_NAME = 100
_MAX_SIZE = 8**11 - 1
_MAGIC = b"ustar\x0000"
_PLAIN = b"0"


class Readable(Protocol):
    """What bytes are read from, in their order."""

    def read(self, size: int, /) -> bytes:
        """Give that many bytes, fewer only at the end."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive. Its content has to be read before the next member is."""

    name: str
    size_bytes: int
    content: Iterator[bytes]


def header(name: str, size_bytes: int) -> bytes:
    """Give what goes before a file's content."""
    encoded = name.encode("ascii")
    assert len(encoded) <= _MAX_NAME and size_bytes <= _MAX_SIZE
    fields = b"".join(
        (
            encoded.ljust(_MAX_NAME, b"\0"),
            b"0000644\0" + b"0000000\0" + b"0000000\0",
            b"%011o\0" % size_bytes,
            b"%011o\0" % 0,
            b" " * 8,
            _PLAIN,
            b"\0" * _MAX_NAME,
            _MAGIC,
        )
    ).ljust(BLOCK_BYTES, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def padding(size_bytes: int) -> bytes:
    """Give what goes behind a file's content."""
    return bytes(-size_bytes % BLOCK_BYTES)


END = bytes(2 * BLOCK_BYTES)


def members(file: Readable) -> Iterator[Member]:
    """Read an archive file by file; InvalidArgument at the first thing that is not as it should."""
    while True:
        block = _exactly(file, BLOCK_BYTES)
        if not any(block):
            break
        member = _member(file, block)
        yield member
        for _ in member.content:
            pass  # what the reader left
        if any(_exactly(file, len(padding(member.size_bytes)))):
            raise _malformed(f"{member.name!r} has something behind its end")
    if any(_exactly(file, BLOCK_BYTES)) or file.read(1):
        raise _malformed("something is behind its end")


def _member(file: Readable, block: bytes) -> Member:
    name = block[:_MAX_NAME].rstrip(b"\0").decode("ascii", "backslashreplace")
    try:
        size = int(block[124:135], 8)
        matches = block == header(name, size)
    except (ValueError, AssertionError, UnicodeError):
        matches = False
    if not matches:
        raise _malformed(f"{name!r:.120} is no plain file as `loradock export` writes it")
    return Member(name, size, _content(file, size))


def _content(file: Readable, size_bytes: int) -> Iterator[bytes]:
    while size_bytes:
        chunk = _exactly(file, min(size_bytes, CHUNK_BYTES))
        size_bytes -= len(chunk)
        yield chunk


def _exactly(file: Readable, size: int) -> bytes:
    content = file.read(size) if size else b""
    if len(content) < size:
        raise _malformed("it ends in the middle")
    return content


def _malformed(reason: str) -> InvalidArgument:
    return InvalidArgument("bundle", reason)
