"""Lists and searches: filters, pages, and tokens that can't be bent."""

import pytest
from tiny_evaluations import record
from tiny_registry import TinyRegistry, tiny_base

from loradock.registry.errors import InvalidArgument, InvalidName, NotFound, StaleGeneration
from loradock.registry.search import MetricFilter


@pytest.fixture
def stocked(tiny):
    """Adapters with tags, descriptions, versions and scores."""
    adapters = tiny.registry.adapters
    for name, tags, description in (
        ("triage", ("support", "fast"), "Sorts Support mail"),
        ("summary", ("fast",), "100% of a text in one line"),
        ("empty", (), "nothing yet"),
    ):
        adapters.create("acme", name, tags=tags, description=description, by="ann")
    tiny.publish("triage", 0)
    tiny.publish("triage", 1)
    tiny.publish("summary", 2)
    record(tiny, 1, 0.9)
    record(tiny, 1, 0.4)
    record(tiny, 2, 0.8)
    record(tiny, None, 0.1)
    TinyRegistry(tiny.registry, "rival").publish("theirs")
    return tiny


def _names(page):
    return [adapter.name for adapter in page.items]


def _at_least(value, op=">="):
    return MetricFilter("held-out", "accuracy", op, value)


def test_adapters_are_found_by_what_they_are(stocked):
    find = stocked.registry.adapters.list
    assert _names(find("acme")) == ["empty", "summary", "triage"]
    assert _names(find("acme", tag="fast")) == ["summary", "triage"]
    assert _names(find("acme", text="SUPPORT")) == ["triage"]
    assert _names(find("acme", text="0%")) == ["summary"]
    assert _names(find("acme", text="_")) == []
    assert _names(find("acme", base="tiny")) == ["summary", "triage"]
    assert _names(find("acme", metric=_at_least(0.7))) == ["triage"]
    assert _names(find("acme", metric=_at_least(0.7), tag="nope")) == []
    assert _names(find("nobody")) == []


def test_a_list_by_what_is_not_there_is_not_found_rather_than_empty(stocked):
    registry, nobody = stocked.registry, f"sha256:{'0' * 64}"
    for ask in (
        lambda: registry.adapters.list("acme", base="other"),
        lambda: registry.adapters.list("acme", derived_from=nobody),
        lambda: registry.versions.search("acme", base="other"),
        lambda: registry.versions.search("acme", derived_from=nobody),
        lambda: registry.evaluations.list("acme", adapter="nope"),
        lambda: registry.evaluations.list("acme", adapter="theirs"),
        lambda: registry.evaluations.list("acme", adapter="triage", version_number=9),
        lambda: registry.evaluations.list("acme", base="other"),
        lambda: registry.policies.history("acme", "triage", "nope"),
    ):
        with pytest.raises(NotFound):
            ask()
    assert not registry.evaluations.list("acme", adapter="summary").items


def test_only_the_latest_evaluation_of_a_suite_counts(stocked):
    def numbers(metric):
        found = stocked.registry.versions.search("acme", metric=metric).items
        return [version.number for version in found]

    assert numbers(_at_least(0.7)) == [2]
    assert numbers(_at_least(0.3)) == [2, 1]
    assert numbers(_at_least(0.4, "<=")) == [1]
    assert numbers(MetricFilter("other", "accuracy", ">=", 0)) == []


def test_yanked_versions_are_listed_on_demand_only(stocked):
    versions = stocked.registry.versions
    versions.yank("acme", "triage", 2, reason="bad", by="bob")

    def numbers(**options):
        return [v.number for v in versions.list("acme", "triage", **options).items]

    assert numbers() == [1]
    assert numbers(include_yanked=True) == [2, 1]
    assert _names(stocked.registry.adapters.list("acme", metric=_at_least(0.7))) == []
    found = versions.search("acme", text="triage").items
    assert [version.number for version in found] == [1]


def test_pages_meet_without_gap_or_overlap(stocked):
    find = stocked.registry.versions.search
    token, seen = "", []
    while True:
        page = find("acme", page_size=1, page_token=token)
        seen += [(version.adapter, version.number) for version in page.items]
        token = page.next_page_token
        if not token:
            break
    assert seen == [("summary", 1), ("triage", 2), ("triage", 1)]
    assert len(find("acme", page_size=10**9).items) == 3


def test_a_page_token_fits_one_list_with_one_filter(stocked):
    find = stocked.registry.adapters.list
    token = find("acme", page_size=1).next_page_token
    assert token.isascii() and "/" not in token and "=" not in token
    for bent in (
        lambda: find("acme", tag="fast", page_token=token),
        lambda: find("rival", page_token=token),
        lambda: find("acme", page_token="x"),
        lambda: find("acme", page_token="ÿ\0"),
        lambda: find("acme", page_token=token[:-2]),
        lambda: stocked.registry.versions.search("acme", page_token=token),
        lambda: find("acme", page_size=-1),
    ):
        with pytest.raises(InvalidArgument):
            bent()


def test_what_no_filter_can_be_is_refused(lite):
    with pytest.raises(InvalidArgument):
        MetricFilter("s", "m", "==", 1)
    with pytest.raises(InvalidArgument):
        MetricFilter("s", "m", ">=", float("nan"))
    with pytest.raises(InvalidArgument):
        lite.registry.adapters.list("acme", text="\0")
    with pytest.raises(InvalidName):
        lite.registry.adapters.list("../x")


def test_an_adapter_is_updated_field_by_field(tiny):
    adapters = tiny.registry.adapters
    made = adapters.create("acme", "triage", owner="ann", tags=["b", "a"], by="ann")
    assert (made.owner, made.tags, made.etag) == ("ann", {"a", "b"}, "1")
    changed = adapters.update("acme", "triage", description="new", expected_etag="1", by="bob")
    assert (changed.owner, changed.description, changed.tags) == ("ann", "new", {"a", "b"})
    cleared = adapters.update("acme", "triage", tags=[], owner="", by="bob")
    assert (cleared.owner, cleared.description, cleared.tags) == ("", "new", frozenset())
    with pytest.raises(StaleGeneration):
        adapters.update("acme", "triage", owner="x", expected_etag="1", by="bob")
    with pytest.raises(NotFound):
        adapters.update("rival", "triage", owner="x", by="bob")


def test_creating_an_adapter_twice_is_told(tiny):
    from loradock.registry.errors import AlreadyExists, RequestReused

    adapters = tiny.registry.adapters
    made = adapters.create("acme", "triage", by="ann", request_id="r")
    assert adapters.create("acme", "triage", by="ann", request_id="r") == made
    with pytest.raises(AlreadyExists):
        adapters.create("acme", "triage", by="ann")
    with pytest.raises(RequestReused):
        adapters.create("acme", "other", by="ann", request_id="r")


def test_evaluations_are_kept_whole_and_listed(stocked):
    evaluations = stocked.registry.evaluations
    latest = evaluations.list("acme").items
    assert [(e.adapter, e.version_number) for e in latest] == [
        (None, None),
        ("triage", 2),
        ("triage", 1),
        ("triage", 1),
    ]
    read = evaluations.get("acme", latest[1].id)
    assert read == latest[1]
    assert [metric.name for metric in read.metrics] == ["loss", "accuracy"]
    assert read.cost == {"tokens": 12.0, "seconds": 0.5}
    assert (read.base_name, read.base_digests) == ("tiny", stocked.base.digests)
    assert len(evaluations.list("acme", adapter="triage", version_number=1).items) == 2
    assert len(evaluations.list("acme", suite="other").items) == 0
    assert len(evaluations.list("acme", base="tiny", page_size=3).items) == 3
    with pytest.raises(NotFound):
        evaluations.get("rival", read.id)
    with pytest.raises(NotFound):
        record(stocked, 9)
    with pytest.raises(InvalidArgument):
        record(stocked, 1, base_digests=tiny_base("b").digests)
    with pytest.raises(InvalidArgument):
        record(stocked, 1, float("inf"))


def test_a_repeated_evaluation_request_is_one_record(tiny):
    tiny.publish()
    first = record(tiny, 1, request_id="e")
    assert record(tiny, 1, request_id="e") == first
    assert len(tiny.registry.evaluations.list("acme").items) == 1
