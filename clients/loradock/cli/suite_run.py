"""Runs a suite through a running server, many rows at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as installed_version
from statistics import fmean
from threading import Event

from loradock.cli.refusal import CommandError
from loradock.cli.statistics import bootstrap_interval, wilson_interval
from loradock.cli.suite import Outcome, Row, Suite
from loradock.client import Answerer, Client, ItemScores, Metric, ResourceExhausted, Usage

PATIENCE_S = 120.0  # of one row with a server that has no room for it; as long as a call may take


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row's answer, and what it was worth."""

    outcome: Outcome
    answerer: Answerer
    usage: Usage


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """What a suite measured, ready to be recorded."""

    suite: str
    dataset_digest: str
    answerer: Answerer
    metrics: tuple[Metric, ...]
    cost: dict[str, float]
    harness: str
    items: ItemScores  # of each row, by its line among the filled ones


def run_suite(
    client: Client,
    suite: Suite,
    *,
    adapter: str | None,
    num_at_once: int,
    on_row: Callable[[], None] = lambda: None,
) -> SuiteResult:
    """Ask every row of `adapter`, or of the base if it is None, and score the answers.

    `adapter` names one version, so that one and the same answers all rows.
    """
    started, ended = time.perf_counter(), Event()

    def ask(row: Row) -> RowResult:
        result = _in_its_turn(partial(_ask, client, suite, row, adapter), ended)
        on_row()
        return result

    pool = ThreadPoolExecutor(num_at_once)
    try:
        results = list(pool.map(ask, suite.rows))
    finally:
        ended.set()
        pool.shutdown(wait=False, cancel_futures=True)  # closing the client ends what still runs
    seconds = time.perf_counter() - started
    tokens = sum(r.usage.prompt_tokens + r.usage.output_tokens for r in results)
    return SuiteResult(
        suite=suite.name,
        dataset_digest=suite.dataset_digest,
        answerer=_one_answerer(results),
        metrics=metrics_of(suite.scorer, [result.outcome for result in results]),
        cost={"tokens": float(tokens), "seconds": round(seconds, 3)},
        harness=f"loradock eval run {installed_version('loradock')}",
        items=items_of(suite.scorer, [result.outcome for result in results]),
    )


def _in_its_turn(ask: Callable[[], RowResult], ended: Event) -> RowResult:
    """Ask; where there is no room now, come again when the server says, until that is too late."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except ResourceExhausted as error:
            wait_s = error.retry_after_s
            if wait_s is None or time.monotonic() + wait_s > give_up_at or ended.wait(wait_s):
                raise


def _ask(client: Client, suite: Suite, row: Row, adapter: str | None) -> RowResult:
    prompt, base = suite.prompt(row, for_base=adapter is None), adapter is None
    if suite.mode == "classify":
        label = client.classify(prompt, adapter=adapter, base=base, labels=suite.labels)
        return RowResult(suite.outcome(row, label.label), label.answerer, label.usage)
    answer = client.generate(
        prompt, adapter=adapter, base=base, max_tokens=suite.max_tokens, temperature=0.0
    )
    return RowResult(suite.outcome(row, answer.text), answer.answerer, answer.usage)


def _one_answerer(results: Sequence[RowResult]) -> Answerer:
    if len({(r.answerer.version_digest, r.answerer.base_digests) for r in results}) != 1:
        raise CommandError("several versions answered: name one by number, as in task@2")
    return results[0].answerer


def items_of(scorer: str, outcomes: Sequence[Outcome]) -> ItemScores:
    """Give what each row was worth, by the names of `metrics_of`."""
    shares = tuple(float(outcome.is_right) for outcome in outcomes)
    scores = {"accuracy": shares}
    if scorer == "json":
        fields = tuple(outcome.field_share for outcome in outcomes)
        scores = {"object_accuracy": shares, "field_accuracy": fields}
    return ItemScores(tuple(str(row) for row in range(1, len(outcomes) + 1)), scores)


def metrics_of(scorer: str, outcomes: Sequence[Outcome]) -> tuple[Metric, ...]:
    """Give a scorer's metrics: shares with Wilson's interval, means with a bootstrap's."""
    num_right, num_rows = sum(o.is_right for o in outcomes), len(outcomes)
    low, high = wilson_interval(num_right, num_rows)
    share = num_right / num_rows
    if scorer != "json":
        return (Metric("accuracy", share, num_rows, low, high),)
    fields = [o.field_share for o in outcomes]
    field_low, field_high = bootstrap_interval(fields)
    return (
        Metric("object_accuracy", share, num_rows, low, high),
        Metric("field_accuracy", fmean(fields), num_rows, field_low, field_high),
    )
