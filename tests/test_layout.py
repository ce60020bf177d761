"""Rules of the repository that no linter knows."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE_ROOTS = ("proto", "registry", "server", "clients")
PACKAGES = [p for root in SOURCE_ROOTS for p in (ROOT / root / "loradock").iterdir() if p.is_dir()]


def python_files():
    return [
        path
        for root in SOURCE_ROOTS
        for path in (ROOT / root).rglob("*.py")
        if "_pb2" not in path.name and "migrations" not in path.parts
    ]


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_namespace_has_no_init(root):
    for folder in (ROOT / root, ROOT / root / "loradock"):
        assert not (folder / "__init__.py").exists(), (
            f"{folder} would shadow the other source roots"
        )


def test_packages_are_typed():
    missing = [
        str(p) for p in PACKAGES if p.name != "__pycache__" and not (p / "py.typed").exists()
    ]
    assert not missing


def test_modules_are_short():
    long = {
        str(p.relative_to(ROOT)): n
        for p in python_files()
        if (n := len(p.read_text().splitlines())) > 400
    }
    assert not long, "split by noun"


def test_modules_have_docstrings():
    bare = [
        str(p)
        for p in python_files()
        if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert not bare


UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LOADERS = {"torch.load", "np.load", "numpy.load", "yaml.load", "pd.read_pickle"}


@pytest.mark.contract("A1")
def test_a1_no_code_path_unpickles():
    found = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & UNPICKLERS
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]} & UNPICKLERS
            elif isinstance(node, ast.Attribute):
                names = {ast.unparse(node)} & LOADERS
            else:
                continue
            found += [f"{path.relative_to(ROOT)}:{node.lineno} {name}" for name in names]
    assert not found


def test_generated_code_is_current(tmp_path):
    """Run `make proto` if this fails."""
    subprocess.run([ROOT / "scripts/generate_proto.sh", tmp_path], check=True, capture_output=True)
    fresh = {p.name: p.read_bytes() for p in (tmp_path / "loradock/v1").iterdir()}
    kept = {p.name: p.read_bytes() for p in (ROOT / "proto/loradock/v1").glob("*_pb2*.py*")}
    assert fresh == kept, "stale: run make proto"


def test_wire_is_linted():
    run = subprocess.run(
        [ROOT / ".venv-proto/bin/buf", "lint"], cwd=ROOT / "proto", capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


def test_make_alone_lists_the_targets():
    out = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "prove", "check", "proto", "bench"):
        assert f"make {target}" in out
