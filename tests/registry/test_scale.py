"""Lists and searches cost a bounded number of queries, and much the same at any size (R11)."""

import sys
from pathlib import Path

import pytest
from statements import counting

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import catalog
import catalog_seed

from loradock.registry.search import MetricFilter

# What a page may ask; a publish and a move write many rows, but the same number always.
MOST = {"get and set alias": 25, "publish": 40}


@pytest.mark.contract("R11")
def test_r11_every_operation_is_the_same_few_queries_at_any_size(registry):
    bases = catalog._bases(registry)
    counted = []
    for filled, wanted in ((0, 10), (10, 40)):
        catalog_seed.seed(catalog._database(registry), filled, wanted, bases)
        counts = {}
        for name, operation in catalog.operations(registry, wanted, 1).items():
            with counting(registry) as statements:
                operation()
            counts[name] = len(statements)
            assert counts[name] <= MOST.get(name, 3), f"{name}: {statements}"
        counted.append(counts)
    small, large = counted
    assert {name: n for name, n in large.items() if n > small[name]} == {}


@pytest.mark.contract("R11")
def test_r11_searches_find_the_same_whether_few_or_many_match(registry, monkeypatch):
    """However a search goes about it, it gives the same versions in the same order."""
    bases = catalog._bases(registry)
    catalog_seed.seed(catalog._database(registry), 0, 4, bases)
    filters = (
        {"tag": catalog_seed.tag_name(1)},
        {"text": "task-0000"},
        {"metric": MetricFilter("held-out", "accuracy", ">=", 0.9)},
        {
            "tag": catalog_seed.tag_name(2),
            "metric": MetricFilter("held-out", "accuracy", "<=", 0.3),
        },
    )
    told = []
    for limit in (0, 1000):
        monkeypatch.setattr("loradock.registry.catalog.filters.FEW_ADAPTERS", limit)
        monkeypatch.setattr("loradock.registry.catalog.filters.FEW_RECORDS", limit)
        told.append([list(_pages(registry, **filter)) for filter in filters])
    broad, narrow = told
    assert broad == narrow
    assert all(len(found) > 3 for found in narrow)


def _pages(registry, **filter):
    token = ""
    while True:
        found = registry.versions.search(
            catalog_seed.PROJECT, **filter, page_size=7, page_token=token
        )
        yield from ((version.adapter, version.number) for version in found.items)
        token = found.next_page_token
        if not token:
            return


@pytest.mark.prove
@pytest.mark.contract("R11")
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_r11_a_hundred_thousand_versions(engine, tmp_path, record_property):
    sizes = catalog.measure(engine, tmp_path, 100_000, repeat=100)
    slower = catalog.ratios(sizes)
    for name, figures in sizes["100000"].items():
        what = f"{figures['p50_ms']:.1f} ms, {slower[name]:.2f}x, {figures['queries']:.0f} queries"
        record_property(name, what)
    assert {name: ratio for name, ratio in slower.items() if ratio > 2} == {}
