"""C4: the SDK alone, as a stranger installs it, with the oldest and the newest of what it needs.

Needs the package index. There is no silent skip: leave it out on purpose with `-k 'not c4'`.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
PINS = {
    "oldest": [requirement.replace(">=", "==") for requirement in DECLARED],
    "newest": ["--upgrade", *(requirement.partition(">=")[0] for requirement in DECLARED)],
}
ASK = """\
import importlib.metadata, importlib.util, sys
from loradock.client import AsyncClient, Client, InvalidRequest, LoradockError

for name in ("torch", "transformers", "sqlalchemy", "boto3", "typer", "rich", "numpy"):
    assert importlib.util.find_spec(name) is None, name
with Client(sys.argv[1]) as client:
    print(client.server.status().release, client.generate("hi", base=True, max_tokens=4).text)
    list(client.adapters.list())
    "".join(chunk.text for chunk in client.stream("hi", base=True, max_tokens=4))
    try:
        client.generate("hi", adapter="no-such-adapter")
    except LoradockError as error:
        assert error.reason == "NOT_FOUND", error
    else:
        raise AssertionError("somebody answered")
print(importlib.metadata.version("grpcio"), importlib.metadata.version("protobuf"))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "-w", out, ROOT]
    subprocess.run(command, check=True, cwd=out)
    (path,) = out.glob("loradock-*.whl")
    return path


@pytest.mark.contract("C4")
@pytest.mark.parametrize("which", PINS)
def test_c4_installs_and_works_alone(which, wheel, real_server, tmp_path):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", python]
    subprocess.run([*pip, "install", wheel, *PINS[which]], check=True, cwd=tmp_path)
    ask = [python, "-I", "-W", "error", "-c", ASK, real_server.address]
    done = subprocess.run(ask, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if which == "oldest":
        pinned = [pin.partition("==")[2] for pin in PINS["oldest"]]
        assert done.stdout.splitlines()[-1].split() == pinned
