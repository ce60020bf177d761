"""What is installed: the wheel's files, and the CLI without its extra."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE_ROOTS = ("proto", "registry", "server", "clients")
NEEDED_AT_RUN_TIME = {
    "loradock/client/py.typed",
    "loradock/cli/py.typed",
    "loradock/engine/cpu/kernels.c",
    "loradock/engine/py.typed",
    "loradock/registry/migrations/env.py",
    "loradock/registry/migrations/versions/m0001_first.py",
    "loradock/registry/py.typed",
    "loradock/server/py.typed",
    "loradock/v1/inference_service.proto",
    "loradock/v1/py.typed",
    "loradock/v1/resources_pb2.pyi",
}


def build(source, out):
    """Build a wheel; give the names of the files in it."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", out, source], check=True, cwd=out)
    (wheel,) = out.glob("*.whl")
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_the_source_roots_and_nothing_else(wheel_files):
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *SOURCE_ROOTS]
    known = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [Path(line) for line in known.splitlines() if (ROOT / line).exists()]
    sources = {"/".join(path.parts[1:]) for path in paths if path.parts[1] == "loradock"}
    assert wheel_files == sources
    assert wheel_files >= NEEDED_AT_RUN_TIME


def test_cli_without_its_extra_says_how_to_install_it():
    code = "import sys; sys.modules['typer'] = None; from loradock.cli.start import main; main()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].strip() == "pip install 'loradock[cli]'"
