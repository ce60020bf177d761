"""Bundles: the same digests, lineage and measurements on a host without network (R14, A4)."""

import io
import json
import shutil
import tarfile
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tiny_registry import TinyRegistry, digest

from loradock.registry.bundle import archive, exporting
from loradock.registry.bundle.index import INDEX_NAME
from loradock.registry.errors import (
    AliasProtected,
    DigestMismatch,
    EvalGateFailed,
    InvalidArgument,
    NotAdmitted,
    RegistryError,
)
from loradock.registry.policy import Demands, MetricDemand, SuiteDemand
from loradock.registry.registry import open_registry
from loradock.registry.resources import (
    Dataset,
    Direction,
    ItemScores,
    Lineage,
    Metric,
    Profile,
    VersionState,
)
from loradock.registry.search import MetricFilter
from loradock.registry.stores import blob_key


def evaluate(tiny, adapter, number, accuracy):
    return tiny.registry.evaluations.record(
        "acme",
        suite="heldout",
        dataset_digest=digest("rows"),
        base_name="tiny",
        adapter=adapter,
        version_number=number,
        metrics=[Metric("accuracy", accuracy, 4, 0.1, None)],
        items=ItemScores(("a", "b", "c", "d"), {"accuracy": (1.0, 1.0, 1.0, 4 * accuracy - 3)}),
        cost={"seconds": 1.5},
        harness="loradock 0",
        by="eva",
    )


def fill(tiny):
    """Two adapters: one grown from the other's first version, yanked in its second."""
    tiny.registry.adapters.create("acme", "triage", owner="ana", tags=("mail",), by="ana")
    parent = tiny.version("parent", seed=1)
    tiny.version("parent", seed=9)
    lineage = Lineage((parent.digest,), (Dataset("rows", digest("rows")),), {"seed": 1})
    tiny.version(seed=2, lineage=lineage, profile=Profile(system="Be brief."))
    other = tiny.version("other", seed=4)
    tiny.version(seed=3, lineage=replace(lineage, merge_of=(other.digest,)))
    tiny.registry.versions.yank("acme", "triage", 2, reason="leaks", by="ana")
    tiny.point(1)
    evaluate(tiny, "triage", 1, 0.75)
    evaluate(tiny, "triage", 1, 1.0)
    return tiny


@pytest.fixture
def source(lite):
    return fill(lite)


@pytest.fixture
def target(sqlite_template, tmp_path):
    """Another host, that has never heard of anything."""
    shutil.copy(sqlite_template, tmp_path / "target.db")
    place = f"file://{tmp_path}/target-blobs"
    with_registry = open_registry(f"sqlite:///{tmp_path}/target.db", place)
    yield with_registry
    with_registry.close()


def exported(tiny, *references, **options):
    return b"".join(tiny.registry.exporter.bundle("acme", references, **options))


def take(registry, content, **options):
    return registry.importer.take("dock", io.BytesIO(content), by="imp", **options)


def all_of(registry, project, name):
    listed = registry.versions.list(project, name, include_yanked=True).items
    return {v.digest: (v.state, v.state_reason, v.lineage, v.profile) for v in listed}


def measured(registry, project):
    blank = {"project": "", "base_name": "", "version_number": None}
    listed = registry.evaluations.list(project).items
    return [replace(registry.evaluations.get(project, one.id), **blank) for one in listed]


@pytest.mark.contract("R14")
def test_r14_an_import_gives_the_same_digests_lineage_and_evaluations(tiny, target):
    source = fill(tiny)
    content = exported(source, adapters=("triage",), with_aliases=True)
    planned = take(target, content, validate_only=True, with_aliases=True)
    assert [(v.source, v.reference, v.created) for v in planned.versions] == [
        ("parent@1", "", True),
        ("triage@1", "", True),
        ("other@1", "", True),
        ("triage@2", "", True),
    ]
    assert target.adapters.list("dock").items == []
    done = take(target, content, with_aliases=True)
    assert replace(done, versions=()) == replace(planned, versions=())
    assert (done.base_models, done.num_evaluations) == (("tiny",), 2)
    assert done.aliases == ("triage:production",)
    assert all_of(target, "dock", "triage") == all_of(source.registry, "acme", "triage")
    assert len(all_of(target, "dock", "parent")) == 1, "nothing that was not asked for"
    assert measured(target, "dock") == measured(source.registry, "acme")
    adapter = target.adapters.get("dock", "triage")
    assert (adapter.owner, adapter.tags) == ("ana", frozenset({"mail"}))
    assert target.aliases.get("dock", "triage", "production").version_number == 1
    assert target.versions.get("dock", "triage", 2).state is VersionState.YANKED
    for told in target.integrity.verify():
        assert told.damages == ()
    again = take(target, content, with_aliases=True)
    assert not any(version.created for version in again.versions)
    assert (again.base_models, again.num_evaluations, again.aliases) == ((), 0, ())


@pytest.mark.contract("R14")
def test_r14_all_aliases_go_along_though_they_are_many(source, target, monkeypatch):
    for name in ("canary", "staging"):
        source.registry.aliases.set(
            "acme", "triage", name, version_number=1, expected_generation=None, by="ana"
        )
    monkeypatch.setattr(exporting, "_PAGE", 2)
    done = take(
        target, exported(source, adapters=("triage",), with_aliases=True), with_aliases=True
    )
    assert done.aliases == ("triage:canary", "triage:production", "triage:staging")


@pytest.mark.contract("R14")
def test_r14_bundles_meet_what_is_there_already(source, target):
    """Under other numbers, with another name for the base, and in two projects of one registry."""
    tiny = TinyRegistry(target, "dock")
    tiny.version(seed=7)
    first = take(target, exported(source, "triage@1"))
    assert [version.reference for version in first.versions] == ["parent@1", "triage@2"]
    assert first.base_models == ()
    content = exported(source, "triage@1", "triage@2")
    second = take(target, content)
    assert [version.created for version in second.versions] == [False, False, True, True]
    other = target.importer.take("other", io.BytesIO(content), by="imp")
    assert other.num_evaluations == 2
    assert target.importer.take("other", io.BytesIO(content), by="imp").num_evaluations == 0


@pytest.mark.contract("R14")
def test_r14_any_tar_can_read_a_bundle(source, tmp_path):
    content = exported(source, adapters=("triage",))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        names = tar.getnames()
        assert names[0] == INDEX_NAME and len(names) == 10
        tar.extractall(tmp_path / "out", filter="data")
    for name in names[1:]:
        kept = (tmp_path / "out" / name).read_bytes()
        assert blob_key(digest(kept)) == name


def repacked(content, change):
    """Read a bundle's files, let them be changed, and write them again."""
    files = {m.name: b"".join(m.content) for m in archive.members(io.BytesIO(content))}
    files = change(files) or files
    parts = (archive.header(n, len(c)) + c + archive.padding(len(c)) for n, c in files.items())
    return b"".join(parts) + archive.END


def in_index(change):
    def changed(files):
        document = json.loads(files[INDEX_NAME])
        change(document)
        files[INDEX_NAME] = json.dumps(document).encode()

    return changed


def flip(files):
    name = list(files)[2]
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])


def drop(files):
    del files[list(files)[3]]


def add(files):
    files["../../etc/passwd"] = b"root"


def swap(files):
    first, *others = files
    return {name: files[name] for name in (first, *reversed(others))}


@pytest.mark.contract("A4")
@pytest.mark.contract("R14")
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (flip, DigestMismatch),
        (drop, InvalidArgument),
        (add, InvalidArgument),
        (swap, InvalidArgument),
        (in_index(lambda d: d.update(schema="loradock.bundle.v2")), InvalidArgument),
        (in_index(lambda d: d["versions"].clear() or d["blobs"].clear()), InvalidArgument),
        (in_index(lambda d: d["versions"].reverse()), NotAdmitted),
        (in_index(lambda d: d["bases"].clear()), InvalidArgument),
        (in_index(lambda d: d["blobs"][0].update(size_bytes=-1)), InvalidArgument),
        (in_index(lambda d: d["adapters"][0].update(name="../x")), RegistryError),
        (in_index(lambda d: d["evaluations"][0]["metrics"].clear()), InvalidArgument),
        (in_index(lambda d: d["evaluations"][0].update(adapter="other")), InvalidArgument),
        (in_index(lambda d: d["bases"][0]["modules"].clear()), RegistryError),
    ],
)
def test_a4_a_bundle_that_was_tampered_with_is_refused(source, target, change, kind):
    content = repacked(exported(source, "triage@1"), change)
    with pytest.raises(kind):
        take(target, content)
    assert target.versions.search("dock").items == []
    for told in target.integrity.verify():
        assert told.damages == ()


@pytest.mark.contract("R8")
def test_r8_an_imported_evaluation_grows_too_old_though_its_date_is_to_come(source, target):
    to_come = datetime(2999, 1, 1, tzinfo=UTC)

    def postdate(document):
        for evaluation in document["evaluations"]:
            evaluation["created_at_us"] = int(to_come.timestamp()) * 1_000_000

    take(target, repacked(exported(source, "triage@1"), in_index(postdate)))
    kept = target.evaluations.list("dock").items
    assert kept and all(one.created_at <= datetime.now(UTC) for one in kept)
    deeds = [deed for deed in target.audit.list("dock").items if deed.action == "evaluation.import"]
    assert {deed.details["recorded_at"] for deed in deeds} == {to_come.isoformat()}
    demands = Demands((SuiteDemand("heldout"),), max_age_s=0.0)
    key = ("dock", "triage", "production")
    target.policies.set(*key, demands, expected_revision=0, by="olga")
    with pytest.raises(EvalGateFailed) as refused:
        target.aliases.set(*key, version_number=1, expected_generation=None, by="ann")
    assert [check.code for check in refused.value.failures] == ["TOO_OLD"]


@pytest.mark.contract("R8")
@pytest.mark.parametrize("few", [500, 0])
def test_r8_an_older_evaluation_that_is_imported_later_hides_no_newer_one(
    tiny, target, monkeypatch, few
):
    monkeypatch.setattr("loradock.registry.catalog.filters.FEW_RECORDS", few)

    def newest_first(document):
        document["evaluations"].sort(key=lambda one: -one["created_at_us"])

    content = exported(fill(TinyRegistry(target)), "triage@1")
    take(tiny.registry, repacked(content, in_index(newest_first)))
    by_arrival = [one.metrics[0].value for one in tiny.registry.evaluations.list("dock").items]
    assert by_arrival == [0.75, 1.0]

    def found(op):
        metric = MetricFilter("heldout", "accuracy", op, 0.9)
        return [
            version.number for version in tiny.registry.versions.search("dock", metric=metric).items
        ]

    assert (found(">="), found("<=")) == ([1], [])
    demand = MetricDemand("accuracy", Direction.HIGHER, threshold=0.9)
    demands = Demands((SuiteDemand("heldout", metrics=(demand,)),))
    key = ("dock", "triage", "production")
    tiny.registry.policies.set(*key, demands, expected_revision=0, by="olga")
    tiny.registry.aliases.set(*key, version_number=1, expected_generation=None, by="ann")


def tar_with(kind, name, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(bytes(size)))
    return file.getvalue()


@pytest.mark.contract("A4")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(100),
        bytes(1024),
        b"PK\x03\x04" + bytes(2000),
        tar_with(tarfile.SYMTYPE, INDEX_NAME, "/etc/passwd"),
        tar_with(tarfile.LNKTYPE, INDEX_NAME, "x"),
        tar_with(tarfile.DIRTYPE, "folder"),
        tar_with(tarfile.CHRTYPE, INDEX_NAME),
        tar_with(tarfile.REGTYPE, "/etc/passwd", size=4),
        tar_with(tarfile.REGTYPE, "n" * 300, size=4),
        tar_with(tarfile.GNUTYPE_SPARSE, INDEX_NAME, size=4),
        archive.header(INDEX_NAME, 8**11 - 1),
        archive.header(INDEX_NAME, 2) + b"{}" + archive.padding(2) + archive.END,
        archive.header(INDEX_NAME, 2) + b"[]" + archive.padding(2) + archive.END + b"x",
        archive.header(INDEX_NAME, 90_000) + b"[" * 90_000 + archive.padding(90_000) + archive.END,
    ],
)
def test_a4_what_is_no_bundle_is_refused_and_leaves_nothing(target, content, tmp_path):
    with pytest.raises(InvalidArgument):
        take(target, content)
    assert target.adapters.list("dock").items == []
    staged = (tmp_path / "target-blobs" / "staging").rglob("*")
    assert [path for path in staged if path.is_file()] == []


@pytest.mark.contract("R14")
def test_r14_a_bundle_that_breaks_off_goes_on(source, target):
    content = exported(source, "triage@1")
    with pytest.raises(InvalidArgument, match="ends in the middle"):
        take(target, content[: len(content) * 2 // 3])
    done = take(target, content)
    assert [version.created for version in done.versions] == [True, True]


@pytest.mark.contract("R14")
def test_r14_what_was_yanked_there_is_never_ready_here_though_the_import_breaks_off(source, target):
    def die(*args, **options):
        raise KeyboardInterrupt

    content = exported(source, adapters=("triage",))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(target.versions, "yank", die)
        patched.setattr(target.importer._evaluations, "take", die)
        with pytest.raises(KeyboardInterrupt):
            take(target, content)
    yanked = target.versions.get("dock", "triage", 2)
    assert (yanked.state, yanked.state_reason) == (VersionState.YANKED, "leaks")
    deeds = [(e.action, e.resource, e.reason) for e in target.audit.list("dock").items]
    assert deeds.count(("version.yank", "triage@2", "leaks")) == 1
    target.versions.unyank("dock", "triage", 2, reason="mended", by="dora")
    take(target, content)
    assert target.versions.get("dock", "triage", 2).state is VersionState.READY


@pytest.mark.contract("R8")
def test_r8_a_bundle_moves_a_protected_alias_only_for_who_may(source, target):
    content = exported(source, adapters=("triage",), with_aliases=True)
    target.adapters.create("dock", "triage", by="dora")
    key = ("dock", "triage", "production")
    target.policies.set(*key, Demands(is_protected=True), expected_revision=0, by="olga")
    with pytest.raises(AliasProtected):
        take(target, content, with_aliases=True)
    assert take(target, content, with_aliases=True, may_move_protected=True).aliases


@pytest.mark.contract("R14")
def test_r14_nothing_is_exported_that_could_not_be_imported(source, monkeypatch):
    monkeypatch.setattr(exporting, "MAX_INDEX_BYTES", 1000)
    with pytest.raises(InvalidArgument, match="name fewer"):
        exported(source, "triage@1")


@pytest.mark.contract("R14")
def test_r14_damage_is_not_exported(source, tmp_path):
    version = source.registry.versions.get("acme", "triage", 1)
    path = tmp_path / "lite-blobs" / blob_key(version.delta.weights.digest)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DigestMismatch):
        exported(source, "triage@1")
    for references in ((), ("triage@9",), ("other/triage",), ("nobody",)):
        with pytest.raises(RegistryError):
            exported(source, *references)
