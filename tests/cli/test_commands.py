"""Every command against the real server: what it does, its JSON, its exit codes."""

import hashlib
import json
from pathlib import Path

import pytest
from command_line import PROFILE

from loradock import client as sdk
from loradock.cli.server_top import ServerRates
from loradock.cli.suite_run import SuiteResult

ROOT = Path(__file__).parents[2]


def test_push_tells_what_happened(loradock, as_json, task, tiny, tmp_path):
    again = loradock(
        "adapter", "push", task, tiny.folder("one", profile=PROFILE), "--base", "tiny-base"
    )
    assert f"has this content already, as {task}@1" in again.err
    assert again.out.splitlines()[0].split() == ["version:", f"{task}@1"]
    published = as_json(
        sdk.Published,
        *("adapter", "push", task, tiny.folder("three"), "--base", "tiny-base"),
        *("--parent", f"{task}@1"),
    )
    assert published["created"] and published["version"]["number"] == 3
    assert len(published["version"]["lineage"]["parents"]) == 1
    dry = loradock(
        "adapter",
        "push",
        "new",
        tiny.folder("one", profile=PROFILE),
        "--base",
        "tiny-base",
        "--dry-run",
    )
    assert "would be admitted" in dry.err
    loradock("adapter", "show", "new", code=3)


def test_push_lists_all_problems(loradock, tmp_path):
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    told = loradock("adapter", "push", "x", tmp_path, "--base", "tiny-base", code=6)
    for part in ("adapter_config.json", "adapter_model.safetensors", "PICKLE_REFUSED"):
        assert part in told.err
    loradock("adapter", "pull", "no-such-adapter", tmp_path, code=3)


def test_push_for_an_unknown_base(loradock, tiny):
    told = loradock(
        "adapter", "push", "x", tiny.folder("one", profile=PROFILE), "--base", "nowhere", code=3
    )
    assert "loradock base list" in told.err


def test_pull(loradock, as_json, task, tmp_path):
    assert "would fetch" in loradock("adapter", "pull", task, tmp_path / "in", "--dry-run").err
    assert not (tmp_path / "in").exists()
    as_json(sdk.Version, "adapter", "pull", task, tmp_path / "in")
    assert (tmp_path / "in" / "version.json").exists()
    assert "--overwrite" in loradock("adapter", "pull", f"{task}@2", tmp_path / "in", code=5).err
    loradock("adapter", "pull", f"{task}@2", tmp_path / "in", "--overwrite")


def test_adapters(loradock, as_json, task):
    loradock("adapter", "update", task, "--description", "sorts parcels", "--tag", f"t-{task}")
    (found,) = as_json(sdk.Adapter, "adapter", "list", "--tag", f"t-{task}")
    assert (found["name"], found["num_versions"]) == (task, 2)
    assert task in loradock("adapter", "list").out
    assert len(as_json(sdk.Adapter, "adapter", "list", "--limit", "1")) == 1
    assert as_json(sdk.Version, "adapter", "search", "--base", "tiny-base")
    as_json(sdk.Version, "adapter", "show", f"{task}:production")
    shown = loradock("adapter", "show", task).out
    assert f"{task}@2" in shown and "production → @1" in shown
    told = json.loads(loradock("adapter", "show", task, "--json").out)
    assert set(told) == {"adapter", "versions", "aliases"}
    as_json(sdk.Adapter, "adapter", "create", f"{task}-new", "--owner", "me")
    told = loradock("adapter", "create", f"{task}-new", "--owner", "you", code=5)
    assert f"adapter '{task}-new' exists already\n" in told.err
    loradock("adapter", "delete", f"{task}-new", code=2)
    loradock("adapter", "delete", f"{task}-new", "--yes")


def test_yank_and_delete(loradock, as_json, task):
    loradock("adapter", "yank", f"{task}@2", "--reason", "r", "--dry-run")
    assert as_json(sdk.Version, "adapter", "show", f"{task}@2")["state"] == "ready"
    yanked = as_json(sdk.Version, "adapter", "yank", f"{task}@2", "--reason", "leaks")
    assert (yanked["state"], yanked["state_reason"]) == ("yanked", "leaks")
    told = loradock("generate", "--adapter", f"{task}@2", "hi", code=6)
    assert "unyank" in told.err
    assert "yanked: leaks" in loradock("adapter", "show", f"{task}@2").out
    told = loradock("adapter", "yank", f"{task}@1", "--reason", "r", "--dry-run")
    assert f"{task}:production points at {task}@1" in told.err
    loradock("adapter", "yank", f"{task}@1", "--reason", "r")
    told = loradock("generate", "--adapter", task, "hi", code=6)
    assert f"{task}@1 was yanked: r" in told.err
    loradock("adapter", "unyank", f"{task}@1", "--reason", "r")
    as_json(sdk.Version, "adapter", "unyank", f"{task}@2", "--reason", "no")
    assert "would be" in loradock("adapter", "delete", f"{task}@2", "--dry-run").err
    told = loradock("adapter", "delete", f"{task}@1", "--yes", code=6)
    assert "production" in told.err
    assert json.loads(loradock("adapter", "delete", f"{task}@2", "--yes", "--json").out)["deleted"]


def test_aliases(loradock, as_json, task):
    alias = f"{task}:production"
    dry = as_json(sdk.AliasChange, "alias", "set", alias, "2", "--dry-run")
    assert dry["alias"]["version_number"] == 2
    assert as_json(sdk.Alias, "alias", "show", alias)["version_number"] == 1
    moved = as_json(sdk.AliasChange, "alias", "set", alias, "@2", "--wait", "10")
    assert moved["following"]["num_following"] == moved["following"]["num_servers"] >= 1
    loradock("alias", "set", alias, "1", "--etag", "1", code=5)
    as_json(sdk.AliasChange, "alias", "rollback", alias, "--dry-run")
    back = loradock("alias", "rollback", alias, "--reason", "worse", "--wait", "10")
    assert f"{task}@1" in back.out and "live servers follow" in back.err
    history = as_json(sdk.AliasMove, "alias", "history", alias)
    assert [move["kind"] for move in history] == ["rollback", "set", "set"]
    assert "worse" in loradock("alias", "history", alias).out
    then = history[1]["moved_at"][:19]
    as_json(sdk.AliasMove, "alias", "history", alias, "--at", then)
    assert "first set after" in loradock("alias", "history", alias, "--at", "2020-01-01").err
    loradock("alias", "rollback", alias, code=6)
    as_json(sdk.Alias, "alias", "list", task)
    loradock("alias", "delete", alias, "--dry-run")
    loradock("alias", "delete", alias, "--yes")
    loradock("alias", "show", alias, code=3)


def test_alias_policy(loradock, as_json, task, tmp_path):
    alias, rows = f"{task}:production", tmp_path / "rows.jsonl"
    rows.write_text("rows")
    loradock("alias", "policy", "show", alias, code=3)
    assert "demands nothing" in loradock("alias", "policy", "check", alias, "2").err
    loradock("alias", "policy", "set", alias, code=2)
    words = (
        *("alias", "policy", "set", alias, "--require", "mine:accuracy>=0.5"),
        *("--require", "mine:loss<=1", "--not-worse", "mine:loss=0.1,lower"),
        *("--require", "safety", "--dataset", f"mine={rows}"),
        *("--max-age", "7d", "--reason", "be careful"),
    )
    as_json(sdk.AliasPolicy, *words, "--dry-run")
    loradock("alias", "policy", "show", alias, code=3)
    policy = as_json(sdk.AliasPolicy, *words)
    mine, safety = policy["suites"]
    assert [m["margin"] for m in mine["metrics"]] == [None, 0.1]
    assert (safety["metrics"], policy["max_age_s"]) == ([], 604800)
    told = loradock("alias", "set", alias, "2", "--validate-only", code=6)
    assert "3 things are wrong" in told.err and "mine/accuracy: was never measured" in told.err
    assert "[MISSING]" in told.err and "--override" in told.err
    as_json(sdk.PolicyReport, "alias", "policy", "check", alias, "2", code=6)
    loradock("alias", "set", alias, "2", "--override", code=2)
    add = ("eval", "add", f"{task}@2", "--dataset", rows, "--suite")
    loradock(*add, "mine", "--metric", "accuracy=0.6,n=9", "--metric", "loss=0.5,n=9,lower")
    loradock(*add, "safety", "--metric", "refusals=1,n=9")
    shown = loradock("alias", "policy", "check", alias, "2", code=6).out
    assert "INCUMBENT_NOT_MEASURED" in shown
    as_json(sdk.AliasChange, "alias", "set", alias, "2", "--override", "--reason", "now")
    assert "meets" in loradock("alias", "policy", "check", alias, "2").err
    told = loradock("alias", "policy", "set", alias, "--nothing", "--etag", "9", code=5)
    assert "loradock alias policy history" in told.err
    loradock("alias", "policy", "set", alias, "--nothing", "--require", "mine", code=2)
    loradock("alias", "policy", "set", alias, "--nothing")
    assert "nothing" in loradock("alias", "policy", "show", alias).out


@pytest.mark.parametrize(
    "words",
    [
        ("--require", ":accuracy"),
        ("--require", "mine:accuracy>=1.2.3"),
        ("--not-worse", "mine:accuracy"),
        ("--require", "mine", "--dataset", "other=sha256:1"),
        ("--require", "mine", "--dataset", "mine"),
        ("--require", "mine", "--dataset", "mine=/no/such/file"),
        ("--require", "mine", "--max-age", "soon"),
    ],
)
def test_a_policy_that_can_not_be_read_is_a_usage_error(loradock, words):
    loradock("alias", "policy", "set", "a:production", *words, code=2)


def test_gc_and_verify(loradock, as_json, task, real_server):
    blobs = real_server.folder / "data" / "blobs"
    (blobs / "staging" / "upload-broken").write_bytes(b"half")
    as_json(sdk.Garbage, "gc", "--grace", "0", "--dry-run")
    assert "upload-broken" in loradock("gc", "--grace", "0", "--dry-run").out
    assert "upload-broken" not in loradock("gc").out
    (taken,) = [
        garbage
        for garbage in as_json(sdk.Garbage, "gc", "--grace", "0s")
        if garbage["name"] == "staging/upload-broken"
    ]
    assert (taken["kind"], taken["size_bytes"]) == ("unfinished", 4)
    assert "0 things" in loradock("gc", "--grace", "0").err
    loradock("gc", "--grace", "soon", code=2)

    told = json.loads(loradock("verify", "--json").out)
    assert set(told) == {"num_blobs", "size_bytes", "damages"}
    assert told["num_blobs"] >= 4 and told["damages"] == []
    digest = as_json(sdk.Version, "adapter", "show", f"{task}@2")["weights"]["digest"]
    (path,) = blobs.rglob(digest.removeprefix("sha256:"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    shown = loradock("verify", code=7)
    assert "corrupt" in shown.out and digest in shown.out and f"default/{task}@2" in shown.out
    (damage,) = json.loads(loradock("verify", "--json", code=7).out)["damages"]
    assert damage["kind"] == "corrupt"
    path.write_bytes(content)
    loradock("verify")


def test_audit(loradock, as_json, task):
    alias = f"{task}:production"
    loradock("alias", "set", alias, "2", "--reason", "for the audit")
    event = as_json(sdk.AuditEvent, "audit", "list", "--limit", "1")[0]
    assert (event["action"], event["resource"]) == ("alias.set", alias)
    assert (event["reason"], event["project"]) == ("for the audit", "default")
    assert "for the audit" in loradock("audit", "list", "--limit", "3").out
    head = loradock("audit", "verify").out.strip()
    assert head == f"{event['sequence']}:{event['hash']}"
    loradock("alias", "rollback", alias)
    report = as_json(sdk.AuditReport, "audit", "verify", "--head", head)
    assert (report["num_events"], report["breaks"]) == (event["sequence"] + 1, [])
    other = f"{event['sequence']}:sha256:{'0' * 64}"
    assert "rewritten" in loradock("audit", "verify", "--head", other, code=7).out
    later = f"{event['sequence'] + 99}:sha256:{'0' * 64}"
    assert "missing" in loradock("audit", "verify", "--head", later, code=7).err
    loradock("audit", "verify", "--head", "yesterday", code=2)


def test_ask(loradock, as_json, task, real_server, monkeypatch, tmp_path):
    text = loradock("generate", "--adapter", task, "hi").out
    answer = as_json(sdk.Generation, "generate", "--adapter", task, "hi")
    assert text == answer["text"] + "\n"
    assert answer["answerer"]["version_number"] == 1
    bare = as_json(sdk.Generation, "generate", "--base", "hi", "--max-tokens", "3", "--seed", "1")
    of_an_adapter = ("adapter", "version_number", "version_digest", "alias", "generation", "arm")
    assert {bare["answerer"][field] for field in of_an_adapter} == {None}
    by_number = as_json(sdk.Generation, "generate", "--adapter", f"{task}@2", "hi")["answerer"]
    assert (by_number["version_number"], by_number["generation"]) == (2, None)
    classified = as_json(sdk.Classification, "classify", "--adapter", task, "hi")
    assert classified["label"] in PROFILE["labels"]
    assert loradock("classify", "--adapter", task, "hi").out.split()[2] == classified["label"]
    scored = as_json(sdk.Scores, "score", "--base", "a", "b", "cc")
    assert [score["num_tokens"] for score in scored["scores"]][0] >= 1
    assert "'cc'" in loradock("score", "--base", "a", "b", "cc").out
    loradock("generate", "--adapter", "no-such-adapter", "hi", code=3)
    loradock("generate", "--base", "x" * 600, code=2)


def suite(folder, expected="billing", **more):
    rows = [{"input": f"row {n}", "expected": expected} for n in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"name": "tiny", "rows": "rows.jsonl", "scorer": "label"} | more
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (folder / "suite.toml").write_text("\n".join(lines))
    return folder / "suite.toml"


def test_eval_run(loradock, as_json, task, tmp_path):
    path = suite(tmp_path, mode="classify", labels=["billing", "bug"], name=f"s-{task}")
    measured = as_json(sdk.Evaluation, "eval", "run", path, "--adapter", task)
    assert (measured["adapter"], measured["version_number"]) == (task, 1)
    (accuracy,) = measured["metrics"]
    assert accuracy["num_items"] == 6 and accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert measured["cost"]["tokens"] > 0 and measured["harness"].startswith("loradock eval run")
    bare = as_json(sdk.Evaluation, "eval", "run", path, "--base", "--limit", "2")
    assert bare["adapter"] is None and bare["metrics"][0]["num_items"] == 2
    assert bare["dataset_digest"] != measured["dataset_digest"]
    dry = as_json(SuiteResult, "eval", "run", path, "--adapter", f"{task}@2", "--dry-run")
    assert dry["answerer"]["version_number"] == 2
    listed = as_json(sdk.Evaluation, "eval", "list", "--suite", f"s-{task}")
    assert len(listed) == 2
    shown = loradock("eval", "list", "--suite", f"s-{task}").out
    assert f"{task}@1" in shown and "tiny-base (bare)" in shown


def test_eval_run_generates(loradock, task, tmp_path):
    wanted = {"label": "billing"}
    path = suite(tmp_path, wanted, scorer="json", max_tokens=3, base_template="To {{ content }}")
    shown = loradock("eval", "run", path, "--base", "--dry-run").out
    assert "object_accuracy" in shown and "field_accuracy" in shown


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("eval list --adapter nowhere", "loradock adapter list"),
        ("eval list --adapter {task}@9", "loradock adapter show"),
        ("eval list --base nowhere", "loradock base list"),
        ("adapter list --base nowhere", "loradock base list"),
        ("adapter search --from sha256:" + "0" * 64, "right file, or digest?"),
        ("lineage affected --dataset sha256:" + "0" * 64, "right file, or digest?"),
        ("alias list nowhere", "loradock adapter list"),
        ("alias policy history {task}:nowhere", "loradock alias list"),
        ("alias policy show {task}:production", "loradock alias policy set"),
        ("rollout status {task}:production", "loradock rollout start"),
        ("--project nobody adapter list", "--project"),
    ],
)
def test_a_list_of_what_is_not_there_says_so_and_what_to_do(loradock, task, words, hint):
    told = loradock(*words.format(task=task).split(), code=3)
    assert told.out == "" and hint in told.err


def test_eval_add(loradock, as_json, task, tmp_path):
    (tmp_path / "rows").write_text("rows")
    words = ("eval", "add", f"{task}@1", "--suite", "mine", "--dataset", tmp_path / "rows")
    metric = ("--metric", "accuracy=0.5,n=10,low=0.2,high=0.8")
    as_json(sdk.Metric, *words, *metric, "--dry-run")
    recorded = as_json(sdk.Evaluation, *words, *metric)
    assert recorded["metrics"][0]["value"] == 0.5
    filtered = loradock("adapter", "list", "--metric", "mine:accuracy>=0.4").out
    assert task in filtered
    assert task not in loradock("adapter", "list", "--metric", "mine:accuracy>=0.9").out


def test_lineage(loradock, as_json, task, tiny, tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    digest = f"sha256:{hashlib.sha256(b'{}' + bytes([10])).hexdigest()}"
    child = tiny.folder("grown", lineage={"datasets": [{"name": "rows", "digest": digest}]})
    loradock("adapter", "push", task, child, "--base", "tiny-base", "--parent", f"{task}@1")
    as_json(sdk.LineageGraph, "lineage", "show", f"{task}@3")
    tree = loradock("lineage", "show", f"{task}@3").out
    assert tree.splitlines()[0].startswith("version")
    assert "└── " in tree and "dataset rows" in tree and "tiny-base" in tree
    for rows in (digest, tmp_path / "rows.jsonl"):
        assert f"{task}@3" in loradock("lineage", "show", "--dataset", rows, "--down").out
        assert f"{task}@3" in loradock("lineage", "affected", "--dataset", rows).out
    assert "no file nowhere" in loradock("lineage", "affected", "--dataset", "nowhere", code=2).err
    assert "--dataset" in loradock("lineage", "show", code=2).err


def test_server(loradock, as_json, task):
    as_json(sdk.ServerStatus, "server", "status")
    assert "tiny-base" in loradock("server", "status").out
    as_json(sdk.Server, "server", "list")
    as_json(ServerRates, "server", "top", "--once", "--interval", "0.1")
    assert "steps/s" in loradock("server", "top", "--interval", "0.1").out
    as_json(sdk.Residency, "server", "load", f"{task}@2", "--dry-run")
    loaded = as_json(sdk.Residency, "server", "load", f"{task}@2")
    assert loaded["state"] == "resident"
    as_json(sdk.Residency, "server", "unload", f"{task}@2", "--dry-run")
    as_json(sdk.Residency, "server", "unload", f"{task}@2")
    loradock("generate", "--adapter", task, "hi")  # from then on the alias is followed
    for verb, state in {"prefetch": "cached", "pin": "resident", "unpin": "resident"}.items():
        as_json(sdk.Residency, "server", verb, f"{task}@2", "--dry-run")
        found = as_json(sdk.Residency, "server", verb, f"{task}@2")
        assert (found["state"], found["pinned"]) == (state, verb == "pin")
        assert (found["adapter"], found["version_number"]) == (task, 2)
    assert f"{task}@2" in loradock("server", "status").out
    as_json(sdk.ServerStatus, "server", "drain", "--dry-run")
    assert as_json(sdk.ServerStatus, "server", "drain")["drained"]
    assert not as_json(sdk.ServerStatus, "server", "undrain")["drained"]
    as_json(sdk.LiveAlias, "server", "override", f"{task}:production", "--reason", "r", "--dry-run")
    loradock("server", "override", f"{task}:production", "--reason", "r", code=6)
    loradock("server", "override", f"{task}:nowhere", "--reason", "r", "--dry-run", code=3)


def test_bases(loradock, as_json):
    as_json(sdk.BaseModel, "base", "show", "tiny-base")
    assert "tiny-base" in loradock("base", "list").out
    assert as_json(sdk.BaseModel, "base", "list")[0]["modules"] == {}
    loradock("base", "show", "nowhere", code=3)


def test_rollout_from_its_start_to_its_end(loradock, as_json, task):
    alias = f"{task}:production"
    told = as_json(sdk.StartedRollout, "rollout", "start", alias, "2", "--validate-only")
    assert told["rollout"]["candidate_number"] == 2
    loradock("rollout", "status", alias, code=3)
    stages = ("--stage", "0.5:1h", "--stage", "100:1h")
    started = as_json(sdk.StartedRollout, "rollout", "start", alias, "2", *stages, "--shadow", "10")
    assert [stage["percent"] for stage in started["rollout"]["stages"]] == [0.5, 100]
    assert as_json(sdk.Alias, "alias", "show", alias)["split"]["percent"] == 0.5
    assert "0.5 % to @2" in loradock("alias", "show", alias).out
    assert "0.5 % to @2" in loradock("alias", "history", alias).out
    refused = loradock("rollout", "start", alias, "2", code=6).err
    assert refused.count("promote or abort it") == 1
    shown = loradock("rollout", "status", alias).out
    for part in ("[0.5 %]  100 %", "incumbent", "candidate", "shadow", "latency_p95", "waiting"):
        assert part in shown
    loradock("rollout", "status", alias, "--watch", code=2)
    loradock("rollout", "pause", alias, "--dry-run")
    assert as_json(sdk.Rollout, "rollout", "pause", alias, "--reason", "r")["state"] == "paused"
    assert "paused, by anonymous: r" in loradock("rollout", "status", alias).out
    assert as_json(sdk.Rollout, "rollout", "resume", alias)["state"] == "running"
    assert as_json(sdk.Rollout, "rollout", "promote", alias, "--dry-run")["state"] == "running"
    ended = as_json(sdk.Rollout, "rollout", "abort", alias, "--reason", "wrong labels")
    assert (ended["state"], ended["state_reason"]) == ("aborted", "wrong labels")
    loradock("rollout", "start", alias, "2", *stages)
    assert as_json(sdk.Rollout, "rollout", "promote", alias)["state"] == "promoted"
    assert as_json(sdk.Alias, "alias", "show", alias)["version_number"] == 2


@pytest.mark.parametrize(
    ("stage", "told"), [("lots", "PERCENT:HOLD"), ("150:1h", "'150:1h': 150 % is more than 100 %")]
)
def test_rollout_stage_that_is_none_is_told(loradock, task, stage, told):
    refused = loradock("rollout", "start", f"{task}:production", "2", "--stage", stage, code=2).err
    assert told in refused
    assert ("PERCENT:HOLD" in refused) == (stage == "lots")


def test_confidence_that_is_none_is_told_with_what_is_right(loradock, task):
    words = ("rollout", "start", f"{task}:production", "2", "--confidence", "1")
    assert "1 is not from 0.5 to below 1" in loradock(*words, code=2).err


def test_sticky_key_is_sent_and_the_arm_is_told(as_json, task):
    words = ("--adapter", task, "--sticky-key", "user-1", "hello")
    assert as_json(sdk.Generation, "generate", *words)["answerer"]["arm"] == "incumbent"
    assert as_json(sdk.Classification, "classify", *words)["answerer"]["arm"] == "incumbent"
