"""C1 where fields hold what nobody means: a typed refusal or an answer, never INTERNAL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from methods import METHODS, NAMES, PARENTS, ask
from served import Running, reason_of, running

from loradock.registry.registry import open_registry

# What they do is to the whole server, or they read a stream.
LEFT_OUT = {"DrainServer", "UndrainServer", "UploadBlob", "ImportBundle"}
BROKEN = {"INTERNAL", "ENGINE_FAILED", "UNKNOWN"}
TIMEOUT_S = 1.0  # some fields ask to wait for ever
MAX_DEPTH = 4

TEXTS = ("\0", "%", "../..", "x" * 5000)
INTS = (-1, 0, 2**31 - 1, -(2**31))
LONG_INTS = (*INTS, 2**63 - 1, -(2**63))
NUMBERS = (float("nan"), float("inf"), -1.0, 1e308)
VALUES: dict[int, tuple[object, ...]] = {
    FieldDescriptor.TYPE_STRING: TEXTS,
    FieldDescriptor.TYPE_BYTES: (b"", b"\0\xff"),
    FieldDescriptor.TYPE_INT32: INTS,
    FieldDescriptor.TYPE_INT64: LONG_INTS,
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_FLOAT: NUMBERS,
    FieldDescriptor.TYPE_DOUBLE: NUMBERS,
    FieldDescriptor.TYPE_BOOL: (True,),
    FieldDescriptor.TYPE_ENUM: (99,),
}


@pytest.fixture(params=["sqlite", "postgresql"])
async def served(request, tiny_base, tiny_adapter, tmp_path):
    """A version under an alias, in either catalog."""
    settings: dict[str, Any] = {"default_max_tokens": 1}
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
        settings |= {"database_url": url, "blob_url": f"file://{tmp_path}/blobs"}
        open_registry(url, settings["blob_url"], migrate=True).close()
    async with running(tiny_base, tmp_path, **settings) as served:
        for adapter in ("triage", "spare"):
            await served.publish(adapter, tiny_adapter(1))
            await served.set_alias(adapter, 1)
        yield served


def sound(name: str) -> Any:
    """Make a request in which what names something names what is there, and may go."""
    fields = METHODS[name].input_type.fields_by_name
    request: Any = METHODS[name].input_type._concrete_class()
    known = {
        "name": next(v for end, v in NAMES.items() if name.endswith(end)),
        "parent": PARENTS.get(name, "projects/other"),
        "reference": "triage",
        "reason": "a test",
        "etag": "1",
    }
    for field, value in known.items():
        if field in fields:
            setattr(request, field, value.replace("projects/other", "projects/default"))
    if "version_number" in fields:
        request.version_number = 1
    if "target" in fields:
        request.target.adapter, request.prompt.text = "triage", "hello"
    if name.startswith(("Delete", "Yank")):
        request.name = request.name.replace("triage", "spare")
    return request


def hostile(name: str) -> Iterator[tuple[str, Any]]:
    """Give requests with one odd field each, and what is odd."""
    for path, value in _odd(METHODS[name].input_type, ()):
        request = sound(name)
        _put(request, path, value)
        yield f"{name}.{'.'.join(path)} = {value!r:.40}", request


def _odd(kind: Descriptor, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    for field in kind.fields:
        path, part = (*above, field.name), field.message_type
        if part is None:
            yield from ((path, value) for value in VALUES[field.type])
        elif len(path) < MAX_DEPTH and not part.GetOptions().map_entry:
            yield from _odd(part, path)


def _put(message: Message, path: tuple[str, ...], value: object) -> None:
    name, *rest = path
    is_repeated = message.DESCRIPTOR.fields_by_name[name].is_repeated
    part: Any = getattr(message, name)
    if rest:
        _put(part.add() if is_repeated else part, tuple(rest), value)
    elif is_repeated:
        part.append(value)
    else:
        setattr(message, name, value)


async def outcome(served: Running, name: str, request: Message) -> str:
    """Call; give the reason of the refusal, or nothing."""
    try:
        await ask(served.channel, name, request, TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        given = dict(error.trailing_metadata() or ())
        has_reason = "grpc-status-details-bin" in given
        return reason_of(error) if has_reason else error.code().name
    return ""


@pytest.mark.contract("C1")
async def test_c1_no_odd_field_is_an_internal_error(served):
    found: dict[str, str] = {}
    num_asked = num_refused = 0
    for name in sorted(METHODS.keys() - LEFT_OUT):
        for what, request in hostile(name):
            reason = await outcome(served, name, request)
            num_asked += 1
            num_refused += bool(reason)
            if reason in BROKEN:
                found[what] = reason
    assert found == {}
    assert num_asked > 500
    assert 0 < num_refused < num_asked
    assert (await served.ask("triage")).text, "and it answers still"
