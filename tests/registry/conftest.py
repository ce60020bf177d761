"""Each test of the registry gets catalogs of its own, on both engines."""

import shutil

import pytest
from services import postgres_database
from tiny_registry import TinyRegistry

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.schema import upgrade
from loradock.registry.registry import open_registry


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("template") / "catalog.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server):
    """The name of a migrated PostgreSQL database to copy."""
    with postgres_database(postgres_server) as url:
        _migrate(url)
        yield url.split("/")[3].split("?")[0]


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request):
    return request.param


@pytest.fixture
def database_url(engine, request, tmp_path):
    """A migrated, empty catalog."""
    if engine == "sqlite":
        path = tmp_path / "catalog.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
    else:
        template = request.getfixturevalue("postgres_template")
        server = request.getfixturevalue("postgres_server")
        with postgres_database(server, template) as url:
            yield url


@pytest.fixture
def blob_url(tmp_path):
    return f"file://{tmp_path}/blobs"


@pytest.fixture
def registry(database_url, blob_url):
    opened = open_registry(database_url, blob_url)
    yield opened
    opened.close()


@pytest.fixture
def tiny(registry):
    """A registry with a base, and steps to fill it."""
    return TinyRegistry(registry)


@pytest.fixture
def lite(sqlite_template, tmp_path):
    """A tiny registry on SQLite alone, for what no engine changes."""
    shutil.copy(sqlite_template, tmp_path / "lite.db")
    opened = open_registry(f"sqlite:///{tmp_path}/lite.db", f"file://{tmp_path}/lite-blobs")
    yield TinyRegistry(opened)
    opened.close()


def _migrate(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.close()
