"""Bytes up and down: in chunks, once, proven; and a pulled folder that is pushed again."""

import hashlib
import json
import threading
from typing import Any

import grpc
import pytest

from loradock.client import (
    AlreadyExists,
    AsyncClient,
    Client,
    DataLoss,
    Dataset,
    DeadlineExceeded,
    InvalidRequest,
    Profile,
    TransferProgress,
    Unavailable,
)
from loradock.client._folder import CHUNK_BYTES, LocalFile
from loradock.client._transfer import MAX_FAILURES, Upload
from loradock.client._values.registry import Blob
from loradock.client._wire.registry import version_of
from loradock.v1 import registry_service_pb2 as wire
from loradock.v1 import resources_pb2

CONFIG = b'{"r": 4}'
WEIGHTS = bytes(range(256)) * 10_000  # more than two chunks


def digest_of(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def version(weights=WEIGHTS):
    content: dict[str, Any] = dict(
        name="projects/default/adapters/triage/versions/3",
        number=3,
        digest=f"sha256:{'d' * 64}",
        base_model="baseModels/tiny",
        base_digests={"structural": "s", "weights": "w", "tokenizer": "t"},
        delta={
            "weights": {"digest": digest_of(weights), "size_bytes": len(weights)},
            "config": {"digest": digest_of(CONFIG), "size_bytes": len(CONFIG)},
        },
        profile={"template": "{{ content }} ->", "decoding": {"temperature": 0.7, "max_tokens": 8}},
        lineage={"parents": [f"sha256:{'a' * 64}"], "training": {"seed": 1}},
    )
    return resources_pb2.AdapterVersion(**content)


def all_missing(request, context):
    asked = wire.FindMissingBlobsRequest.FromString(request)
    return wire.FindMissingBlobsResponse(missing=asked.blobs).SerializeToString()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "adapter_config.json").write_bytes(CONFIG)
    (path / "adapter_model.safetensors").write_bytes(WEIGHTS)
    return path


def uploads(scripted):
    """What was sent of each file, the smallest first."""
    sent = [
        [wire.UploadBlobRequest.FromString(request) for request in call.requests]
        for call in scripted.received("UploadBlob")
    ]
    return sorted(sent, key=len)


def test_push_sends_a_header_and_chunks(scripted, folder):
    scripted.answer("FindMissingBlobs", all_missing)
    scripted.answer("PublishVersion", wire.PublishVersionResponse(version=version(), created=True))
    told: list[TransferProgress] = []
    with Client(scripted.address) as client:
        published = client.versions.push("triage", folder, base="tiny", progress=told.append)
    assert published.created and published.version.reference == "triage@3"
    assert published.sent_bytes == len(CONFIG) + len(WEIGHTS)
    assert published.version.profile.decoding.temperature == 0.7
    config, weights = uploads(scripted)
    assert weights[0].header.blob.digest == digest_of(WEIGHTS)
    assert [len(request.chunk) for request in weights[1:]] == [
        CHUNK_BYTES,
        CHUNK_BYTES,
        len(WEIGHTS) - 2 * CHUNK_BYTES,
    ]
    assert b"".join(request.chunk for request in weights[1:]) == WEIGHTS
    total = len(WEIGHTS)
    assert told[-1] == TransferProgress("adapter_model.safetensors", total, total)


@pytest.mark.contract("R5")
def test_r5_the_files_of_a_push_go_up_side_by_side(scripted, folder):
    """Neither upload is answered before both have come."""
    both = threading.Barrier(2)

    def together(request, context):
        both.wait(10)
        return wire.UploadBlobResponse().SerializeToString()

    scripted.answer("FindMissingBlobs", all_missing)
    scripted.answer("UploadBlob", together, together)
    with Client(scripted.address) as client:
        sent_bytes = client.versions.push("triage", folder, base="tiny").sent_bytes
    assert sent_bytes == len(CONFIG) + len(WEIGHTS)


def late(request, context):
    context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "longer than any call may take")


def missing_weights(committed_bytes=0):
    digest = digest_of(WEIGHTS)
    blob = resources_pb2.Blob(digest=digest, size_bytes=len(WEIGHTS))
    return wire.FindMissingBlobsResponse(
        missing=[blob], committed_bytes={digest: committed_bytes} if committed_bytes else {}
    )


@pytest.mark.contract("R5")
def test_r5_an_upload_longer_than_a_call_may_take_goes_up_in_several(scripted, folder):
    scripted.answer("FindMissingBlobs", missing_weights(), missing_weights(CHUNK_BYTES))
    scripted.answer("UploadBlob", late)
    with Client(scripted.address) as client:
        client.versions.push("triage", folder, base="tiny")
    offsets = [requests[0].header.offset_bytes for requests in uploads(scripted)]
    assert sorted(offsets) == [0, CHUNK_BYTES]
    scripted.answer("FindMissingBlobs", missing_weights())
    scripted.answer("UploadBlob", late)
    with Client(scripted.address, timeout_s=30) as client, pytest.raises(DeadlineExceeded):
        client.versions.push("triage", folder, base="tiny")


def test_push_sends_only_what_is_missing(scripted, folder):
    with Client(scripted.address) as client:
        assert client.versions.push("triage", folder, base="tiny").sent_bytes == 0
    assert not uploads(scripted)


def published_request(scripted):
    (call,) = scripted.received("PublishVersion")
    return wire.PublishVersionRequest.FromString(call.requests[0])


def test_push_takes_profile_and_lineage_of_the_folder(scripted, folder):
    (folder / "profile.json").write_text('{"template": "T {{ content }}"}')
    (folder / "lineage.json").write_text(
        '{"parents": [{"version": "triage@3"}], "training": {"seed": 7}}'
    )
    scripted.answer("ResolveVersion", wire.ResolveVersionResponse(version=version()))
    with Client(scripted.address) as client:
        client.versions.push("triage", folder, base="baseModels/tiny")
    request = published_request(scripted)
    assert request.profile.template == "T {{ content }}"
    assert list(request.lineage.parents) == [f"sha256:{'d' * 64}"]
    assert request.lineage.training["seed"] == 7
    assert request.base_model == "baseModels/tiny"


def test_push_arguments_go_before_the_folder(scripted, folder):
    (folder / "profile.json").write_text('{"template": "T {{ content }}"}')
    (folder / "lineage.json").write_text('{"datasets": [{"name": "a", "digest": "sha256:1"}]}')
    with Client(scripted.address) as client:
        client.versions.push(
            "acme/triage",
            folder,
            base="tiny",
            profile=Profile(labels=("x",)),
            datasets=[Dataset("b", "sha256:2")],
            validate_only=True,
        )
    request = published_request(scripted)
    assert not request.profile.HasField("template") and list(request.profile.labels) == ["x"]
    assert [d.name for d in request.lineage.datasets] == ["b"]
    assert request.parent == "projects/acme/adapters/triage"
    assert request.validate_only


def test_training_facts_are_what_json_holds(scripted, folder):
    scripted.answer("PublishVersion", wire.PublishVersionResponse(version=version()))
    with Client(scripted.address) as client:
        with pytest.raises(InvalidRequest, match="training"):
            client.versions.push("triage", folder, base="tiny", training={"when": object()})
        facts = {"seed": 1, "rate": 0.5, "steps": [1, {"n": 2}], "none": None}
        client.versions.push("triage", folder, base="tiny", training=facts)
    assert version_of(version()).lineage.training == {"seed": 1}
    assert type(version_of(version()).lineage.training["seed"]) is int


async def test_async_push(scripted, folder):
    scripted.answer("FindMissingBlobs", all_missing)
    async with AsyncClient(scripted.address) as client:
        published = await client.versions.push("triage", folder, base="tiny")
    assert published.sent_bytes == len(CONFIG) + len(WEIGHTS)
    assert len(uploads(scripted)[1]) == 4


def serve(scripted, weights=WEIGHTS):
    def chunks(request, context):
        digest = wire.DownloadBlobRequest.FromString(request).digest
        content = CONFIG if digest == digest_of(CONFIG) else weights
        for start in range(0, len(content), CHUNK_BYTES):
            chunk = content[start : start + CHUNK_BYTES]
            yield wire.DownloadBlobResponse(chunk=chunk).SerializeToString()

    scripted.answer("ResolveVersion", wire.ResolveVersionResponse(version=version()))
    scripted.answer("DownloadBlob", chunks, chunks)


def test_pull_gives_a_folder_that_can_be_pushed(scripted, tmp_path):
    serve(scripted)
    with Client(scripted.address) as client:
        pulled = client.versions.pull("triage", tmp_path / "in")
        client.versions.push("triage", tmp_path / "in", base="tiny")
    assert pulled.number == 3
    assert {path.name for path in (tmp_path / "in").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "profile.json",
        "lineage.json",
        "version.json",
    }
    assert (tmp_path / "in/adapter_model.safetensors").read_bytes() == WEIGHTS
    told = json.loads((tmp_path / "in/version.json").read_text())
    assert told["version"] == "default/triage@3"
    assert told["digest"] == f"sha256:{'d' * 64}"
    request, given = published_request(scripted), version()
    assert (request.delta, request.profile, request.lineage) == (
        given.delta,
        given.profile,
        given.lineage,
    )


def test_pull_again_fetches_nothing(scripted, tmp_path):
    serve(scripted)
    with Client(scripted.address) as client:
        client.versions.pull("triage", tmp_path)
        scripted.answer("ResolveVersion", wire.ResolveVersionResponse(version=version()))
        client.versions.pull("triage", tmp_path)
    assert len(scripted.received("DownloadBlob")) == 2


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "profile.json", "lineage.json"])
def test_pull_does_not_replace_other_files(scripted, tmp_path, name):
    (tmp_path / name).write_text('{"template": "mine"}')
    serve(scripted)
    with Client(scripted.address) as client:
        with pytest.raises(AlreadyExists, match=name):
            client.versions.pull("triage", tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == '{"template": "mine"}'
        serve(scripted)
        client.versions.pull("triage", tmp_path, overwrite=True)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert json.loads((tmp_path / "profile.json").read_text())["template"] == "{{ content }} ->"


@pytest.mark.parametrize(
    "wrong", [WEIGHTS[:-1], WEIGHTS + b"x", b"y" + WEIGHTS[1:]], ids=["short", "long", "flipped"]
)
def test_pull_keeps_nothing_that_is_not_proven(scripted, tmp_path, wrong):
    serve(scripted, wrong)
    with Client(scripted.address) as client, pytest.raises(DataLoss) as raised:
        client.versions.pull("triage", tmp_path)
    assert raised.value.reason == "DIGEST_MISMATCH"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter_config.json"]


def test_r5_a_part_that_went_bad_is_sent_anew_a_bounded_number_of_times(folder):
    weights = folder / "adapter_model.safetensors"
    blob = Blob(digest_of(WEIGHTS), len(WEIGHTS))
    upload = Upload("projects/default", LocalFile(weights, blob), 100, None)
    upload.after(DataLoss("what came earlier is not what it should be"))
    with pytest.raises(Unavailable):
        for _ in range(2 * MAX_FAILURES):
            upload.go_on_at(50)  # what came of it until it broke off again
            assert next(upload.messages()).header.offset_bytes == 0
            upload.after(Unavailable("broken off"))
    assert upload.num_failures == MAX_FAILURES
