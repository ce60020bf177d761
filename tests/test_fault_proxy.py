"""The proxy does each fault to real services, and stops doing it when told."""

import threading
import time

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from fault_proxy import FaultProxy

from loradock.registry.stores.s3 import read_url

BODY = bytes(range(256)) * 64


@pytest.fixture
def proxied(s3_url):
    with FaultProxy.of_store(s3_url) as (proxy, url):
        where = read_url(url)
        config = Config(
            read_timeout=0.5,
            connect_timeout=0.5,
            retries={"total_max_attempts": 1},
            response_checksum_validation="when_required",
        )
        client = boto3.client(
            "s3", endpoint_url=where.endpoint_url, region_name="us-east-1", config=config
        )
        client.put_object(Bucket=where.bucket, Key="key", Body=BODY)
        yield proxy, lambda: client.get_object(Bucket=where.bucket, Key="key")["Body"].read()
        client.close()


def test_what_passes_is_what_was_sent_and_is_counted(proxied):
    proxy, get = proxied
    assert get() == BODY
    assert sum(line.startswith("GET ") for line in proxy.requests) == 1
    assert proxy.num_bytes_answered > len(BODY)


@pytest.mark.parametrize("fault", ["refuse", "hang", "cut within", "cut"])
def test_broken_traffic_fails_and_is_whole_again_afterwards(proxied, fault):
    proxy, get = proxied
    get()
    switch = {"refuse": proxy.refuse, "hang": proxy.hang, "cut within": lambda: proxy.cut(4096)}
    if fault == "cut":
        proxy.delay(10)
        threading.Timer(0.1, proxy.cut).start()
    else:
        switch[fault]()
    started = time.monotonic()
    with pytest.raises((BotoCoreError, OSError)):
        get()
    assert time.monotonic() - started < 2
    proxy.pass_on()
    assert get() == BODY


def test_slow_traffic_is_as_slow_as_told(proxied):
    proxy, get = proxied
    proxy.delay(0.2)
    started = time.monotonic()
    assert get() == BODY
    assert 0.2 <= time.monotonic() - started < 0.5
    proxy.throttle(64 << 10)
    started = time.monotonic()
    assert get() == BODY
    assert 0.2 <= time.monotonic() - started < 2


def test_a_damaged_answer_has_its_headers_and_length(proxied):
    proxy, get = proxied
    proxy.corrupt()
    damaged = get()
    assert len(damaged) == len(BODY)
    assert damaged != BODY


def test_a_database_is_reached_through_it_and_not_while_it_refuses(postgres_url):
    with FaultProxy.of_database(postgres_url) as (proxy, url):
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            proxy.refuse()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
        proxy.pass_on()
        psycopg.connect(url).close()
