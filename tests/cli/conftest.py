"""Servers to call: one that a test scripts, and the real one over a tiny random base."""

import importlib

import pytest

# Not by `import`: to mypy these are `tests.client.…`, to pytest `client.…`.
scripted_server = importlib.import_module("client.scripted_server").scripted_server
real = importlib.import_module("client.real_server")


@pytest.fixture
def scripted():
    with scripted_server() as server:
        yield server


@pytest.fixture(scope="session")
def real_server(tmp_path_factory):
    with real.real_server(tmp_path_factory.mktemp("real")) as server:
        yield server


@pytest.fixture(scope="session")
def tiny(real_server):
    """Adapters of the real server's base, by name."""
    return real.TinyAdapters(real_server)
