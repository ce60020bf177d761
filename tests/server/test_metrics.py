"""What Prometheus reads: figures of calls, versions, engine and process, and their bounds."""

import asyncio
import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import refusal_of, running, until

from loradock.server.answering.progress import Progress
from loradock.server.config import Config
from loradock.server.errors import StartRefused
from loradock.server.services.call import Call
from loradock.server.services.principal import ALL_ROLES, Principal
from loradock.server.telemetry.metrics import Metrics


class Page:
    """What the page says now, by name and labels."""

    def __init__(self, address):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        self.samples = [s for f in text_string_to_metric_families(text) for s in f.samples]

    def __call__(self, name, **labels):
        """Sum the samples of a name that have these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"loradock_{name}" and labels.items() <= sample.labels.items()
        )

    def names(self):
        """Give the names of the project's own figures."""
        names = {sample.name for sample in self.samples if sample.name.startswith("loradock_")}
        return {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in names} - {
            name.removesuffix("_total") for name in names if name.endswith("_total")
        }


def documented():
    page = Path(__file__).parents[2] / "docs" / "observability.md"
    table = [line.split("|")[1] for line in page.read_text().splitlines() if line.startswith("|")]
    return {name for cell in table for name in re.findall(r"`(loradock_\w+)`", cell)}


async def read(served):
    return await asyncio.to_thread(Page, served.server.metrics_page.address)


async def test_metrics_count_what_was_asked_and_answered(tiny_base, tiny_adapter, tmp_path):
    async with running(tiny_base, tmp_path, metrics_address="127.0.0.1:0") as served:
        await served.publish("triage", tiny_adapter(1))
        await served.set_alias("triage", 1)
        texts = ("hello", "hello", "another question")
        answers = [await served.ask("triage", text, max_tokens=8) for text in texts]
        await served.ask(None)
        stream = served.stream(None, max_tokens=900)
        await anext(aiter(stream))
        await refusal_of(served.ask("unheard-of"))
        await refusal_of(served.ask("No Name"))
        page = await read(served)
        assert page("running_rows") == 1
        stream.cancel()
        await until(lambda: served.is_idle)
        await until(lambda: not served.server.gate.num_inside)
        page = await read(served)
        v1 = {"project": "default", "adapter": "triage", "version": "1"}
        assert page("requests_total", **v1, reason="OK") == 3
        assert page("requests_total", adapter="(base)", reason="OK") == 1
        assert page("requests_total", adapter="(base)", reason="CANCELLED") == 1
        assert page("requests_total", adapter="(other)", reason="NOT_FOUND") == 1
        assert page("requests_total", adapter="(other)", reason="INVALID_NAME") == 1
        usages = [answer.usage for answer in answers]
        assert page("prompt_tokens_total", **v1) == sum(u.prompt_tokens for u in usages)
        assert page("output_tokens_total", **v1) == sum(u.output_tokens for u in usages)
        assert page("cached_prompt_tokens_total", **v1) == sum(u.cached_tokens for u in usages)
        assert page("adapter_misses_total", **v1) == 1
        assert page("adapter_hits_total", **v1) == 2
        for spread in ("queue", "first_token"):
            assert page(f"{spread}_seconds_count", **v1) == 3
        gaps = sum(u.output_tokens - 1 for u in usages)
        assert page("inter_token_seconds_count", **v1) == pytest.approx(gaps, abs=3)
        state = served.parts.engine.state()
        assert page("steps_total") == page("step_seconds_count") == state.num_steps > 0
        assert page("step_tokens_total") >= sum(u.output_tokens for u in usages)
        assert page("kv_blocks") == state.num_blocks
        assert page("versions", state="resident") == 1
        for tier in ("memory", "disk"):
            assert page("loads_total", tier=tier) == 1
            assert 0 < page("tier_bytes", tier=tier) < page("tier_budget_bytes", tier=tier)
        assert page("evictions_total") == page("failed_loads_total") == 0
        for phase in ("fetch", "verify", "activate"):
            assert page("load_seconds_sum", phase=phase) > 0
        assert page("leases") == page("running_rows") == page("divergent_aliases") == 0
        assert page("catalog_up") == 1
        assert page("server_info", base="tiny") == 1
        assert any(sample.name == "process_resident_memory_bytes" for sample in page.samples)
        assert page.names() <= documented() <= page.names() | {"loradock_alias_divergent"}


async def test_taken_or_open_metrics_ports_are_refused_before_anything_is_listened_on(
    tiny_base, tmp_path
):
    async with running(tiny_base, tmp_path / "a", metrics_address="127.0.0.1:0") as served:
        assert served.server.metrics_page
        address = served.server.metrics_page.address
        with pytest.raises(StartRefused, match="metrics_address: can't listen"):
            async with running(tiny_base, tmp_path / "b", metrics_address=address):
                pass
    for wrong, why in (("0.0.0.0:1", "metrics-insecure"), ("localhost", "host:port")):
        with pytest.raises(StartRefused, match=why):
            Config(model="m", metrics_address=wrong)


async def test_versions_have_lines_of_their_own_up_to_a_bound(monkeypatch):
    metrics = Metrics(max_versions=2)

    def answer(number):
        principal = Principal("default", "somebody", ALL_ROLES)
        call = Call("/x/Generate", "id", principal, deadline=0.0)
        call.facts |= {"reference": "triage", "adapter": "triage", "version": number}
        metrics.answer_ended(call, Progress(num_output_tokens=1))

    def lines():
        found = metrics.registry.get_sample_value
        names = ("1", "2", "3", "(other)")
        labels = [{"project": "default", "adapter": "triage", "version": name} for name in names]
        labels[-1] = dict.fromkeys(("project", "adapter", "version"), "(other)")
        return [found("loradock_output_tokens_total", label) for label in labels]

    for number in (1, 2, 3, 1):
        answer(number)
    assert lines() == [2, 1, None, 1]
    monkeypatch.setattr("loradock.server.telemetry.metrics.UNUSED_S", 0.0)
    answer(3)
    assert lines() == [2, None, 1, 1]
