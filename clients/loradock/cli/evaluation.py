"""`loradock eval`: measure a version or the bare base, and record how good it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli.command import DryRunOption, JsonOption, LimitOption, command, noun
from loradock.cli.inference import AdapterOption, BaseOption
from loradock.cli.names import dataset_digest, version_number
from loradock.cli.output import note, print_json, show_table, text_of
from loradock.cli.progress import row_progress
from loradock.cli.refusal import CommandError
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.cli.suite_run import SuiteResult
    from loradock.client import Client, Evaluation, Metric

app = noun("eval", "Measure versions, and record how good they are.")


@command(
    app,
    "run",
    "eval run examples/support-triage/suite.toml --adapter support-triage@2",
    "eval run examples/support-triage/suite.toml --base --limit 32",
    gives="`Evaluation`; with --dry-run `SuiteResult`",
)
def run(
    context: typer.Context,
    suite_file: Annotated[Path, typer.Argument(metavar="SUITE.TOML")],
    adapter: AdapterOption = None,
    base: BaseOption = False,
    limit: LimitOption = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Rows at once.")] = 8,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, but don't record.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a suite through the server and record what it measured.

    The suite file names the rows, the scorer (label, exact or json) and the mode (generate or
    classify). Shares come with Wilson's 95 % interval, means with a bootstrap's. With --limit only
    the first rows are asked, and the record's dataset digest is that of those rows. What each row
    was worth is recorded, too, so that policies compare versions row by row. Where the server has
    no room for a row, it is asked again when the server says.
    """
    from loradock.cli.suite import read_suite
    from loradock.cli.suite_run import run_suite

    if (adapter is None) is not base:
        raise CommandError("say what is measured: --adapter NAME, or --base, not both")
    suite = read_suite(suite_file, limit)
    with connect(context) as client:
        version = None if adapter is None else client.versions.resolve(adapter).version
        pinned = None if version is None else f"{version.project}/{version.reference}"
        with row_progress(suite.name, len(suite.rows)) as on_row:
            result = run_suite(
                client, suite, adapter=pinned, num_at_once=concurrency, on_row=on_row
            )
        if dry_run:
            note("nothing was recorded")
            _show_result(result, as_json)
        else:
            _show([_record(client, result, pinned)], as_json, single=True)


def _record(client: Client, result: SuiteResult, version: str | None) -> Evaluation:
    return client.evaluations.record(
        result.suite,
        metrics=result.metrics,
        items=result.items,
        dataset_digest=result.dataset_digest,
        version=version,
        base=result.answerer.base_model,
        cost=result.cost,
        harness=result.harness,
        engine_profile=result.answerer.engine_profile,
    )


def _show_result(result: SuiteResult, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    show_table(
        result.metrics,
        {
            "metric": lambda m: m.name,
            "value": lambda m: f"{m.value:.3f}",
            "95 %": _interval,
            "n": lambda m: m.num_items,
        },
        as_json,
    )


@command(
    app,
    "add",
    "eval add support-triage@2 --suite mmlu --dataset rows.jsonl --metric accuracy=0.61,n=500",
    gives="`Evaluation`; with --dry-run a list of `Metric`",
)
def add(
    context: typer.Context,
    version: Annotated[str | None, typer.Argument(metavar="ADAPTER@N")] = None,
    base: Annotated[str | None, typer.Option("--base", help="Of a bare base, by name.")] = None,
    suite: Annotated[str, typer.Option("--suite", help="The suite's name.")] = "",
    dataset: Annotated[str, typer.Option("--dataset", help="The rows: a file or a digest.")] = "",
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="NAME=VALUE,n=N[,low=L,high=H][,lower]; repeatable."),
    ] = None,
    harness: Annotated[str, typer.Option("--harness", help="What measured.")] = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Record what another harness measured."""
    if not suite or not dataset or not metric or (version is None) is (base is None):
        raise CommandError("name a version or --base, and --suite, --dataset and --metric")
    metrics = [parse_metric(text) for text in metric]
    digest = dataset_digest(dataset)
    if dry_run:
        note(f"would record {len(metrics)} metrics of {version or base} on {digest}")
        if as_json:
            print_json(metrics)
        return
    with connect(context) as client:
        recorded = client.evaluations.record(
            suite,
            metrics=metrics,
            dataset_digest=digest,
            version=version,
            base=base,
            harness=harness,
        )
    _show([recorded], as_json, single=True)


def parse_metric(text: str) -> Metric:
    """Read `accuracy=0.61,n=500,low=0.57,high=0.65`, or with `,lower` where less is better."""
    from loradock.client import Metric, MetricDirection

    parts = text.split(",")
    lower = "lower" in parts[1:]
    pairs = dict(part.partition("=")[::2] for part in parts if part != "lower")
    name = next(iter(pairs))
    try:
        value, num_items = float(pairs.pop(name)), int(pairs.pop("n"))
        bounds = {key: float(pairs.pop(key)) for key in ("low", "high") if key in pairs}
    except (KeyError, ValueError):
        raise _bad_metric(text) from None
    if pairs:
        raise _bad_metric(text)
    direction = MetricDirection.LOWER if lower else MetricDirection.HIGHER
    return Metric(name, value, num_items, **bounds, direction=direction)


def _bad_metric(text: str) -> CommandError:
    return CommandError(f"{text!r} is no metric", "write it as accuracy=0.61,n=500")


@command(
    app,
    "list",
    "eval list --adapter support-triage",
    "eval list --adapter support-triage@2",
    gives="a list of `Evaluation`",
)
def list_(
    context: typer.Context,
    adapter: Annotated[str, typer.Option("--adapter", help="Of an adapter, or task@2.")] = "",
    base: Annotated[str, typer.Option("--base", help="On this base, by name.")] = "",
    suite: Annotated[str, typer.Option("--suite", help="Of this suite.")] = "",
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """List recorded evaluations, the base's beside the versions'."""
    name, _, number = adapter.partition("@")
    asked = version_number(number) if number else None
    with connect(context) as client:
        found = client.evaluations.list(adapter=name, number=asked, base=base, suite=suite)
        _show(list(islice(found, limit)), as_json)


def _show(evaluations: list[Evaluation], as_json: bool, single: bool = False) -> None:
    if as_json:
        print_json(evaluations[0] if single else evaluations)
        return
    show_table(
        list(_metric_rows(evaluations)),
        {
            "suite": lambda row: row[0].suite,
            "of": lambda row: _measured(row[0]),
            "metric": lambda row: row[1].name,
            "value": lambda row: f"{row[1].value:.3f}",
            "95 %": lambda row: _interval(row[1]),
            "n": lambda row: row[1].num_items,
            "engine": lambda row: row[0].engine_profile,
            "recorded": lambda row: row[0].created_at,
        },
        as_json,
    )


def _metric_rows(evaluations: list[Evaluation]) -> Iterator[tuple[Evaluation, Metric]]:
    for evaluation in evaluations:
        for metric in evaluation.metrics:
            yield evaluation, metric


def _measured(evaluation: Evaluation) -> str:
    if evaluation.adapter is None:
        return f"{evaluation.base_model.removeprefix('baseModels/')} (bare)"
    return f"{evaluation.adapter}@{evaluation.version_number}"


def _interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return text_of(None)
    return f"{metric.low:.3f}–{metric.high:.3f}"
