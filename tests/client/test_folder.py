"""A folder that is pushed: what is read, what is refused, and all of it at once."""

import json

import pytest

from loradock.client import Dataset, Decoding, Lineage, NotAdmitted, Profile
from loradock.client._folder import PICKLE_SUFFIXES, read_folder
from loradock.client._folder_json import lineage_json, profile_json


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    return tmp_path


def problems_of(folder):
    with pytest.raises(NotAdmitted) as raised:
        read_folder(folder)
    assert raised.value.reason == "NOT_ADMITTED"
    return {(p.subject, p.code) for p in raised.value.problems}


def test_bare_folder(folder):
    read = read_folder(folder)
    assert read.weights.blob.size_bytes == 7
    assert read.weights.blob.digest.startswith("sha256:9a129038d9a0")
    assert read.profile == Profile()
    assert read.lineage.parents == ()


def test_profile_and_lineage(folder):
    profile = {
        "template": "{{ content }} ->",
        "system": "Sort.",
        "labels": ["billing", "other"],
        "decoding": {"max_tokens": 8, "temperature": 0, "stop": ["\n"]},
    }
    lineage = {
        "parents": [f"sha256:{'a' * 64}", {"version": "triage@1"}],
        "datasets": [{"name": "train", "digest": f"sha256:{'b' * 64}"}],
        "training": {"seed": 1, "epochs": 2.5},
    }
    (folder / "profile.json").write_text(json.dumps(profile))
    (folder / "lineage.json").write_text(json.dumps(lineage))
    read = read_folder(folder)
    assert read.profile.decoding == Decoding(max_tokens=8, temperature=0, stop=("\n",))
    assert read.profile.labels == ("billing", "other")
    assert read.lineage.parents == (f"sha256:{'a' * 64}", "triage@1")
    assert read.lineage.datasets == (Dataset("train", f"sha256:{'b' * 64}"),)
    assert read.lineage.training == {"seed": 1, "epochs": 2.5}
    assert json.loads(json.dumps(profile_json(read.profile))) == profile


@pytest.mark.contract("A1")
@pytest.mark.parametrize("suffix", [*PICKLE_SUFFIXES, ".BIN"])
def test_a1_pickles_are_refused_by_name(folder, suffix):
    (folder / f"adapter_model{suffix}").write_bytes(b"")
    assert problems_of(folder) == {(f"adapter_model{suffix}", "PICKLE_REFUSED")}


def test_all_problems_at_once(folder):
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_model.bin").write_bytes(b"")
    (folder / "profile.json").write_text(
        '{"labels": "a", "prompt": "x", "decoding": {"max_tokens": true, "beams": 4}}'
    )
    (folder / "lineage.json").write_text('{"parents": [1], "datasets": [{"name": "x"}]}')
    assert problems_of(folder) == {
        ("adapter_config.json", "FILE_MISSING"),
        ("adapter_model.bin", "PICKLE_REFUSED"),
        ("profile.json", "UNKNOWN_KEY"),
        ("profile.json", "WRONG_TYPE"),
        ("profile.json decoding", "UNKNOWN_KEY"),
        ("profile.json decoding", "WRONG_TYPE"),
        ("lineage.json", "WRONG_TYPE"),
    }


@pytest.mark.parametrize("content", ["", "[1]", "{", "\xff"])
def test_bad_json_is_told(folder, content):
    (folder / "profile.json").write_text(content, encoding="latin-1")
    assert {subject for subject, _ in problems_of(folder)} == {"profile.json"}


def test_no_folder(tmp_path):
    assert problems_of(tmp_path / "none") == {("folder", "NO_FOLDER")}


def test_nothing_set_is_nothing_written(folder):
    read = read_folder(folder)
    assert profile_json(read.profile) == {}
    assert lineage_json(Lineage()) == {}
