"""S18 and X3: what every log line of a request says on a real process, and what none ever says."""

import io
import json
import logging
import re
from collections import defaultdict
from typing import Any

import pytest
from fault_proxy import FaultProxy
from real_server import BASE
from served import running, until

from loradock.client import AsyncClient, Client, LoradockError
from loradock.registry.registry import open_registry
from loradock.server.telemetry.logs import JsonFormatter

SAID = {"request_id", "adapter", "version", "digest", "alias", "arm", "base", "base_weights"}


def lines_of(said):
    """Give the log's lines by request."""
    requests = defaultdict(list)
    for line in list(said):
        if line.startswith("{"):
            facts = json.loads(line)
            requests[facts.get("request_id")].append(facts)
    return requests


async def lines_of_all(server, request_ids):
    """Give the lines of requests, once each has been answered."""

    def is_answered(request_id):
        return any(line["message"] == "answered" for line in lines_of(server.said)[request_id])

    await until(lambda: all(map(is_answered, request_ids)))
    return lines_of(server.said)


def ask_all_kinds(client, folders):
    """Ask well and badly, each kind under an id of its own; give the versions' digests."""
    client.adapters.create("audited")
    digests = [client.versions.push("audited", f, base=BASE).version.digest for f in folders]
    client.aliases.set("audited", "production", 1, reason="a test")
    ask = {"max_tokens": 8}
    client.generate("hello", adapter="audited", request_id="cold", **ask)
    client.generate("hello", adapter="audited", request_id="warm", **ask)
    client.generate("hello", adapter="audited@2", request_id="pinned", **ask)
    client.generate("hello", base=True, request_id="base", **ask)
    with client.stream("hello", adapter="audited", request_id="left", max_tokens=400) as answer:
        next(iter(answer))
    refusals: dict[str, dict[str, Any]] = {
        "unheard": {"adapter": "unheard-of"},
        "invalid": {"adapter": "audited", "temperature": -1.0},
        "too-long": {"adapter": "audited", "max_tokens": 100_000},
    }
    for request_id, wrong in refusals.items():
        with pytest.raises(LoradockError):
            client.generate("hello", request_id=request_id, **wrong)
    return digests


@pytest.mark.contract("S18")
async def test_s18_every_log_line_of_a_request_says_what_it_is_of(real_server, tiny):
    folders = [tiny.folder(name) for name in ("audited one", "audited two")]
    with Client(real_server.address) as client:
        digests = ask_all_kinds(client, folders)
        weights = client.bases.get(BASE).digests.weights
    resolved = {"cold": 1, "warm": 1, "pinned": 2, "left": 1, "too-long": 1}
    asked = (*resolved, "base", "unheard", "invalid")
    requests = await lines_of_all(real_server, asked)
    for request_id in asked:
        lines = requests[request_id]
        assert sum(line["message"] == "answered" for line in lines) == 1, request_id
        for line in lines:
            assert line.keys() >= SAID, (request_id, line)
            assert (line["base"], line["base_weights"]) == (BASE, weights)
            number = resolved.get(request_id)
            digest = None if number is None else digests[number - 1]
            assert (line["version"], line["digest"]) == (number, digest)
            alias = None if number is None or request_id == "pinned" else "production"
            assert line["alias"] == alias
    told = {line["message"] for line in requests["cold"]}
    assert {"weights fetched", "adapter is resident", "answered"} <= told
    statuses = [requests[name][-1]["status"] for name in ("left", "unheard", "invalid")]
    assert statuses == ["CANCELLED", "NOT_FOUND", "INVALID_FIELD"]


@pytest.fixture
def log():
    """Everything that is logged, as a process would write it with all of the project's logs on."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    project = logging.getLogger("loradock")
    logging.getLogger().addHandler(handler)
    project.setLevel(logging.DEBUG)
    yield text
    project.setLevel(logging.NOTSET)
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def secrets(postgres_url, s3_url, monkeypatch):
    """Production's shape behind faulty networks, with a secret wherever one can be."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3-hunter2")
    postgres_url = re.sub(r"//[^@]*@", "//postgres:pg-hunter2@", postgres_url)
    with (
        FaultProxy.of_database(postgres_url) as (database, database_url),
        FaultProxy.of_store(s3_url) as (store, blob_url),
    ):
        open_registry(database_url, blob_url, migrate=True).close()
        settings = {"database_url": database_url, "blob_url": blob_url, "token": "token-hunter2"}
        yield settings, database, store


@pytest.mark.contract("X3")
async def test_x3_no_secret_is_ever_said(tiny_base, tiny_adapter, tmp_path, secrets, log):
    """With all logs on, and while the catalog and the store fail."""
    settings, database, store = secrets
    errors = []

    async def refused(ask):
        with pytest.raises(LoradockError) as caught:
            await ask
        errors.append(caught.value)

    async with (
        running(tiny_base, tmp_path, **settings) as served,
        AsyncClient(served.server.address, token="token-hunter2", timeout_s=10) as client,
        AsyncClient(served.server.address, token="wrong-hunter2", timeout_s=10) as stranger,
    ):
        await client.adapters.create("triage")
        await client.versions.push("triage", tiny_adapter(1), base="tiny")
        await refused(stranger.adapters.get("triage"))
        store.refuse()
        await refused(client.generate("hello", adapter="triage@1"))
        database.refuse()
        await refused(client.adapters.get("triage"))
        await until(lambda: not served.parts.follower.catalog_answers)
        store.pass_on()
        database.pass_on()
        await until(lambda: served.parts.follower.catalog_answers)
        config = repr(served.server.config)
    assert {getattr(error, "reason", "") for error in errors} >= {
        "UNAUTHENTICATED",
        "CATALOG_UNAVAILABLE",
    }
    told = [log.getvalue(), config, *(f"{e!r} {e} {getattr(e, 'metadata', '')}" for e in errors)]
    assert not re.findall(r".*hunter2.*", "\n".join(told))
