"""Publishing: content is identity, numbers are counted, READY never changes."""

import dataclasses
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from tiny_evaluations import record
from tiny_registry import TinyRegistry, digest, tiny_base

from loradock.registry.catalog.tables import metadata
from loradock.registry.errors import (
    AlreadyExists,
    Immutable,
    NotAdmitted,
    NotFound,
    RequestReused,
    StillReferenced,
)
from loradock.registry.manifest import digest_bytes, parse_manifest
from loradock.registry.names import parse_reference
from loradock.registry.registry import open_registry
from loradock.registry.resources import (
    BlobRef,
    Dataset,
    Decoding,
    Delta,
    Heartbeat,
    Lineage,
    Profile,
    Residency,
    VersionState,
)

PROFILE = Profile(
    template="Label this: {{ content }}\n",
    system="You label.",
    labels=("billing", "bug"),
    decoding=Decoding(max_tokens=8, temperature=0.0, top_p=1.0, stop=("\n",)),
)
LINEAGE = Lineage(
    datasets=(Dataset("b", digest("b")), Dataset("a", digest("a"))),
    training={"lr": 1e-4, "epochs": 3, "run": "r1", "packed": True, "note": None},
)


@pytest.mark.contract("R1")
def test_r1_same_content_is_the_same_version_and_sends_nothing(tiny):
    first = tiny.publish(profile=PROFILE, lineage=LINEAGE)
    refs = [first.version.delta.weights, first.version.delta.config]
    assert tiny.registry.blobs.find_missing("acme", refs) == []

    again = tiny.publish(profile=PROFILE, lineage=LINEAGE, by="somebody else")
    assert first.created and not again.created
    assert again.version == first.version
    assert tiny.registry.adapters.get("acme", "triage").num_versions == 1


@pytest.mark.contract("R1")
def test_r1_digest_covers_content_alone(tiny):
    version = tiny.version(profile=PROFILE, lineage=LINEAGE)
    elsewhere = tiny.version("other", profile=PROFILE, lineage=LINEAGE, by="bob")
    assert elsewhere.digest == version.digest
    assert (elsewhere.adapter, elsewhere.created_by) != (version.adapter, version.created_by)

    manifest = tiny.registry.versions.manifest(version)
    assert digest_bytes(manifest) == version.digest
    stored = b"".join(tiny.registry.blobs.read("acme", version.digest))
    assert stored == manifest
    for outside in (b"triage", b"acme", b"ann", str(version.created_at.year).encode()):
        assert outside not in manifest


@pytest.mark.contract("R1")
def test_r1_each_part_of_the_content_counts(lite):
    digests = {
        lite.version().digest,
        lite.version(seed=1).digest,
        lite.version(profile=Profile(system="x")).digest,
        lite.version(profile=Profile(decoding=Decoding(temperature=0.5))).digest,
        lite.version(lineage=LINEAGE).digest,
        lite.version(delta=lite.delta(alpha=16)).digest,
    }
    assert len(digests) == 6


@pytest.mark.contract("R1")
def test_r1_order_of_sets_and_kind_of_numbers_do_not_count(lite):
    turned = dataclasses.replace(
        LINEAGE, datasets=LINEAGE.datasets[::-1], training={**LINEAGE.training, "epochs": 3.0}
    )
    assert lite.version(lineage=LINEAGE).digest == lite.version(lineage=turned).digest


def test_version_reads_back_as_it_was_published(tiny):
    version = tiny.version(profile=PROFILE, lineage=LINEAGE)
    read = tiny.registry.versions.get("acme", "triage", version.number)
    assert read == version
    assert read.profile == PROFILE
    assert read.lineage.training == LINEAGE.training
    assert set(read.lineage.datasets) == set(LINEAGE.datasets)
    assert read.base.name == "tiny" and read.max_rank == 4
    parsed = parse_manifest(tiny.registry.versions.manifest(read))
    assert (parsed.delta, parsed.profile) == (read.delta, read.profile)


@pytest.mark.contract("R1")
def test_r1_racing_publishes_of_one_content_make_one_version(tiny):
    delta = tiny.delta()
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda _: tiny.publish(delta=delta), range(8)))
    assert sum(p.created for p in published) == 1
    assert {p.version.number for p in published} == {1}


def _publish_many(tiny, count):
    deltas = [tiny.delta(seed) for seed in range(count)]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda delta: tiny.publish(delta=delta).version.number, deltas))


@pytest.mark.contract("R2")
def test_r2_concurrent_publishes_get_consecutive_numbers(tiny):
    assert sorted(_publish_many(tiny, 24)) == list(range(1, 25))


@pytest.mark.prove
@pytest.mark.contract("R2")
def test_r2_two_hundred_concurrent_publishes(tiny, record_property):
    started = time.perf_counter()
    assert sorted(_publish_many(tiny, 200)) == list(range(1, 201))
    rate = 200 / (time.perf_counter() - started)
    record_property("publishes a second, uploads among them", f"{rate:.0f}")


PUBLISHER = """
import sys
from loradock.registry.registry import open_registry
from tiny_registry import TinyRegistry
database_url, blob_url, first, count = sys.argv[1:]
registry = open_registry(database_url, blob_url)
tiny = TinyRegistry(registry)
print("ready", flush=True)
sys.stdin.readline()
for seed in range(int(first), int(first) + int(count)):
    print(tiny.publish(seed=seed).version.number, flush=True)
registry.close()
"""


@pytest.mark.contract("R2")
def test_r2_processes_share_a_catalog(tiny, database_url, blob_url):
    command = [sys.executable, "-c", PUBLISHER, database_url, blob_url]
    env = {"PYTHONPATH": ":".join(sys.path)}
    children: list[Any] = []
    for i in range(3):
        options: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        children.append(subprocess.Popen([*command, str(10 * i), "8"], env=env, **options))
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    said = []
    for child in children:
        said += child.communicate()[0].split()
        assert child.returncode == 0
    assert sorted(map(int, said)) == list(range(1, 25))


VERSION_CHANGES = [
    f"digest = '{digest('x')}'",
    f"weights_digest = '{digest('x')}'",
    "weights_size = 1",
    f"config_digest = '{digest('x')}'",
    "base_id = base_id + 1",
    "profile = '{}'",
    "lineage = '{}'",
    "modules = '[]'",
    "max_rank = 1",
    "number = 9",
    "created_by = 'mallory'",
    "created_at = 0",
    "state = 'draft'",
]
REWRITES = [
    "DELETE FROM versions",
    "UPDATE base_models SET weights = structural",
    "DELETE FROM base_models",
    "UPDATE lineage_edges SET kind = 'base'",
    "DELETE FROM lineage_edges",
    "DELETE FROM lineage_nodes",
    "UPDATE alias_moves SET reason = ''",
    "DELETE FROM alias_moves",
    "UPDATE evaluation_metrics SET value = 1",
    "DELETE FROM evaluations",
    "UPDATE audit_events SET subject = 'nobody'",
    "DELETE FROM audit_events",
]


@pytest.mark.contract("R3")
def test_r3_the_database_refuses_to_change_a_version(tiny):
    version = tiny.version(profile=PROFILE, lineage=LINEAGE)
    for change in VERSION_CHANGES:
        with pytest.raises(Immutable):
            _execute(tiny, f"UPDATE versions SET {change}")
    assert tiny.registry.versions.get("acme", "triage", 1) == version


@pytest.mark.contract("R3")
def test_r3_the_database_refuses_to_rewrite_history(tiny):
    tiny.version(lineage=LINEAGE)
    tiny.point(1)
    record(tiny, 1)
    for statement in REWRITES:
        with pytest.raises(Immutable):
            _execute(tiny, statement)


@pytest.mark.contract("R3")
def test_r3_sqlite_refuses_to_replace_a_row(lite):
    """`INSERT OR REPLACE` takes a row away without a DELETE that a trigger would see."""
    version = lite.version(profile=PROFILE, lineage=LINEAGE)
    lite.point(1)
    record(lite, 1)
    replaced = {
        "versions": "max_rank",
        "alias_moves": "reason",
        "evaluations": "harness",
        "evaluation_metrics": "value",
        "audit_events": "subject",
        "base_models": "description",
        "lineage_nodes": "label",
    }
    for table, column in replaced.items():
        before = _rows(lite, table)
        columns = [c.name for c in metadata.tables[table].columns]
        new = ", ".join("'9'" if name == column else name for name in columns)
        statement = f"INSERT OR REPLACE INTO {table} SELECT {new} FROM {table}"
        with suppress(Immutable):
            _execute(lite, statement)
        assert _rows(lite, table) == before, table
    by_digest = f"INSERT OR REPLACE INTO versions SELECT 99, adapter_id, 9, {_AFTER_NUMBER}"
    with pytest.raises(Immutable):
        _execute(lite, by_digest + " FROM versions")
    assert lite.registry.versions.get("acme", "triage", 1) == version


_AFTER_NUMBER = ", ".join([c.name for c in metadata.tables["versions"].columns][3:])


def _rows(tiny, table):
    with tiny.registry.versions._database.read() as c:
        return [tuple(row) for row in c.execute(text(f"SELECT * FROM {table}"))]


def _execute(tiny, statement):
    tiny.registry.versions._database.write(lambda c: c.execute(text(statement)))


@pytest.mark.contract("R3")
def test_r3_a_version_moves_between_states_only_as_drawn(tiny):
    tiny.version()
    versions = tiny.registry.versions
    yanked = versions.yank("acme", "triage", 1, reason="bad data", by="bob")
    assert (yanked.state, yanked.state_reason) == (VersionState.YANKED, "bad data")
    assert versions.unyank("acme", "triage", 1, reason="", by="bob").state is VersionState.READY
    versions.delete("acme", "triage", 1, by="bob")
    assert versions.get("acme", "triage", 1).state is VersionState.DELETED
    for move in (versions.yank, versions.unyank):
        with pytest.raises(Immutable):
            move("acme", "triage", 1, reason="", by="bob")
    with pytest.raises(Immutable):
        _execute(tiny, "UPDATE versions SET state = 'ready'")


def test_deleted_content_may_come_again_under_a_new_number(tiny):
    tiny.version()
    tiny.registry.versions.delete("acme", "triage", 1, by="bob")
    again = tiny.publish()
    assert (again.created, again.version.number) == (True, 2)
    assert tiny.registry.adapters.get("acme", "triage").num_versions == 1


def test_deleted_adapter_keeps_its_numbers(tiny):
    tiny.version()
    with pytest.raises(StillReferenced):
        tiny.registry.adapters.delete("acme", "triage", by="bob")
    tiny.registry.versions.delete("acme", "triage", 1, by="bob")
    tiny.registry.adapters.delete("acme", "triage", by="bob")
    with pytest.raises(NotFound):
        tiny.registry.adapters.get("acme", "triage")
    assert tiny.version(seed=1).number == 2


def test_r9_a_server_refers_to_an_adapters_version_and_not_to_anothers_like_it(tiny):
    version = tiny.version()
    for adapter in ("triage", "another"):
        told = Residency(version.digest, "resident", 10, 0, project="acme", adapter=adapter)
        tiny.registry.fleet.beat(
            Heartbeat(
                server_id="server-1",
                address="127.0.0.1:1",
                base_name="tiny",
                base_digests=tiny.base.digests,
                sequence=3,
                residencies=(told,),
                divergences=(),
                started_at=version.created_at,
            )
        )
        if adapter == "triage":
            with pytest.raises(StillReferenced, match="server server-1"):
                tiny.registry.versions.delete("acme", "triage", 1, by="bob")
    tiny.registry.versions.delete("acme", "triage", 1, by="bob")


def test_delete_names_what_refers_to_a_version(tiny):
    versions = [tiny.version(seed=seed) for seed in range(4)]
    tiny.version(seed=5, lineage=Lineage(parents=(versions[2].digest,)))
    tiny.point(1)
    tiny.point(2, 1)
    heartbeat = Heartbeat(
        server_id="server-1",
        address="127.0.0.1:1",
        base_name="tiny",
        base_digests=tiny.base.digests,
        sequence=3,
        residencies=(Residency(versions[3].digest, "resident", 10, 0),),
        divergences=("why",),
        started_at=versions[0].created_at,
    )
    tiny.registry.fleet.beat(heartbeat)
    tiny.registry.fleet.beat(heartbeat)
    referrers = {}
    for number in range(1, 5):
        with pytest.raises(StillReferenced) as caught:
            tiny.registry.versions.delete("acme", "triage", number, by="bob")
        referrers[number] = caught.value.referrers
    assert referrers == {
        1: ("alias triage:production (a rollback would go there)",),
        2: ("alias triage:production",),
        3: ("child triage@5",),
        4: ("server server-1",),
    }
    (seen,) = tiny.registry.fleet.list()
    assert dataclasses.replace(seen, seen_at=None) == heartbeat
    assert tiny.registry.fleet.list(seen_within_s=-5) == []
    tiny.registry.fleet.forget("server-1")
    tiny.registry.versions.delete("acme", "triage", 4, by="bob")


def test_a_server_that_never_said_goodbye_is_forgotten(tiny):
    def beat(server_id):
        tiny.registry.fleet.beat(
            Heartbeat(server_id, "", "tiny", tiny.base.digests, 0, (), (), datetime.now(UTC))
        )

    for server_id in ("old", "recent"):
        beat(server_id)
    _execute(tiny, "UPDATE heartbeats SET seen_at = 1 WHERE server_id = 'old'")
    beat("new")
    seen = tiny.registry.fleet.list(seen_within_s=1e9)
    assert [found.server_id for found in seen] == ["new", "recent"]


def test_request_id_gives_the_same_outcome_or_is_refused(tiny):
    delta, other = tiny.delta(), tiny.delta(1)
    first = tiny.publish(delta=delta, request_id="r-1")
    assert tiny.publish(delta=delta, request_id="r-1") == first
    assert first.created
    with pytest.raises(RequestReused):
        tiny.publish(delta=other, request_id="r-1")
    assert not tiny.publish(delta=delta, request_id="r-2").created
    with pytest.raises(RequestReused):
        tiny.point(1, request_id="r-1")


def test_validate_only_changes_nothing(tiny):
    delta = tiny.delta()
    before = tiny.registry.reader.latest_sequence()
    would = tiny.publish(delta=delta, validate_only=True, request_id="r-1")
    assert (would.created, would.version.number) == (True, 1)
    with pytest.raises(NotFound):
        tiny.registry.adapters.get("acme", "triage")
    assert tiny.registry.reader.latest_sequence() == before
    assert tiny.publish(delta=delta, request_id="r-1").version.number == 1


def test_publish_needs_the_bytes_and_the_adapter(tiny):
    delta = tiny.delta()
    absent = Delta(BlobRef(digest("nothing"), 7), delta.config)
    with pytest.raises(NotFound, match="blob"):
        tiny.publish(delta=absent)
    with pytest.raises(NotFound, match="adapter"):
        tiny.publish(delta=delta, create_adapter=False)
    with pytest.raises(NotFound, match="base"):
        tiny.publish(delta=delta, base="unknown")
    with pytest.raises(NotFound, match="blob"):
        TinyRegistry(tiny.registry, "rival").publish(delta=delta)


def test_parents_are_of_the_project(tiny):
    rival = TinyRegistry(tiny.registry, "rival")
    theirs = rival.version()
    with pytest.raises(NotAdmitted) as caught:
        tiny.version(lineage=Lineage(parents=(theirs.digest,)))
    assert [problem.code for problem in caught.value.problems] == ["PARENT_UNKNOWN"]


def test_a_parent_is_not_deleted_while_its_child_is_born(tiny):
    """Of a publish and the deletion of its parent, in another adapter, one comes to nothing."""
    parents = [tiny.version("elder", seed=seed) for seed in range(12)]
    deltas = [tiny.delta(seed) for seed in range(100, 112)]

    def give_birth(parent, delta):
        try:
            return tiny.version(delta=delta, lineage=Lineage(parents=(parent.digest,)))
        except NotAdmitted:
            return None

    def delete(parent):
        try:
            tiny.registry.versions.delete("acme", "elder", parent.number, by="bob")
        except StillReferenced:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        for parent, delta in zip(parents, deltas, strict=True):
            birth = pool.submit(give_birth, parent, delta)
            assert pool.submit(delete, parent).result() is (birth.result() is None)


def test_a_publish_finds_its_adapter_whoever_deletes_it(tiny):
    deltas = [tiny.delta(seed) for seed in range(12)]

    def delete(name):
        with suppress(StillReferenced):
            tiny.registry.adapters.delete("acme", name, by="bob")

    with ThreadPoolExecutor(2) as pool:
        for i, delta in enumerate(deltas):
            tiny.registry.adapters.create("acme", f"a-{i}", by="ann")
            deletion = pool.submit(delete, f"a-{i}")
            assert pool.submit(tiny.version, f"a-{i}", delta=delta).result().number == 1
            deletion.result()
            assert tiny.registry.adapters.get("acme", f"a-{i}").num_versions == 1


def test_the_same_content_is_not_admitted_twice(tiny, tmp_path):
    """A push again asks for no bytes: not of the caller, and not of the store."""
    delta = tiny.delta()
    first = tiny.publish(delta=delta)
    name = delta.weights.digest.removeprefix("sha256:")
    (tmp_path / "blobs" / "blobs" / "sha256" / name[:2] / name).unlink()
    assert tiny.publish(delta=delta, request_id="r-1").version == first.version


def test_resolve_each_form_of_a_reference(tiny):
    version = tiny.version()
    reader = tiny.registry.reader
    tiny.point(1)
    for written in (
        "triage",
        "triage:production",
        "triage@1",
        f"triage@{version.digest}",
        "acme/triage",
    ):
        assert reader.resolve("acme", parse_reference(written)).version == version
    assert reader.resolve("acme", parse_reference("triage")).generation == 1
    assert reader.resolve("acme", parse_reference("triage@1")).alias is None
    for unknown in ("other", "triage:staging", "triage@2", f"triage@{digest('x')}", "rival/triage"):
        with pytest.raises(NotFound):
            reader.resolve("acme", parse_reference(unknown))


def test_bases_are_known_by_their_digests(tiny):
    bases = tiny.registry.bases
    again, created = bases.register(tiny_base(), by="bob")
    assert (again, created) == (tiny.base, False)
    assert bases.by_digests(tiny.base.digests) == bases.get("tiny") == tiny.base
    assert bases.by_digests(tiny_base("b").digests) is None
    with pytest.raises(AlreadyExists):
        bases.register(dataclasses.replace(tiny_base("b"), name="tiny"), by="bob")
    with pytest.raises(AlreadyExists):
        bases.register(dataclasses.replace(tiny_base(), name="b"), by="bob")
    bases.register(tiny_base("b"), by="bob")
    first = bases.list(page_size=1)
    rest = bases.list(page_size=1, page_token=first.next_page_token)
    assert [base.name for base in (*first.items, *rest.items)] == ["b", "tiny"]
    assert rest.next_page_token == ""


def test_changes_are_read_in_order_without_a_gap(tiny, database_url, blob_url):
    deltas = [tiny.delta(seed) for seed in range(12)]
    seen, last = [], 0
    other = open_registry(database_url, blob_url)
    nudges = []
    tiny.registry.on_commit(lambda: nudges.append(1))
    with ThreadPoolExecutor(6) as pool:
        running = [
            pool.submit(tiny.publish, f"adapter-{i % 3}", delta=delta)
            for i, delta in enumerate(deltas)
        ]
        while not all(future.done() for future in running) or (
            last < other.reader.latest_sequence()
        ):
            for change in other.reader.changes_since(last, limit=3):
                seen.append(change.sequence)
                last = change.sequence
    other.close()
    assert seen == list(range(1, len(seen) + 1))
    assert len(nudges) == 12
