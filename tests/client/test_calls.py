"""Every call has a deadline and a request id; only safe calls are sent again."""

import contextlib
from datetime import UTC, datetime

import grpc
import pytest

from loradock.client import (
    AuditHead,
    BaseDigests,
    Client,
    InvalidRequest,
    LoradockError,
    Metric,
    MetricDemand,
    MetricFilter,
    SuiteDemand,
    Unavailable,
)
from loradock.client._policy import IDEMPOTENT_METHODS
from loradock.v1 import (
    alias_service_pb2,
    inference_service_pb2,
    registry_service_pb2,
    resources_pb2,
)

DIGESTS = BaseDigests("sha256:1", "sha256:2", "sha256:3")


def call_everything(client, folder):
    """Call each method once; what the empty answers lead to does not matter."""
    calls = [
        lambda: client.generate("hi", adapter="a"),
        lambda: client.stream("hi", base=True).result(),
        lambda: client.classify("hi", adapter="a"),
        lambda: client.score("hi", ["a"], base=True),
        lambda: client.count_tokens("hi", base=True),
        lambda: client.lineage("a@1"),
        lambda: client.affected("a@1"),
        lambda: client.bases.register(
            "b",
            digests=DIGESTS,
            architecture="LlamaForCausalLM",
            modules={},
            context_length_tokens=1,
            num_parameters=1,
        ),
        lambda: client.bases.get("b"),
        lambda: list(client.bases.list()),
        lambda: client.adapters.create("a"),
        lambda: client.adapters.get("a"),
        lambda: list(client.adapters.list(metric=MetricFilter("s", "m", "at_least", 0.5))),
        lambda: client.adapters.update("a", tags=[]),
        lambda: client.adapters.delete("a"),
        lambda: client.versions.push("a", folder, base="b"),
        lambda: client.versions.pull("a", folder / "pulled"),
        lambda: client.versions.get("a", 1),
        lambda: list(client.versions.list("a")),
        lambda: list(client.versions.search(tag="t")),
        lambda: client.versions.yank("a", 1, reason="r"),
        lambda: client.versions.unyank("a", 1, reason="r"),
        lambda: client.versions.hold("a", 1, reason="r", expires_at=datetime.now(UTC)),
        lambda: client.versions.unhold("a", 1),
        lambda: client.versions.delete("a", 1),
        lambda: client.aliases.set("a", "p", 1, wait_s=5),
        lambda: client.aliases.approve("a", "p", 1),
        lambda: client.aliases.withdraw("a", "p", 1),
        lambda: client.aliases.approvals("a", "p", 1),
        lambda: list(client.aliases.list("a")),
        lambda: list(client.aliases.history("a", "p")),
        lambda: client.aliases.at("a", "p", datetime.now(UTC)),
        lambda: client.aliases.rollback("a", "p"),
        lambda: client.aliases.delete("a", "p"),
        lambda: client.policies.set("a", "p", [SuiteDemand("s", (MetricDemand("m", 0.5),))]),
        lambda: client.policies.check("a", "p", 1),
        lambda: list(client.policies.history("a", "p")),
        lambda: client.rollouts.start("a", "p", 1),
        lambda: client.rollouts.get("a", "p"),
        lambda: client.rollouts.pause("a", "p"),
        lambda: client.rollouts.resume("a", "p"),
        lambda: client.rollouts.promote("a", "p"),
        lambda: client.rollouts.abort("a", "p"),
        lambda: client.evaluations.record(
            "s", metrics=[Metric("m", 1.0, 1)], dataset_digest="sha256:4", version="a@1"
        ),
        lambda: client.evaluations.get("e"),
        lambda: list(client.evaluations.list()),
        lambda: list(client.admin.collect_garbage()),
        lambda: list(client.admin.verify()),
        lambda: list(client.admin.audit_events()),
        lambda: client.admin.verify_audit(AuditHead(1, "sha256:6")),
        lambda: client.admin.diagnose(),
        lambda: client.admin.export_bundle(folder / "out.bundle", ["a@1"]),
        lambda: client.admin.import_bundle(folder / "adapter_config.json"),
        lambda: client.server.status(),
        lambda: list(client.server.list()),
        lambda: client.server.load("a"),
        lambda: client.server.prefetch("a"),
        lambda: client.server.pin("a"),
        lambda: client.server.unpin("a"),
        lambda: client.server.unload("sha256:5"),
        lambda: client.server.drain(wait_s=0),
        lambda: client.server.undrain(),
        lambda: client.server.override("a", "p", reason="r"),
    ]
    for call in calls:
        with contextlib.suppress(LoradockError):
            call()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x" * 10)
    return tmp_path


@pytest.mark.contract("C3")
def test_c3_every_method_of_the_wire_is_called_with_a_deadline(scripted, folder):
    blob = resources_pb2.Blob(digest=f"sha256:{'0' * 64}", size_bytes=1)
    scripted.answer(
        "FindMissingBlobs",
        lambda request, context: registry_service_pb2.FindMissingBlobsResponse(
            missing=registry_service_pb2.FindMissingBlobsRequest.FromString(request).blobs
        ).SerializeToString(),
    )
    version = resources_pb2.AdapterVersion(
        name="projects/default/adapters/a/versions/1",
        delta=resources_pb2.Delta(weights=blob, config=blob),
    )
    scripted.answer("ResolveVersion", registry_service_pb2.ResolveVersionResponse(version=version))
    with Client(scripted.address) as client:
        call_everything(client, folder)
    called = {call.method for call in scripted.calls}
    assert called == {path.rpartition("/")[2] for path in scripted.methods}
    for call in scripted.calls:
        assert call.remaining_s is not None and call.remaining_s < 650, call.method
        assert len(call.metadata["x-request-id"]) == 36


def test_priorities_are_said_by_name(scripted):
    with Client(scripted.address) as client:
        client.generate("hi", base=True, priority="low")
        client.classify("hi", base=True, labels=["a"], priority="high")
        with pytest.raises(InvalidRequest, match="'urgent' is none of high, normal, low"):
            client.score("hi", ["a"], base=True, priority="urgent")  # type: ignore[arg-type]
    generate, classify = scripted.calls
    asked = inference_service_pb2.GenerateRequest.FromString(generate.requests[0])
    assert asked.priority == inference_service_pb2.PRIORITY_LOW
    labelled = inference_service_pb2.ClassifyRequest.FromString(classify.requests[0])
    assert labelled.priority == inference_service_pb2.PRIORITY_HIGH


def test_c3_request_ids_are_in_the_requests_too(scripted, folder):
    with Client(scripted.address) as client:
        client.aliases.set("a", "p", 1, etag="3", request_id="mine")
        client.adapters.create("a")
    request = alias_service_pb2.SetAliasRequest.FromString(scripted.calls[0].requests[0])
    assert request.request_id == scripted.calls[0].metadata["x-request-id"] == "mine"
    created = registry_service_pb2.CreateAdapterRequest.FromString(scripted.calls[1].requests[0])
    assert created.request_id == scripted.calls[1].metadata["x-request-id"]


@pytest.mark.contract("C3")
@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("GetAdapter", lambda c: c.adapters.get("a")),
        ("CreateAdapter", lambda c: c.adapters.create("a")),
        ("Generate", lambda c: c.generate("hi", base=True)),
        ("SetAlias", lambda c: c.aliases.set("a", "p", 1, etag="")),
    ],
)
def test_c3_lost_safe_calls_are_sent_again_with_the_same_id(scripted, method, call):
    draining = scripted.error_info("DRAINING")
    later = scripted.refuse(grpc.StatusCode.UNAVAILABLE, "later", draining)
    scripted.answer(method, later, later)
    with Client(scripted.address) as client:
        call(client)
    received = scripted.received(method)
    assert len(received) == 3
    assert len({r.metadata["x-request-id"] for r in received}) == 1
    assert len({r.requests for r in received}) == 1


@pytest.mark.contract("C3")
@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("UpdateAdapter", lambda c: c.adapters.update("a", owner="o")),
        ("DeleteVersion", lambda c: c.versions.delete("a", 1)),
        ("OverrideAlias", lambda c: c.server.override("a", "p", reason="r")),
    ],
)
def test_c3_other_calls_are_sent_once(scripted, method, call):
    scripted.answer(method, scripted.refuse(grpc.StatusCode.UNAVAILABLE))
    with Client(scripted.address) as client, pytest.raises(Unavailable):
        call(client)
    assert len(scripted.received(method)) == 1


@pytest.mark.contract("C3")
@pytest.mark.parametrize(
    "code", [c for c in grpc.StatusCode if c.name not in ("OK", "UNAVAILABLE")]
)
def test_c3_only_unavailable_is_sent_again(scripted, code):
    scripted.answer("GetAdapter", scripted.refuse(code))
    with Client(scripted.address) as client, pytest.raises(LoradockError):
        client.adapters.get("a")
    assert len(scripted.calls) == 1


def test_idempotent_methods_exist_on_the_wire(scripted):
    paths = {f"/loradock.v1.{s}/{m}" for s, methods in IDEMPOTENT_METHODS.items() for m in methods}
    assert paths <= set(scripted.methods)


def test_own_deadline_goes_before_the_methods(scripted):
    with Client(scripted.address, timeout_s=7) as client:
        client.adapters.get("a")
        client.generate("hi", base=True)
        client.generate("hi", base=True, timeout_s=3)
        client.aliases.set("a", "p", 1, etag="", wait_s=20)
    assert [round(call.remaining_s) for call in scripted.calls] == [7, 7, 3, 27]


def test_lists_ask_for_pages_as_they_are_read(scripted):
    def page(*names, token=""):
        return registry_service_pb2.ListAdaptersResponse(
            adapters=[resources_pb2.Adapter(name=f"projects/p/adapters/{n}") for n in names],
            next_page_token=token,
        )

    scripted.answer("ListAdapters", page("a", "b", token="2"), page(token="3"), page("c"))
    with Client(scripted.address) as client:
        found = client.adapters.list(page_size=2)
        assert not scripted.calls
        assert [next(found).name, next(found).name] == ["a", "b"]
        assert len(scripted.calls) == 1
        assert [adapter.name for adapter in found] == ["c"]
    tokens = [
        registry_service_pb2.ListAdaptersRequest.FromString(call.requests[0]).page_token
        for call in scripted.calls
    ]
    assert tokens == ["", "2", "3"]


def test_alias_without_etag_is_read_first(scripted):
    scripted.answer(
        "GetAlias", alias_service_pb2.GetAliasResponse(alias=resources_pb2.Alias(etag="7"))
    )
    with Client(scripted.address) as client:
        client.aliases.set("a", "p", 1)
    request = alias_service_pb2.SetAliasRequest.FromString(scripted.calls[1].requests[0])
    assert request.etag == "7"


def test_new_alias_is_created(scripted):
    gone = scripted.refuse(grpc.StatusCode.NOT_FOUND, "no", scripted.error_info("NOT_FOUND"))
    scripted.answer("GetAlias", gone)
    with Client(scripted.address) as client:
        client.aliases.set("a", "p", 1)
    request = alias_service_pb2.SetAliasRequest.FromString(scripted.calls[1].requests[0])
    assert request.etag == ""
