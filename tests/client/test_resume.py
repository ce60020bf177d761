"""Uploads that break off go on where the server has them, by themselves (R5)."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from fault_proxy import FaultProxy
from registry_process import RegistryProcess
from services import make_bucket
from tiny_adapters import write_adapter
from tiny_registry import tiny_base

from loradock.client import AsyncClient, BaseDigests, Client, DataLoss, ModuleShape, Unavailable
from loradock.client import _transfer as transfer
from loradock.client._folder import read_folder

MIB = 1 << 20
WIDTH, RANK = 2048, 64  # a MiB a module
IN_FLIGHT_BYTES = 12 * MIB  # what a cut may lose: gRPC's windows, and the chunk it cuts
SMALL, LARGE = 32, pytest.param(1024, marks=pytest.mark.prove)


def shapes(num_modules):
    return {f"model.layers.{n}.self_attn.q_proj": (WIDTH, WIDTH) for n in range(num_modules)}


def register(client, num_modules):
    digests = tiny_base().digests
    client.bases.register(
        "tiny",
        digests=BaseDigests(digests.structural, digests.weights, digests.tokenizer),
        architecture="LlamaForCausalLM",
        modules={name: ModuleShape(*shape) for name, shape in shapes(num_modules).items()},
        context_length_tokens=128,
        num_parameters=1000,
    )


@dataclass
class Trouble:
    """Does something, once each, when so many bytes are on their way."""

    do: list[Callable[[], None]]
    at_bytes: list[int]
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, told):
        with self.lock:
            if self.done < len(self.do) and told.done_bytes >= self.at_bytes[self.done]:
                self.done += 1
                self.do[self.done - 1]()


@pytest.fixture(params=["folder", pytest.param("moto", marks=pytest.mark.prove)])
def server(request, tmp_path):
    options: tuple[str, ...] = ()
    if request.param == "moto":
        request.getfixturevalue("s3_credentials")
        options = ("--blob-url", make_bucket(request.getfixturevalue("moto_endpoint")))
    with RegistryProcess(tmp_path / "data", options) as process:
        yield process


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One server for tests that don't kill it, each in a project of its own."""
    with (
        RegistryProcess(tmp_path_factory.mktemp("shared")) as process,
        Client(process.address) as client,
    ):
        register(client, 16)
        yield process


def through(address):
    host, _, port = address.partition(":")
    return FaultProxy((host, int(port)))


@pytest.mark.contract("R5")
@pytest.mark.parametrize("size_mib", [SMALL, LARGE])
def test_r5_an_upload_goes_on_through_cuts_and_a_killed_server(
    server, tmp_path, size_mib, record_property
):
    folder = write_adapter(tmp_path / "out", shapes(size_mib), rank=RANK)
    size = (folder / "adapter_model.safetensors").stat().st_size

    def restart():
        server.kill()
        threading.Thread(target=server.start).start()

    with through(server.address) as proxy, Client(proxy.address) as client:
        register(client, size_mib)
        trouble = Trouble([proxy.cut, restart], [size * 2 // 5, size * 4 // 5])
        published = client.versions.push("triage", folder, base="tiny", progress=trouble)
        assert trouble.done == 2 and published.created
        pulled = client.versions.pull("triage@1", tmp_path / "in")
        again = client.versions.push("triage", folder, base="tiny")
    assert (again.created, again.sent_bytes) == (False, 0)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "in" / name).read_bytes() == (folder / name).read_bytes()
    assert pulled.digest == published.version.digest
    record_property("file_mib", size // MIB)
    record_property("sent_mib", proxy.num_bytes_asked // MIB)
    buffers = size // 50  # the more, the faster it goes; and what HTTP/2 puts around it
    assert size < proxy.num_bytes_asked < size + buffers + 2 * IN_FLIGHT_BYTES


@pytest.mark.contract("R5")
async def test_r5_the_asynchronous_client_goes_on_as_well(shared, tmp_path):
    folder = write_adapter(tmp_path / "out", shapes(8), rank=RANK)
    with through(shared.address) as proxy:
        trouble = Trouble([proxy.cut], [3 * MIB])
        async with AsyncClient(proxy.address) as client:
            published = await client.versions.push("triage", folder, base="tiny", progress=trouble)
    assert trouble.done == 1 and published.created
    assert proxy.num_bytes_asked < 8 * MIB + IN_FLIGHT_BYTES


@pytest.mark.contract("R5")
def test_r5_what_can_not_be_sent_is_given_up_and_waits_on_the_server(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "MAX_PAUSE_S", 0.05)
    folder = write_adapter(tmp_path / "out", shapes(16), rank=RANK)
    files = read_folder(folder)
    with through(shared.address) as proxy, Client(proxy.address) as client:
        trouble = Trouble([proxy.refuse], [8 * MIB])
        with pytest.raises(Unavailable):
            client.versions.push("triage", folder, base="tiny", progress=trouble)
    committed = waiting(shared, files.weights).stat().st_size
    assert committed > MIB
    with Client(shared.address) as client:
        published = client.versions.push("triage", folder, base="tiny")
    left = files.weights.blob.size_bytes - committed
    assert left <= published.sent_bytes <= left + files.config.blob.size_bytes


@pytest.mark.contract("R5")
def test_r5_a_part_that_went_bad_on_the_server_is_sent_anew_once(shared, tmp_path):
    folder = write_adapter(tmp_path / "out", shapes(2), rank=RANK)
    weights = read_folder(folder).weights
    waiting(shared, weights).parent.mkdir(parents=True, exist_ok=True)
    waiting(shared, weights).write_bytes(bytes(MIB))
    with Client(shared.address) as client:
        published = client.versions.push("triage", folder, base="tiny")
        assert published.created and published.sent_bytes > weights.blob.size_bytes
        with pytest.raises(DataLoss):
            weights_that_change(client, folder)


def waiting(server, file):
    """Where a server keeps what came of a file."""
    name = file.blob.digest.removeprefix("sha256:")
    return server.folder / "blobs/staging/uploads/default" / name


def weights_that_change(client, folder):
    """Push a file that changes while it is sent."""
    write_adapter(folder, shapes(2), rank=RANK, seed=1)

    def change(told):
        with (folder / "adapter_model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\xff")

    client.versions.push("triage", folder, base="tiny", progress=change)
