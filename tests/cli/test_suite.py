"""Suites: what is read, how answers are scored, and how sure a measured value is."""

import hashlib
import json

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from loradock.cli.evaluation import parse_metric
from loradock.cli.refusal import CommandError
from loradock.cli.statistics import bootstrap_interval, wilson_interval
from loradock.cli.suite import SCORERS, Outcome, Row, read_suite
from loradock.cli.suite_run import PATIENCE_S, metrics_of, run_suite
from loradock.client import Client, Metric, MetricDirection, ResourceExhausted
from loradock.v1 import inference_service_pb2 as wire

ROWS = [{"input": "refund please", "expected": "billing"}, {"input": "broken", "expected": "bug"}]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "suite.toml").write_text('name = "s"\nscorer = "label"\n')
    return tmp_path


def test_read(folder):
    suite = read_suite(folder / "suite.toml")
    assert suite.rows == (Row("refund please", "billing"), Row("broken", "bug"))
    assert (suite.mode, suite.max_tokens) == ("generate", None)
    content = (folder / "heldout.jsonl").read_bytes()
    assert suite.dataset_digest == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_limit_changes_what_is_measured(folder):
    first = (folder / "heldout.jsonl").read_bytes().splitlines(keepends=True)[0]
    suite = read_suite(folder / "suite.toml", limit=1)
    assert len(suite.rows) == 1
    assert suite.dataset_digest == f"sha256:{hashlib.sha256(first).hexdigest()}"
    whole = read_suite(folder / "suite.toml", limit=99)
    assert whole.dataset_digest == read_suite(folder / "suite.toml").dataset_digest


def test_only_the_base_is_told_the_task(folder):
    (folder / "suite.toml").write_text(
        'name = "s"\nscorer = "label"\nbase_template = "Sort:\\n{{ content }}\\n{{content}}"\n'
    )
    suite = read_suite(folder / "suite.toml")
    row = Row(r"a \1 {{ content }}", "x")
    assert suite.prompt(row, for_base=False) == row.input
    assert suite.prompt(row, for_base=True) == f"Sort:\n{row.input}\n{row.input}"


def test_everything_wrong_is_told_at_once(folder):
    (folder / "suite.toml").write_text(
        'scorer = "bleu"\nmode = 3\nlabels = "a"\nspeed = 1\nrows = "none"'
    )
    with pytest.raises(CommandError) as raised:
        read_suite(folder / "suite.toml")
    for part in ("'name' is missing", "'scorer' must be one of", "'mode'", "'labels'", "'speed'"):
        assert part in str(raised.value)
    assert "no rows file" in str(raised.value)


@pytest.mark.parametrize("line", ["{", "[]", '{"input": "x"}', "3", '{"input": 3, "expected": ""}'])
def test_bad_rows_are_named(folder, line):
    (folder / "heldout.jsonl").write_text(f"{json.dumps(ROWS[0])}\n\n{line}\n")
    with pytest.raises(CommandError, match="line 3"):
        read_suite(folder / "suite.toml")


def test_what_json_is_expected_is_read_once(folder):
    (folder / "suite.toml").write_text('name = "s"\nscorer = "json"\n')
    with pytest.raises(CommandError, match="line 1 is not .* with JSON expected; line 2"):
        read_suite(folder / "suite.toml")
    (folder / "heldout.jsonl").write_text('{"input": "x", "expected": "{\\"a\\": 1}"}\n')
    assert read_suite(folder / "suite.toml").rows == (Row("x", {"a": 1}),)


def test_no_rows_is_no_suite(folder):
    (folder / "heldout.jsonl").write_text("\n")
    with pytest.raises(CommandError, match="no rows"):
        read_suite(folder / "suite.toml")


def full(scripted, *retry_s):
    """Refuse, with a word on when to come again if one is given."""
    delays = [duration_pb2.Duration() for _ in retry_s]
    for delay, seconds in zip(delays, retry_s, strict=True):
        delay.FromMilliseconds(int(seconds * 1000))
    return scripted.refuse(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "full",
        scripted.error_info("QUEUE_FULL"),
        *(error_details_pb2.RetryInfo(retry_delay=delay) for delay in delays),
    )


def test_a_full_server_is_asked_again_when_it_says(scripted, folder):
    answer = wire.ClassifyResponse(label="billing")
    scripted.answer("Classify", *[full(scripted, 0.01)] * 5, *[answer] * 2)
    (folder / "suite.toml").write_text('name = "s"\nscorer = "label"\nmode = "classify"\n')
    with Client(scripted.address) as client:
        suite = read_suite(folder / "suite.toml")
        result = run_suite(client, suite, adapter="a@1", num_at_once=2)
    assert result.metrics[0].num_items == 2
    assert len(scripted.received("Classify")) == 7


@pytest.mark.parametrize("retry_s", [(), (PATIENCE_S + 1,)])
def test_a_full_server_that_names_no_time_or_too_late_a_one_ends_the_run(scripted, folder, retry_s):
    scripted.answer("Generate", full(scripted, *retry_s))
    with Client(scripted.address) as client, pytest.raises(ResourceExhausted):
        run_suite(client, read_suite(folder / "suite.toml", 1), adapter="a@1", num_at_once=1)
    assert len(scripted.received("Generate")) == 1


@pytest.mark.parametrize(
    ("scorer", "answer", "expected", "is_right", "share"),
    [
        ("label", " Billing \nbecause", "billing", True, 1.0),
        ("label", "", "billing", False, 0.0),
        ("label", "billing.", "billing", False, 0.0),
        ("exact", " Billing\n", "Billing", True, 1.0),
        ("exact", "billing", "Billing", False, 0.0),
        ("json", '{"b": 2, "a": 1}', {"a": 1, "b": 2}, True, 1.0),
        ("json", '{"a": 1, "b": 3}', {"a": 1, "b": 2}, False, 0.5),
        ("json", '{"a": 1, "b": 2, "c": 3}', {"a": 1, "b": 2}, False, 2 / 3),
        ("json", '{"a": 1', {"a": 1}, False, 0.0),
        ("json", "[" * 100_000, {"a": 1}, False, 0.0),
        ("json", "[1]", [1], True, 1.0),
        ("json", "3", {"a": 1}, False, 0.0),
    ],
)
def test_scorers(scorer, answer, expected, is_right, share):
    outcome = SCORERS[scorer](answer, expected)
    assert outcome.is_right is is_right
    assert outcome.field_share == pytest.approx(share)


@pytest.mark.parametrize(
    ("num_right", "num_items", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_wilson_interval_is_the_books(num_right, num_items, low, high):
    assert wilson_interval(num_right, num_items) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 500), st.data())
def test_wilson_interval_holds_the_share(num_items, data):
    num_right = data.draw(st.integers(0, num_items))
    low, high = wilson_interval(num_right, num_items)
    assert 0 <= low <= num_right / num_items + 1e-12
    assert num_right / num_items - 1e-12 <= high <= 1


def test_bootstrap_interval_is_steady_and_about_right():
    values = [0.0, 1.0] * 50
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert low == pytest.approx(0.402, abs=0.03) and high == pytest.approx(0.598, abs=0.03)
    assert bootstrap_interval([0.5] * 9) == (0.5, 0.5)


def test_metrics():
    outcomes = [Outcome(True, 1.0), Outcome(False, 0.5)]
    (accuracy,) = metrics_of("label", outcomes)
    assert (accuracy.name, accuracy.value, accuracy.num_items) == ("accuracy", 0.5, 2)
    assert accuracy.low is not None and accuracy.low < 0.5
    whole, fields = metrics_of("json", outcomes)
    assert (whole.name, whole.value) == ("object_accuracy", 0.5)
    assert (fields.name, fields.value) == ("field_accuracy", 0.75)


def test_parse_metric():
    assert parse_metric("accuracy=0.61,n=500") == Metric("accuracy", 0.61, 500)
    assert parse_metric("loss=1.5,n=9,low=1,high=2,lower") == Metric(
        "loss", 1.5, 9, 1.0, 2.0, MetricDirection.LOWER
    )
    for bad in ("accuracy", "accuracy=x,n=1", "accuracy=1", "accuracy=1,n=1,m=2", ""):
        with pytest.raises(CommandError):
            parse_metric(bad)
