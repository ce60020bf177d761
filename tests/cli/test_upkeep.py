"""Doctor, bundles, verify and gc by hand: commands against real servers, and what they say."""

import json

import pytest
from registry_process import RegistryProcess
from services import make_bucket
from tiny_adapters import write_adapter
from tiny_registry import TARGETS, TinyRegistry, digest

from loradock.cli.main import run as main
from loradock.registry.catalog.database import Database
from loradock.registry.registry import open_registry
from loradock.registry.stores import blob_key


def opened(folder):
    catalog = f"sqlite:///{folder}/catalog.db"
    return open_registry(catalog, f"file://{folder}/blobs", migrate=True)


@pytest.fixture
def server(tmp_path):
    """A registry whose base is known."""
    (tmp_path / "data").mkdir()
    registry = opened(tmp_path / "data")
    TinyRegistry(registry)
    registry.close()
    with RegistryProcess(tmp_path / "data") as process:
        yield process


@pytest.fixture
def run(capsys):
    """Give a command's exit code, what it wrote, and what it said."""

    def ran(server, *arguments):
        code = main(["--address", server.address, *map(str, arguments)])
        wrote = capsys.readouterr()
        return code, wrote.out, wrote.err

    return ran


def push(run, server, tmp_path, seed):
    folder = write_adapter(tmp_path / f"adapter-{seed}", TARGETS, seed=seed)
    code, out, err = run(server, "adapter", "push", "triage", folder, "--base", "tiny", "--json")
    assert code == 0, err
    return folder, json.loads(out)["version"]


@pytest.mark.contract("R12")
def test_r12_damage_is_told_by_verify_and_doctor_and_mended_by_pushing_again(run, server, tmp_path):
    blobs = tmp_path / "data" / "blobs"
    (flipped, first), (gone, second) = (push(run, server, tmp_path, seed) for seed in (1, 2))
    code, out, err = run(server, "doctor")
    assert code == 0 and "fail" not in out, out
    paths = [blobs / blob_key(v["weights"]["digest"]) for v in (first, second)]
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    paths[1].unlink()
    stranger = blobs / blob_key(digest(b"stranger"))
    stranger.parent.mkdir(parents=True, exist_ok=True)
    stranger.write_bytes(b"stranger")

    code, out, err = run(server, "verify", "--json")
    assert code == 7 and "push the same files again" in err
    damages = {damage["name"]: damage["kind"] for damage in json.loads(out)["damages"]}
    assert damages == {
        first["weights"]["digest"]: "corrupt",
        second["weights"]["digest"]: "missing",
        digest(b"stranger"): "orphan",
    }
    code, out, err = run(server, "doctor", "--json")
    found = {finding["subject"]: finding for finding in json.loads(out)}
    assert code == 6 and found["blobs"]["level"] == "fail"
    assert found["blobs"]["facts"]["num_damaged"] == "2"
    for folder, version in ((flipped, first), (gone, second)):
        _, again = push(run, server, tmp_path, int(folder.name[-1]))
        assert again["digest"] == version["digest"]
    code, out, err = run(server, "verify")
    assert code == 0 and "orphan" in out
    code, out, err = run(server, "gc", "--grace", "0s")
    assert code == 0 and not stranger.exists()
    assert all(path.exists() for path in paths)
    code, out, err = run(server, "doctor")
    assert code == 0, out


def test_backup_and_restore_by_hand(run, server, tmp_path, capsys):
    _, version = push(run, server, tmp_path, 1)
    folder, data = str(tmp_path / "backup"), str(tmp_path / "data")
    assert main(["backup", folder, "--data-dir", data, "--json"]) == 0
    catalog = json.loads(capsys.readouterr().out)["catalog"]
    assert catalog.startswith(folder)
    back = ["restore", folder, "--data-dir", str(tmp_path / "back"), "--json"]
    assert main([*back, "--catalog", "nowhere.jsonl"]) == 3
    assert "no catalog nowhere.jsonl" in capsys.readouterr().err
    assert main([*back, "--catalog", catalog.rpartition("/")[2]]) == 0
    assert json.loads(capsys.readouterr().out)["catalog"] == catalog
    assert main(back) == 5
    assert "the database has a catalog already" in capsys.readouterr().err
    with RegistryProcess(tmp_path / "back") as restored:
        code, out, err = run(restored, "adapter", "show", "triage@1", "--json")
    assert json.loads(out)["digest"] == version["digest"], err
    weights = (tmp_path / "backup" / "blobs").rglob(version["weights"]["digest"][-64:])
    next(weights).write_bytes(bytes(version["weights"]["size_bytes"]))
    assert main(["restore", folder, "--data-dir", str(tmp_path / "worse")]) == 7
    assert "missing from the backup, or damaged in it" in capsys.readouterr().err


@pytest.mark.contract("R16")
@pytest.mark.parametrize(
    ("endpoint", "level"), [("moto", "warn"), ("rclone", "warn")], ids=["moto", "rclone"]
)
def test_r16_doctor_shows_what_an_endpoint_was_seen_to_do(
    run, request, tmp_path, s3_credentials, endpoint, level
):
    url = make_bucket(request.getfixturevalue(f"{endpoint}_endpoint"))
    with RegistryProcess(tmp_path / "data", ("--blob-url", url)) as server:
        code, out, err = run(server, "doctor", "--json")
    assert code == 0, out
    found = {finding["subject"]: finding for finding in json.loads(out)}
    store = found["store"]
    assert store["level"] == level
    can = {name: store["facts"][name] for name in ("conditional_put", "conditional_multipart")}
    seen = "yes" if endpoint == "moto" else "no"
    assert can == {"conditional_put": seen, "conditional_multipart": seen}
    assert store["facts"]["multipart"] == "yes"
    assert ("overwrites without a word" in store["message"]) == (endpoint == "rclone")
    assert {"server", "catalog", "clock", "audit log", "blobs", "client"} <= set(found)
    assert "disk of the uploads" in found and "disk of the blobs" not in found


def test_doctor_tells_what_does_not_answer(run, server, tmp_path):
    database = Database(f"sqlite:///{tmp_path}/data/catalog.db")
    with database.engine.begin() as c:
        names = c.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in names.all():
            c.exec_driver_sql(f"DROP TRIGGER {name}")
        c.exec_driver_sql("UPDATE audit_events SET subject = 'nobody' WHERE sequence = 1")
    database.close()
    code, out, err = run(server, "doctor")
    assert code == 6 and "audit log" in err
    assert "its chain is broken, first at event 1 (edited)" in out
    server.kill()
    code, out, err = run(server, "doctor")
    assert code == 8, err


@pytest.mark.contract("R14")
def test_r14_versions_go_by_a_file_to_another_host(run, server, tmp_path):
    _, version = push(run, server, tmp_path, 1)
    assert run(server, "alias", "set", "triage:production", "1")[0] == 0
    file = tmp_path / "triage.tar"
    code, out, err = run(server, "export", "triage", "--aliases", "--to", file)
    assert code == 0, err
    assert run(server, "export", "triage", "--to", file)[0] == 5, "it is there"
    assert run(server, "export", "triage@9", "--to", tmp_path / "none.tar")[0] == 3
    assert not (tmp_path / "none.tar").exists()
    code, out, err = run(server, "export", "triage", "--to", tmp_path / "nowhere" / "triage.tar")
    assert code == 2 and f"no folder {tmp_path / 'nowhere'}\n" in err
    with RegistryProcess(tmp_path / "far") as far:
        code, out, err = run(far, "import", file, "--dry-run", "--json")
        assert (code, json.loads(out)["versions"][0]["reference"]) == (0, None), err
        assert run(far, "adapter", "show", "triage")[0] == 3
        for created in (True, False):
            code, out, err = run(far, "import", file, "--aliases", "--json")
            assert code == 0, err
            (imported,) = json.loads(out)["versions"]
            assert (imported["digest"], imported["created"]) == (version["digest"], created)
        code, out, err = run(far, "adapter", "show", "triage:production", "--json")
        assert json.loads(out)["digest"] == version["digest"]
        file.write_bytes(file.read_bytes()[:-700])
        code, out, err = run(far, "import", file)
        assert code == 2 and "ends in the middle" in err
