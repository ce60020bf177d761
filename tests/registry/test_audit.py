"""The audit log: append-only, chained, and what was done to it behind its back is found (X4)."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, text

from loradock.registry.audit_chain import GENESIS
from loradock.registry.catalog.journal import Deed, record_deed
from loradock.registry.catalog.schema import downgrade, upgrade
from loradock.registry.errors import Immutable


@pytest.fixture
def log(tiny):
    """Ten events, of two projects."""
    audit = tiny.registry.audit
    while audit.verify().num_events < 10:
        number = audit.verify().num_events
        project = ("acme", "rival")[number % 2]
        audit.append(project, "ann", "test.do", f"thing {number}", "why ünd wie", {"n": "1"})
    return tiny


def database(tiny):
    return tiny.registry.versions._database


def behind_its_back(tiny, statement):
    """Do what only the database's owner can do."""
    store = database(tiny)

    def work(c):
        if store.path is None:
            c.execute(text("SET LOCAL session_replication_role = replica"))
        else:
            for act in ("update", "delete", "insert"):
                c.execute(text(f"DROP TRIGGER IF EXISTS tr_audit_events_{act}"))
        c.execute(text(statement))

    store.write(work)


def breaks(tiny, known=None):
    return [(b.sequence, b.what) for b in tiny.registry.audit.verify(known).breaks]


def test_the_same_request_is_in_the_log_once(tiny):
    def append(reason, request_id):
        return tiny.registry.audit.append(
            "acme", "ann", "test.do", "thing", reason, request_id=request_id
        )

    first, again, other = append("a", "id-1"), append("a retry", "id-1"), append("b", "id-2")
    assert again == first
    assert other.sequence == first.sequence + 1
    assert breaks(tiny) == []


@pytest.mark.contract("X4")
def test_x4_the_database_refuses_to_change_the_log(log):
    for statement in (
        "UPDATE audit_events SET reason = 'another'",
        "UPDATE audit_events SET hash = ''",
        "DELETE FROM audit_events WHERE sequence = 10",
    ):
        with pytest.raises(Immutable):
            database(log).write(lambda c, statement=statement: c.execute(text(statement)))
    assert breaks(log) == []


@pytest.mark.contract("X4")
def test_x4_a_whole_log_is_found_whole_and_tells_its_head(log):
    report = log.registry.audit.verify()
    assert (report.num_events, report.head_sequence, report.breaks) == (10, 10, ())
    newest = log.registry.audit.list("rival").items[0]
    assert (newest.sequence, newest.hash) == (10, report.head_hash)
    assert breaks(log, (10, report.head_hash)) == []
    log.registry.audit.append("acme", "ann", "test.do", "more", "")
    assert breaks(log, (10, report.head_hash)) == []


@pytest.mark.contract("X4")
@pytest.mark.parametrize(
    "change",
    [
        "subject = 'mallory'",
        "reason = ''",
        "at = at + 1",
        "project = 'other'",
        "resource = resource || '!'",
        "action = 'test.undo'",
        """details = '{"n":"2"}'""",
        f"hash = '{GENESIS}'",
        "hash = NULL",
    ],
)
def test_x4_an_edited_row_is_found(log, change):
    behind_its_back(log, f"UPDATE audit_events SET {change} WHERE sequence = 5")
    found = breaks(log)
    assert (5, "edited") in found
    assert set(found) <= {(5, "edited"), (6, "edited")}  # 6, where 5's own hash was changed


@pytest.mark.contract("X4")
@pytest.mark.parametrize("gone", [1, 5, 10])
def test_x4_a_missing_row_is_found_the_first_and_the_last_too(log, gone):
    behind_its_back(log, f"DELETE FROM audit_events WHERE sequence = {gone}")
    assert breaks(log) == [(gone, "missing")]


@pytest.mark.contract("X4")
def test_x4_rows_that_changed_places_are_found(log):
    columns = "at, project, subject, action, resource, reason, details, hash"
    swap = f"INSERT INTO audit_events (sequence, {columns}) SELECT 1000, {columns}"
    behind_its_back(log, f"{swap} FROM audit_events WHERE sequence = 4")
    behind_its_back(log, "DELETE FROM audit_events WHERE sequence = 4")
    behind_its_back(log, "UPDATE audit_events SET sequence = 4 WHERE sequence = 5")
    behind_its_back(log, "UPDATE audit_events SET sequence = 5 WHERE sequence = 1000")
    assert {4, 5} <= {sequence for sequence, _ in breaks(log)}


@pytest.mark.contract("X4")
def test_x4_a_log_written_anew_is_found_by_who_noted_its_head(log):
    """Who owns the database can chain another story; not one that ends in a hash kept elsewhere."""
    noted = (8, next(e.hash for e in log.registry.audit.list("rival").items if e.sequence == 8))
    behind_its_back(log, "DELETE FROM audit_events WHERE sequence >= 7")
    behind_its_back(log, "UPDATE counters SET value = 6 WHERE name = 'audit'")
    assert breaks(log) == []
    assert breaks(log, noted) == [(8, "missing")]
    for number in range(3):
        log.registry.audit.append("rival", "mallory", "test.do", f"lie {number}", "")
    assert breaks(log) == []
    assert breaks(log, noted) == [(8, "rewritten")]


@pytest.mark.contract("X4")
def test_x4_events_of_racing_writers_are_one_chain(log):
    def write(i):
        log.registry.audit.append("acme", f"writer {i}", "test.do", "x", "")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    report = log.registry.audit.verify()
    assert (report.num_events, report.breaks) == (34, ())


@pytest.mark.contract("X4")
def test_x4_what_was_there_before_the_chain_is_chained(log):
    before = log.registry.audit.verify()
    downgrade(database(log), "0003")
    upgrade(database(log))
    assert log.registry.audit.verify() == before
    with pytest.raises(Immutable):
        database(log).write(lambda c: c.execute(text("UPDATE audit_events SET reason = ''")))


def test_a_long_log_is_followed_page_by_page(lite):
    def work(c):
        for number in range(2100):
            record_deed(c, Deed("acme", "ann", "test.do", str(number)))

    database(lite).write(work)
    report = lite.registry.audit.verify()
    assert report.num_events == report.head_sequence == 2101 and report.breaks == ()
    behind_its_back(lite, "DELETE FROM audit_events WHERE sequence > 1500")
    assert breaks(lite)[0] == (1501, "missing")
    assert len(breaks(lite)) < 101


@pytest.mark.contract("X4")
def test_x4_what_is_appended_while_the_log_is_verified_is_not_missed(tiny):
    tiny.publish()
    appended: list[str] = []

    def append(connection, cursor, statement, *rest):
        if "audit_events.hash" in statement and "sequence >" in statement and not appended:
            appended.append("meanwhile")
            tiny.registry.audit.append("acme", "ann", "test", "triage", "meanwhile")

    engine = database(tiny).engine
    event.listen(engine, "after_cursor_execute", append)
    try:
        report = tiny.registry.audit.verify()
    finally:
        event.remove(engine, "after_cursor_execute", append)
    assert appended
    assert report.breaks == ()
