"""The registry's services over the wire: bases, adapters, bytes, versions, evaluations, lineage."""

import asyncio
import hashlib

import grpc
import pytest
from google.protobuf import timestamp_pb2
from served import BASE, alias_name, info_of, reason_of, refusal_of, running

from loradock.v1 import (
    alias_service_pb2,
    evaluation_service_pb2,
    registry_service_pb2,
    resources_pb2,
)

wire = registry_service_pb2
PROJECT = "projects/default"


@pytest.fixture
async def served(tiny_base, tmp_path):
    async with running(tiny_base, tmp_path) as running_server:
        yield running_server


async def test_the_servers_base_is_registered_with_its_modules(served):
    name = f"baseModels/{BASE}"
    base = (await served.registry.GetBaseModel(wire.GetBaseModelRequest(name=name))).base_model
    assert base.modules
    assert base.digests.weights.startswith("sha256:")
    listed = (await served.registry.ListBaseModels(wire.ListBaseModelsRequest())).base_models
    assert [b.name for b in listed] == [name]
    assert not listed[0].modules
    request = wire.RegisterBaseModelRequest(base_model=base)
    assert not (await served.registry.RegisterBaseModel(request)).created
    base.digests.weights = "sha256:" + "0" * 64
    error = await refusal_of(served.registry.RegisterBaseModel(request.__class__(base_model=base)))
    assert reason_of(error) == "ALREADY_EXISTS"


async def test_adapters_are_created_found_changed_and_deleted(served):
    create = wire.CreateAdapterRequest(
        parent=PROJECT, adapter_id="triage", owner="ana", description="mail", tags=["a"]
    )
    adapter = (await served.registry.CreateAdapter(create)).adapter
    assert adapter.name == f"{PROJECT}/adapters/triage"
    assert reason_of(await refusal_of(served.registry.CreateAdapter(create))) == "ALREADY_EXISTS"

    update = wire.UpdateAdapterRequest(name=adapter.name, owner="ben", etag=adapter.etag)
    changed = (await served.registry.UpdateAdapter(update)).adapter
    assert (changed.owner, changed.description, list(changed.tags)) == ("ben", "mail", ["a"])
    stale = await refusal_of(served.registry.UpdateAdapter(update))
    assert (stale.code(), reason_of(stale)) == (grpc.StatusCode.ABORTED, "STALE_ETAG")

    for tag, found in (("a", 1), ("b", 0)):
        request = wire.ListAdaptersRequest(parent=PROJECT, filter=wire.Filter(tag=tag))
        assert len((await served.registry.ListAdapters(request)).adapters) == found
    await served.registry.DeleteAdapter(wire.DeleteAdapterRequest(name=adapter.name))
    error = await refusal_of(served.registry.GetAdapter(wire.GetAdapterRequest(name=adapter.name)))
    assert reason_of(error) == "NOT_FOUND"


async def test_lists_come_in_pages(served):
    for n in range(5):
        await served.registry.CreateAdapter(
            wire.CreateAdapterRequest(parent=PROJECT, adapter_id=f"task-{n}")
        )
    names, token = [], ""
    while True:
        request = wire.ListAdaptersRequest(parent=PROJECT, page_size=2, page_token=token)
        page = await served.registry.ListAdapters(request)
        assert len(page.adapters) <= 2
        names += [adapter.name for adapter in page.adapters]
        token = page.next_page_token
        if not token:
            break
    assert sorted(names) == [f"{PROJECT}/adapters/task-{n}" for n in range(5)]
    bad = wire.ListAdaptersRequest(parent=PROJECT, page_size=-1)
    assert reason_of(await refusal_of(served.registry.ListAdapters(bad))) == "INVALID_FIELD"


@pytest.mark.parametrize(
    "name", ["", "adapters/x", "projects//adapters/x", "projects/a/adapters/X"]
)
async def test_malformed_names_are_refused(served, name):
    error = await refusal_of(served.registry.GetAdapter(wire.GetAdapterRequest(name=name)))
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


@pytest.mark.contract("X1")
async def test_x1_other_projects_do_not_exist_for_a_caller(served):
    other = wire.GetAdapterRequest(name="projects/other/adapters/triage")
    error = await refusal_of(served.registry.GetAdapter(other))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    error = await refusal_of(
        served.registry.ListAdapters(wire.ListAdaptersRequest(parent="projects/other"))
    )
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_bytes_go_up_and_come_down_in_chunks(served):
    content = bytes(range(256)) * 10_000
    blob = await served.upload(content, chunk=300_000)
    asked = wire.FindMissingBlobsRequest(parent=PROJECT, blobs=[blob])
    assert not (await served.registry.FindMissingBlobs(asked)).missing
    download = wire.DownloadBlobRequest(parent=PROJECT, digest=blob.digest, offset_bytes=100)
    got = b"".join([part.chunk async for part in served.registry.DownloadBlob(download)])
    assert got == content[100:]


@pytest.mark.contract("C6")
async def test_c6_chunks_over_the_limit_are_refused(served):
    error = await refusal_of(served.upload(b"x" * (1 << 21), chunk=(1 << 20) + 1))
    assert reason_of(error) == "CHUNK_TOO_LARGE"
    assert info_of(error).metadata["limit_bytes"] == str(1 << 20)


@pytest.mark.contract("R5")
async def test_r5_bytes_that_are_not_what_was_promised_are_data_loss(served):
    digest = "sha256:" + hashlib.sha256(b"other").hexdigest()
    blob = resources_pb2.Blob(digest=digest, size_bytes=5)

    async def parts():
        header = wire.UploadBlobHeader(parent=PROJECT, blob=blob)
        yield wire.UploadBlobRequest(header=header)
        yield wire.UploadBlobRequest(chunk=b"wrong")

    error = await refusal_of(served.registry.UploadBlob(parts(), timeout=10))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.DATA_LOSS, "DIGEST_MISMATCH")
    asked = wire.FindMissingBlobsRequest(parent=PROJECT, blobs=[blob])
    assert (await served.registry.FindMissingBlobs(asked)).missing

    async def headless():
        yield wire.UploadBlobRequest(chunk=b"x")

    error = await refusal_of(served.registry.UploadBlob(headless(), timeout=10))
    assert reason_of(error) == "INVALID_FIELD"


@pytest.mark.contract("R1")
async def test_r1_the_same_content_is_the_same_version(served, tiny_adapter):
    first = await served.publish("triage", tiny_adapter(1), labels=["a", "b"], system="Be brief.")
    again = await served.publish("triage", tiny_adapter(1), labels=["a", "b"], system="Be brief.")
    assert again == first
    assert (first.number, list(first.profile.labels)) == (1, ["a", "b"])
    got = await served.registry.GetVersion(wire.GetVersionRequest(name=first.name))
    assert got.version == first
    for reference in ("triage@1", f"triage@{first.digest}", "default/triage@1"):
        request = wire.ResolveVersionRequest(parent=PROJECT, reference=reference)
        resolved = await served.registry.ResolveVersion(request)
        assert resolved.version.digest == first.digest
        assert not resolved.HasField("alias")


async def test_what_is_not_admitted_comes_back_with_every_problem(served, tiny_adapter):
    folder = tiny_adapter(1)
    config = folder / "adapter_config.json"
    config.write_text('{"peft_type": "IA3", "use_dora": true, "bias": "all"}')
    error = await refusal_of(served.publish("triage", folder))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(error) == "NOT_ADMITTED"


async def test_evaluations_are_recorded_and_listed(served, tiny_adapter):
    version = await served.publish("triage", tiny_adapter(1))
    metric = resources_pb2.Metric(
        name="accuracy", value=0.9, num_items=100, direction=resources_pb2.METRIC_DIRECTION_HIGHER
    )
    evaluation = resources_pb2.Evaluation(
        suite="heldout",
        dataset_digest="sha256:" + "1" * 64,
        base_model=f"baseModels/{BASE}",
        version=version.name,
        metrics=[metric],
        cost={"tokens": 5},
        harness="test 1",
    )
    record = evaluation_service_pb2.RecordEvaluationRequest(
        parent=PROJECT, evaluation=evaluation, request_id="one"
    )
    recorded = (await served.evaluations.RecordEvaluation(record)).evaluation
    assert recorded.version_digest == version.digest
    assert recorded.metrics[0] == metric
    assert (await served.evaluations.RecordEvaluation(record)).evaluation == recorded
    listing = evaluation_service_pb2.ListEvaluationsRequest(parent=PROJECT, adapter="triage")
    assert list((await served.evaluations.ListEvaluations(listing)).evaluations) == [recorded]
    get = evaluation_service_pb2.GetEvaluationRequest(name=recorded.name)
    assert (await served.evaluations.GetEvaluation(get)).evaluation == recorded

    better = wire.MetricFilter(
        suite="heldout", metric="accuracy", comparison=wire.METRIC_COMPARISON_AT_LEAST, value=0.8
    )
    for value, found in ((0.8, 1), (0.95, 0)):
        better.value = value
        request = wire.SearchVersionsRequest(parent=PROJECT, filter=wire.Filter(metric=better))
        assert len((await served.registry.SearchVersions(request)).versions) == found


async def test_lineage_is_walked_both_ways(served, tiny_adapter):
    version = await served.publish("triage", tiny_adapter(1))
    up = evaluation_service_pb2.GetLineageRequest(
        parent=PROJECT,
        reference="triage@1",
        direction=evaluation_service_pb2.LINEAGE_DIRECTION_UPSTREAM,
    )
    graph = await served.evaluations.GetLineage(up)
    assert graph.root == version.digest
    assert BASE in {node.label for node in graph.nodes}
    down = evaluation_service_pb2.GetLineageRequest(
        parent=PROJECT,
        base_model=f"baseModels/{BASE}",
        direction=evaluation_service_pb2.LINEAGE_DIRECTION_DOWNSTREAM,
    )
    graph = await served.evaluations.GetLineage(down)
    assert version.digest in {node.id for node in graph.nodes}


async def test_alias_history_tells_who_where_when_and_why(served, tiny_adapter):
    for seed in (1, 2):
        await served.publish("triage", tiny_adapter(seed))
    first = (await served.set_alias("triage", 1)).alias
    assert (first.etag, first.HasField("previous_number")) == ("1", False)
    second = (await served.set_alias("triage", 2, etag="1")).alias
    assert second.previous_number == 1
    back = (await served.roll_back("triage")).alias
    assert (back.version_number, back.generation) == (1, 3)
    history = alias_service_pb2.ListAliasHistoryRequest(name=alias_name("triage"))
    moves = (await served.aliases.ListAliasHistory(history)).moves
    assert [(m.version_number, m.kind) for m in moves] == [
        (1, resources_pb2.MOVE_KIND_ROLLBACK),
        (2, resources_pb2.MOVE_KIND_SET),
        (1, resources_pb2.MOVE_KIND_SET),
    ]
    assert moves[0].reason == "a test"
    at = timestamp_pb2.Timestamp()
    at.CopyFrom(second.moved_at)
    then = alias_service_pb2.ListAliasHistoryRequest(name=alias_name("triage"), at=at)
    assert [m.version_number for m in (await served.aliases.ListAliasHistory(then)).moves] == [2]
    listing = alias_service_pb2.ListAliasesRequest(parent=f"{PROJECT}/adapters/triage")
    assert len((await served.aliases.ListAliases(listing)).aliases) == 1

    delete = wire.DeleteVersionRequest(name=f"{PROJECT}/adapters/triage/versions/1")
    error = await refusal_of(served.registry.DeleteVersion(delete))
    assert reason_of(error) == "STILL_REFERENCED"
    assert "production" in info_of(error).metadata["referrers"]


@pytest.mark.contract("R6")
async def test_r6_of_racing_movers_exactly_one_wins(served, tiny_adapter):
    for seed in (1, 2):
        await served.publish("triage", tiny_adapter(seed))
    await served.set_alias("triage", 1)
    movers = (served.set_alias("triage", 1 + n % 2, etag="1") for n in range(8))
    outcomes = await asyncio.gather(*movers, return_exceptions=True)
    lost = [o for o in outcomes if isinstance(o, grpc.aio.AioRpcError)]
    assert len(lost) == 7
    assert {reason_of(error) for error in lost} == {"STALE_GENERATION"}


async def test_validate_only_moves_nothing(served, tiny_adapter):
    await served.publish("triage", tiny_adapter(1))
    request = alias_service_pb2.SetAliasRequest(
        name=alias_name("triage"), version_number=1, validate_only=True
    )
    assert (await served.aliases.SetAlias(request)).alias.version_number == 1
    get = alias_service_pb2.GetAliasRequest(name=alias_name("triage"))
    assert reason_of(await refusal_of(served.aliases.GetAlias(get))) == "NOT_FOUND"
