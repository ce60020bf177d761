"""What the SDK shows, what it needs, and that its two clients are one."""

import dataclasses
import importlib.util
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import loradock.client
from loradock.client import LoradockError

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients/loradock/client"


def public_names():
    return {
        name
        for name, value in vars(loradock.client).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


def test_all_names_what_is_public():
    assert set(loradock.client.__all__) == public_names()


def test_only_public_modules_have_public_names():
    modules = {path.name for path in CLIENT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {name for name in modules if not name.startswith("_")} == set()


@pytest.mark.parametrize("name", loradock.client.__all__)
def test_public_names_tell_their_public_home(name):
    assert getattr(loradock.client, name).__module__ == "loradock.client"


def test_values_are_frozen():
    values: list[Any] = [
        value
        for name in loradock.client.__all__
        if dataclasses.is_dataclass(value := getattr(loradock.client, name))
    ]
    assert len(values) > 30
    assert all(value.__dataclass_params__.frozen for value in values)


def test_the_docstring_draws_the_whole_tree():
    from loradock.client import _errors

    assert _errors.__doc__
    drawn = {
        line.split()[0]: line.index(line.split()[0])
        for raw in _errors.__doc__.splitlines()
        if (line := raw.translate(str.maketrans("├└│─", "    "))).strip()
        and line.split()[0] in loradock.client.__all__
    }
    for name, depth in drawn.items():
        ancestors = [c.__name__ for c in getattr(loradock.client, name).__mro__]
        above = [other for other in drawn if drawn[other] == depth - 4 and other in ancestors]
        assert depth == 0 or above, f"{name} is drawn under the wrong parent"
    errors = {
        name
        for name in loradock.client.__all__
        if isinstance(kind := getattr(loradock.client, name), type)
        and issubclass(kind, LoradockError)
    }
    assert errors == set(drawn)


def test_sync_client_is_current(tmp_path):
    """Run `python scripts/generate_sync_client.py` if this fails."""
    spec = importlib.util.spec_from_file_location(
        "generate_sync_client", ROOT / "scripts/generate_sync_client.py"
    )
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.generate(tmp_path)
    fresh = {path.name: path.read_text() for path in tmp_path.glob("*.py")}
    kept = {path.name: path.read_text() for path in (CLIENT / "_sync").glob("*.py")}
    assert fresh == kept, "stale: run python scripts/generate_sync_client.py"


def test_sync_client_has_nothing_asynchronous():
    for path in (CLIENT / "_sync").glob("*.py"):
        words = path.read_text().replace("_async/", "").split()
        assert not {"async", "await", "asyncio", "grpc.aio"} & set(words), path.name


def test_import_brings_nothing_heavy():
    code = (
        "import sys, loradock.client; heavy = {'torch', 'transformers', 'sqlalchemy', 'boto3', "
        "'typer', 'rich', 'numpy', 'loradock.server', 'loradock.registry', 'loradock.engine'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
