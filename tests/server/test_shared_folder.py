"""Two processes on one embedded data folder share it safely (R18)."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from registry_process import RegistryProcess
from tiny_adapters import write_adapter
from tiny_registry import TARGETS, TinyRegistry

from loradock.client import Client
from loradock.registry.registry import open_registry

NUM_PUSHES = 8


@pytest.mark.contract("R18")
def test_r18_two_servers_on_one_data_folder_share_it(tmp_path):
    """They start, migrate, publish into one adapter, and collect garbage at the same time."""
    data = tmp_path / "data"
    with ThreadPoolExecutor(8) as pool:
        servers = [RegistryProcess(data), RegistryProcess(data)]
        list(pool.map(RegistryProcess.start, servers))
        try:
            place = (f"sqlite:///{data}/catalog.db", f"file://{data}/blobs")
            tiny = TinyRegistry(open_registry(*place))
            clients = [Client(server.address) for server in servers]

            def push(seed):
                client = clients[seed % 2]
                pushed = client.versions.push("triage", tmp_path / str(seed // 2), base="tiny")
                list(client.admin.collect_garbage(grace_s=3600.0))
                return pushed

            for n in range(NUM_PUSHES):  # each folder is pushed by both, and written once
                write_adapter(tmp_path / str(n), TARGETS, seed=n)
            pushed = list(pool.map(push, range(2 * NUM_PUSHES)))
            numbers = [version.number for version in clients[0].versions.list("triage")]
            assert numbers == list(range(NUM_PUSHES, 0, -1))
            assert sum(one.created for one in pushed) == NUM_PUSHES
            assert len({one.version.digest for one in pushed}) == NUM_PUSHES
            damages = [d for told in clients[1].admin.verify() for d in told.damages]
            assert damages == [] and clients[1].admin.verify_audit().breaks == ()
            for client in clients:
                client.close()
            tiny.registry.close()
        finally:
            for server in servers:
                server.__exit__()
    assert [path for path in (data / "blobs" / "staging").rglob("*") if path.is_file()] == []
