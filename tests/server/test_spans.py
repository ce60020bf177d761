"""Traces from the SDK across the wire to the step loop; two real processes, OTLP on loopback."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from real_server import BASE, TinyAdapters, run_server

CALLER = """\
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from loradock.client import Client, LoradockError

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(sys.argv[2])))
trace.set_tracer_provider(provider)
with Client(sys.argv[1]) as client, trace.get_tracer("app").start_as_current_span("work"):
    client.adapters.create("triage")
    version = client.versions.push("triage", sys.argv[3], base=sys.argv[4]).version
    client.aliases.set("triage", "production", version.number, reason="a test")
    client.generate("hello", adapter="triage", max_tokens=8, request_id="unary")
    with client.stream("hello", adapter="triage", max_tokens=8, request_id="streamed") as stream:
        stream.result()
    try:
        client.generate("hello", adapter="unheard-of", request_id="refused")
    except LoradockError:
        pass
    print(version.digest)
provider.shutdown()
"""


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span, by name and by the request that it is of."""

    def __init__(self):
        self.spans = []
        self.address = ""

    def Export(self, request, context):
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, name, request_id=None):
        (span,) = (
            span
            for span in self.spans
            if span.name == name and request_id in (None, told(span).get("loradock.request_id"))
        )
        return span

    def children(self, parent):
        found = [span for span in self.spans if span.parent_span_id == parent.span_id]
        return {span.name: span for span in found}


def told(span):
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes
    }


@pytest.fixture
def receiver():
    server = grpc.server(ThreadPoolExecutor(2))
    receiver = Receiver()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    receiver.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield receiver
    server.stop(0).wait()


def test_spans_lead_from_the_caller_to_the_step_loop(tmp_path, receiver):
    endpoint = f"http://{receiver.address}"
    with run_server(tmp_path, "--traces-endpoint", endpoint) as server:
        folder = TinyAdapters(server).folder("triage")
        command = [sys.executable, "-c", CALLER, server.address, endpoint, str(folder), BASE]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert asked.returncode == 0, asked.stderr
    digest = asked.stdout.split()[-1]
    work = receiver.of("work")
    assert {span.trace_id for span in receiver.spans} == {work.trace_id}

    client = receiver.of("loradock.Generate", "unary")
    assert client.parent_span_id == work.span_id
    call = receiver.of("loradock.v1.InferenceService/Generate", "unary")
    assert call.parent_span_id == client.span_id
    for span in (client, call):
        who = told(span)
        names = ("adapter", "version", "digest", "alias")
        assert [who[f"loradock.{name}"] for name in names] == ["triage", 1, digest, "production"]
    stages = receiver.children(call)
    assert {"resolve", "queue", "prefill", "decode"} <= stages.keys()
    assert "stream" not in stages
    assert in_order(stages["resolve"], stages["queue"], stages["prefill"], stages["decode"])
    for stage in stages.values():
        assert call.start_time_unix_nano <= stage.start_time_unix_nano
        assert stage.end_time_unix_nano <= call.end_time_unix_nano + 1_000_000

    loads = receiver.children(receiver.children(call)["load"])
    assert in_order(loads["fetch"], loads["verify"], loads["activate"])

    streamed = receiver.of("loradock.v1.InferenceService/StreamGenerate", "streamed")
    assert "stream" in receiver.children(streamed)
    assert streamed.parent_span_id == receiver.of("loradock.StreamGenerate", "streamed").span_id
    for name in ("loradock.Generate", "loradock.v1.InferenceService/Generate"):
        refused = receiver.of(name, "refused")
        assert told(refused)["loradock.reason"] == "NOT_FOUND"
        assert refused.status.code == refused.status.STATUS_CODE_ERROR


def in_order(*spans):
    return all(
        earlier.end_time_unix_nano <= later.start_time_unix_nano + 1_000_000
        for earlier, later in zip(spans, spans[1:], strict=False)
    )
