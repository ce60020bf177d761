"""The production shape, through the SDK: a server on PostgreSQL and on S3 over HTTP."""

import subprocess
from datetime import UTC, datetime

import pytest
from real_server import BASE, LORADOCK, TinyAdapters, run_server

from loradock.client import Client, StaleAlias


@pytest.fixture
def production(tmp_path, postgres_url, s3_url):
    migrate = [LORADOCK, "migrate", "--database-url", postgres_url]
    subprocess.run(migrate, check=True, capture_output=True)
    with run_server(tmp_path, "--database-url", postgres_url, "--blob-url", s3_url) as server:
        yield server


def test_r1_r6_r7_on_postgresql_and_s3(production, tmp_path):
    tiny = TinyAdapters(production)
    with Client(production.address) as client:
        first = client.versions.push("triage", tiny.folder("one"), base=BASE)
        again = client.versions.push("triage", tiny.folder("one"), base=BASE)
        assert (first.created, again.created, again.sent_bytes) == (True, False, 0)
        assert again.version == first.version
        client.versions.push("triage", tiny.folder("two"), base=BASE)

        before = datetime.now(UTC)
        read = client.aliases.set("triage", "production", 1, wait_s=10).alias
        client.aliases.set("triage", "production", 2, etag=read.etag, reason="better", wait_s=10)
        with pytest.raises(StaleAlias):
            client.aliases.set("triage", "production", 1, etag=read.etag)
        assert read.moved_at is not None
        then = client.aliases.at("triage", "production", read.moved_at)
        assert then is not None and then.version_number == 1
        assert client.aliases.at("triage", "production", before) is None

        answer = client.generate("Where is my parcel?", adapter="triage", max_tokens=8)
        assert answer.answerer.version_number == 2
        pulled = client.versions.pull("triage", tmp_path / "pulled")
        assert pulled.digest == answer.answerer.version_digest
    assert not list((tmp_path / "data").rglob("*.db")), "all of it is in PostgreSQL"
