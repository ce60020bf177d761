"""The soak of bench/soak.py in short: everything at once, with network faults, and nothing left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "bench" / "soak.py"


def soak(folder, seconds, seed):
    """Soak in a process of its own; give its record."""
    command = [sys.executable, SOAK, "--seconds", seconds, "--seed", seed, "--out", folder]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "%|" not in done.stderr, "a bar, off a terminal"
    record = json.loads((folder / "soak.json").read_text())
    assert record["answers"] > 10 * seconds
    assert record["faults"]
    assert not (record["wrong"] or record["unexplained"] or record["left"] or record["problems"])
    return record


@pytest.mark.contract("S10")
def test_s10_a_short_soak_gets_nothing_wrong_and_leaves_nothing_behind(tmp_path):
    soak(tmp_path, seconds=8, seed=0)


@pytest.mark.prove
@pytest.mark.contract("S10")
@pytest.mark.parametrize("seed", [1, 2])
def test_s10_a_soak_gets_nothing_wrong_and_leaves_nothing_behind(tmp_path, seed, record_property):
    record = soak(tmp_path, seconds=60, seed=seed)
    for name in ("answers", "calls", "faults"):
        value = record[name]
        record_property(name, value if isinstance(value, int) else sum(value.values()))
