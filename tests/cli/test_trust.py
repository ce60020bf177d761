"""What lets a registry be trusted, as commands: holds, approvals, retention, lineage."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from command_line import assert_has_fields

from loradock import client as sdk

ROWS = "sha256:" + "d" * 64


def test_hold_and_unhold(loradock, as_json, task):
    two = f"{task}@2"
    dry = as_json(sdk.Version, "adapter", "hold", two, "--reason", "r", "--for", "1d", "--dry-run")
    assert dry["hold"] is None
    held = as_json(sdk.Version, "adapter", "hold", two, "--reason", "case 17", "--for", "90d")
    assert (held["hold"]["reason"], held["hold"]["held_by"]) == ("case 17", "anonymous")
    ends = datetime.fromisoformat(held["hold"]["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89) < ends < timedelta(days=91)
    assert "case 17" in loradock("adapter", "show", two).out
    told = loradock("adapter", "delete", two, "--yes", code=6)
    assert "hold of anonymous until" in told.err and "case 17" in told.err
    loradock("adapter", "hold", two, "--reason", " ", code=2)
    loradock("adapter", "hold", two, "--reason", "r", "--for", "soon", code=2)
    loradock("adapter", "unhold", two, "--dry-run")
    assert as_json(sdk.Version, "adapter", "unhold", two, "--reason", "closed")["hold"] is None
    loradock("adapter", "delete", two, "--yes")


def test_approvals(loradock, as_json, task):
    alias = f"{task}:production"
    set_policy = ("alias", "policy", "set", alias, "--approvals", "1")
    policy = as_json(sdk.AliasPolicy, *set_policy, "--reason", "four eyes")
    assert (policy["num_approvals"], policy["is_protected"]) == (1, False)
    told = loradock("alias", "set", alias, "2", code=6)
    assert "0 of 1 are given" in told.err
    as_json(sdk.Approval, "alias", "approve", alias, "2", "--dry-run")
    (approval,) = as_json(sdk.Approval, "alias", "approve", alias, "2", "--reason", "fine")
    assert (approval["approver"], approval["reason"]) == ("anonymous", "fine")
    assert "fine" in loradock("alias", "approvals", alias, "2").out
    checked = as_json(sdk.PolicyReport, "alias", "policy", "check", alias, "2", code=6)
    assert checked["checks"][0]["message"].endswith("anonymous's own does not count")
    assert "APPROVALS_MISSING" in loradock("alias", "policy", "check", alias, "2", code=6).out
    told = loradock("rollout", "start", alias, "2", "--dry-run").err
    assert "policy NOT MET: approvals 0 of 1 are given" in told
    as_json(sdk.Approval, "alias", "withdraw", alias, "2", "--dry-run")
    assert as_json(sdk.Approval, "alias", "withdraw", alias, "2", "--reason", "no") == []
    loradock("alias", "withdraw", alias, "2", code=3)
    loradock("alias", "policy", "set", alias, "--protect", "--reason", "hands off")
    revisions = as_json(sdk.AliasPolicy, "alias", "policy", "history", alias)
    assert [(p["etag"], p["reason"]) for p in revisions] == [("2", "hands off"), ("1", "four eyes")]
    shown = loradock("alias", "policy", "history", alias).out
    assert "1 approvals" in shown and "protected" in shown
    first = as_json(sdk.AliasPolicy, "alias", "policy", "show", alias, "--revision", "1")
    assert first["num_approvals"] == 1
    loradock("alias", "policy", "show", alias, "--revision", "9", code=3)
    loradock("alias", "set", alias, "2")  # an open server gives everybody every role


def test_an_evaluation_keeps_its_items_and_a_check_tells_what_it_rests_on(
    loradock, as_json, task, tmp_path
):
    rows = [json.dumps({"input": f"row {n}", "expected": "billing"}) for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    path, suite = tmp_path / "suite.toml", f"i-{task}"
    path.write_text(
        f'name = "{suite}"\nrows = "rows.jsonl"\nscorer = "label"\nmode = "classify"\n'
        'labels = ["billing", "bug"]'
    )
    for number in (1, 2):
        measured = as_json(sdk.Evaluation, "eval", "run", path, "--adapter", f"{task}@{number}")
        assert measured["items"]["ids"] == [str(row) for row in range(1, 7)]
        scores = measured["items"]["scores"]["accuracy"]
        assert sum(scores) / 6 == pytest.approx(measured["metrics"][0]["value"])
    alias = f"{task}:production"
    loradock("alias", "policy", "set", alias, "--not-worse", f"{suite}:accuracy=1")
    (check,) = as_json(sdk.PolicyReport, "alias", "policy", "check", alias, "2")["checks"]
    assert_has_fields(check["comparison"], sdk.Comparison)
    assert (check["comparison"]["method"], check["comparison"]["num_items"]) == ("paired", 6)
    assert "6 items, paired" in loradock("alias", "policy", "check", alias, "2").out


def test_retention(loradock, as_json, task, tiny):
    folder = tiny.folder(f"spare-{task}", lineage={"training": {"run": task}})
    loradock("adapter", "push", task, folder, "--base", "tiny-base")
    loradock("gc", "--keep-last", "-1", code=2)
    mine = {f"{task}@{number}" for number in (1, 2, 3)}
    words = ("gc", "--keep-last", "0", "--keep-younger", "1d")
    assert not mine & {found["name"] for found in as_json(sdk.Garbage, *words, "--dry-run")}
    foreseen = as_json(sdk.Garbage, "gc", "--keep-last", "1", "--dry-run")
    assert f"{task}@1" not in {found["name"] for found in foreseen}, "an alias points there"
    foreseen = as_json(sdk.Garbage, "gc", "--keep-younger", "0", "--dry-run")
    assert {"kind": "version", "name": f"{task}@3", "size_bytes": 0} in foreseen
    assert as_json(sdk.Version, "adapter", "show", f"{task}@3")["state"] == "ready"


def test_lineage_in_every_form(loradock, as_json, task, tiny):
    folder = tiny.folder(f"rows-{task}", lineage={"datasets": [{"name": "rows", "digest": ROWS}]})
    push = ("adapter", "push", task, folder, "--base", "tiny-base", "--merge-of", f"{task}@1")
    pushed = as_json(sdk.Published, *push, "--distilled-from", f"{task}@2")
    lineage = pushed["version"]["lineage"]
    assert len(lineage["merge_of"]) == len(lineage["distilled_from"]) == 1
    three = f"{task}@3"
    assert "(merge-of)" in loradock("lineage", "show", three).out
    dot = loradock("lineage", "show", three, "--format", "dot").out
    assert dot.startswith("digraph lineage {\n") and '[label="distilled-from"]' in dot
    mermaid = loradock("lineage", "show", three, "--format", "mermaid").out
    assert mermaid.startswith("flowchart LR\n") and "-->|merge-of|" in mermaid
    told = json.loads(loradock("lineage", "show", three, "--format", "json").out)
    assert_has_fields(told, sdk.LineageGraph)
    loradock("lineage", "show", three, "--format", "png", code=2)

    loradock("alias", "set", f"{task}:production", "3", "--wait", "10")
    affected = as_json(sdk.Affected, "lineage", "affected", "--dataset", ROWS)
    mine = next(v for v in affected["versions"] if v["adapter"] == task)
    assert [(a["alias"], a["left_at"]) for a in mine["aliases"]] == [("production", None)]
    assert f"{task}:production" in loradock("lineage", "affected", "--dataset", ROWS).out
    below = as_json(sdk.Affected, "lineage", "affected", f"{task}@1")["versions"]
    first = next(v for v in below if v["adapter"] == task and v["number"] == 1)
    assert first["aliases"][0]["left_at"] is not None
    loradock("lineage", "affected", code=2)
    loradock("lineage", "affected", "--dataset", "sha256:" + "e" * 64, code=3)

    for origin in (ROWS, f"{task}@1"):
        found = as_json(sdk.Version, "adapter", "search", "--from", origin, "--text", task)
        assert [version["number"] for version in found] == [3]
    listed = as_json(sdk.Adapter, "adapter", "list", "--from", ROWS)
    assert task in [adapter["name"] for adapter in listed]
