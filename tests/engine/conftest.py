"""Every decoder under the same tests, beside PEFT as their oracle."""

import pytest
import torch
from engine_harness import at_work, usable_decoder
from engine_oracle import Oracle
from engine_zoo import TINY_ZOO


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are faster so, and leave the other cores to other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["modules", "cpu"])
def decoder(request):
    """The name of a decoder; what a test proves holds for each."""
    return usable_decoder(request.param)


@pytest.fixture(scope="module")
def work(tiny_base, decoder):
    """An engine over the tiny base, at work for all tests of a file."""
    with at_work(tiny_base, decoder) as running:
        yield running


@pytest.fixture(scope="session")
def zoo(tiny_base, tiny_adapter):
    """Oracles of the tiny base's adapters of all kinds, by name."""
    made = enumerate(TINY_ZOO.items())
    return {name: Oracle.load(tiny_base, tiny_adapter(seed, **how)) for seed, (name, how) in made}


@pytest.fixture(scope="session")
def bare_oracle(tiny_base):
    """The tiny base without an adapter."""
    return Oracle.load(tiny_base)
