"""Aliases: movable names for versions, moved by compare-and-set, with their whole history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from loradock.registry.catalog import ledger
from loradock.registry.catalog.adapters import adapter_id
from loradock.registry.catalog.database import Database
from loradock.registry.catalog.demands import demands_of
from loradock.registry.catalog.gate import (
    Wanted,
    check_protection,
    incumbent_of,
    is_within_window,
    report_of,
)
from loradock.registry.catalog.journal import Deed, record_change, record_deed
from loradock.registry.catalog.pages import AnyRow, fetch_page, page, page_request
from loradock.registry.catalog.requests import Request
from loradock.registry.catalog.rollout_rows import end_of_moved
from loradock.registry.catalog.tables import adapters, alias_moves, aliases, versions
from loradock.registry.catalog.versions import (
    all_versions,
    check_resolvable,
    row_by_number,
)
from loradock.registry.errors import (
    EvalGateFailed,
    InvalidArgument,
    NotFound,
    NothingToRollBack,
    StaleGeneration,
    VersionYanked,
)
from loradock.registry.limits import Limits
from loradock.registry.names import check_name, check_number, check_text
from loradock.registry.policy import GateCheck
from loradock.registry.resources import Alias, AliasMove, MoveKind, Page, VersionState
from loradock.registry.steps import reached


@dataclass(frozen=True, slots=True)
class _Name:
    project: str
    adapter: str
    alias: str

    def __post_init__(self) -> None:
        check_name("project", self.project)
        check_name("adapter", self.adapter)
        check_name("alias", self.alias)

    def __str__(self) -> str:
        return f"{self.adapter}:{self.alias}"


@dataclass(frozen=True, slots=True)
class _Move:
    """A move that somebody wants: who, why, and from where he thinks he moves it."""

    name: _Name
    kind: MoveKind
    expected: int
    by: str
    reason: str
    override_gate: bool
    may_move_protected: bool


_Moved = tuple[int, Sequence[GateCheck]]  # the new generation, and what was overridden for it
_Act = Callable[[Connection, ledger.Entry], _Moved]


class Aliases:
    """What callers ask for by name."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def set(
        self,
        project: str,
        adapter: str,
        alias: str,
        *,
        version_number: int,
        expected_generation: int | None,
        reason: str = "",
        by: str,
        request_id: str = "",
        validate_only: bool = False,
        override_gate: bool = False,
        may_move_protected: bool = False,
    ) -> Alias:
        """Point an alias at a version. To expect nothing, or 0, is to create it.

        The version has to meet the alias's policy (EvalGateFailed); `override_gate` moves it all
        the same, for a reason, and the audit log keeps what was not met. An alias that its policy
        protects is moved, back too, and deleted with `may_move_protected` only (AliasProtected).
        """
        check_number("version_number", version_number)
        name, expected = _Name(project, adapter, alias), expected_generation
        may = may_move_protected
        move = self._wanted(name, MoveKind.SET, expected, by, reason, override_gate, may)

        def act(c: Connection, top: ledger.Entry) -> _Moved:
            version = row_by_number(c, project, adapter, version_number)
            check_resolvable(version)
            overridden = _pass_gate(c, move, top, version)
            beneath = ledger.beneath_of_set(c, top, version.id)
            generation = ledger.append(c, top, move.kind, version.id, beneath, by, reason)
            return generation, overridden

        request = _request(move, request_id, version_number=version_number)
        if validate_only:
            return self._database.rehearse(lambda c: _move(c, move, request, act))
        return self._commit(move, request, act)

    def rollback(
        self,
        project: str,
        adapter: str,
        alias: str,
        *,
        expected_generation: int,
        reason: str = "",
        by: str,
        request_id: str = "",
        override_gate: bool = False,
        may_move_protected: bool = False,
    ) -> Alias:
        """Walk the ledger back by one. Twice walks back twice; it never toggles.

        To a version that was live within the policy's window it needs no evaluations.
        """
        name, expected = _Name(project, adapter, alias), expected_generation
        may = may_move_protected
        move = self._wanted(name, MoveKind.ROLLBACK, expected, by, reason, override_gate, may)

        def act(c: Connection, top: ledger.Entry) -> _Moved:
            if top.version_id is None:
                raise NotFound("alias", str(name))
            if top.beneath is None:
                raise NothingToRollBack(str(name))
            target = ledger.entry(c, top.alias_id, top.beneath)
            overridden = _pass_gate(c, move, top, _target(c, project, target.version_id))
            generation = ledger.append(
                c, top, move.kind, target.version_id, target.beneath, by, reason
            )
            return generation, overridden

        return self._commit(move, _request(move, request_id), act)

    def delete(
        self,
        project: str,
        adapter: str,
        alias: str,
        *,
        expected_generation: int,
        reason: str = "",
        by: str,
        may_move_protected: bool = False,
    ) -> None:
        """Let an alias point nowhere. Its history stays, and its generations go on."""
        name, expected = _Name(project, adapter, alias), expected_generation
        may = may_move_protected
        move = self._wanted(name, MoveKind.DELETE, expected, by, reason, False, may)

        def work(c: Connection) -> None:
            top = ledger.lock_top(c, project, adapter, alias)
            if top.version_id is None:
                raise NotFound("alias", str(name))
            _check_generation(move, top)
            _check_protection(c, move, top)
            generation = ledger.append(c, top, move.kind, None, None, by, reason)
            _record(c, move, generation, ())
            end_of_moved(c, top, None, by, move.kind)

        self._database.write(work)

    def get(self, project: str, adapter: str, alias: str) -> Alias:
        """Give an alias as it stands."""
        name = _Name(project, adapter, alias)
        with self._database.read() as c:
            return standing(c, name.project, name.adapter, name.alias)

    def list(
        self, project: str, adapter: str, page_size: int = 50, page_token: str = ""
    ) -> Page[Alias]:
        """List an adapter's aliases by name."""
        check_name("project", project)
        check_name("adapter", adapter)
        request = page_request(str, ["aliases", project, adapter], page_size, page_token)
        with self._database.read() as c:
            mine = aliases.c.adapter_id == adapter_id(c, project, adapter)
            rows, token = fetch_page(
                c, ledger.standing(project).where(mine), request, aliases.c.name
            )
        return page(rows, token, ledger.read_alias)

    def history(
        self, project: str, adapter: str, alias: str, page_size: int = 50, page_token: str = ""
    ) -> Page[AliasMove]:
        """List an alias's moves, newest first, also those before it was deleted."""
        name = _Name(project, adapter, alias)
        request = page_request(int, ["history", project, str(name)], page_size, page_token)
        with self._database.read() as c:
            mine = alias_moves.c.alias_id == ledger.alias_id(c, project, adapter, alias)
            generation = alias_moves.c.generation
            rows, token = fetch_page(
                c, ledger.moves().where(mine), request, generation, newest_first=True
            )
        return page(rows, token, ledger.read_move)

    def at(self, project: str, adapter: str, alias: str, time: datetime) -> AliasMove | None:
        """Give the move that was in force at a time; None before the first."""
        _Name(project, adapter, alias)
        if time.tzinfo is None:
            raise InvalidArgument("time", "has no time zone")
        with self._database.read() as c:
            mine = alias_moves.c.alias_id == ledger.alias_id(c, project, adapter, alias)
            query = ledger.moves().where(mine, alias_moves.c.moved_at <= time)
            row = c.execute(query.order_by(alias_moves.c.generation.desc()).limit(1)).one_or_none()
        return None if row is None else ledger.read_move(row)

    def _commit(self, move: _Move, request: Request, act: _Act) -> Alias:
        alias = self._database.write(lambda c: _move(c, move, request, act))
        reached("alias.committed")
        return alias

    def _wanted(
        self,
        name: _Name,
        kind: MoveKind,
        expected: int | None,
        by: str,
        reason: str,
        override_gate: bool,
        may_move_protected: bool,
    ) -> _Move:
        check_text("reason", reason, self._limits.max_text_chars)
        check_text("by", by, 256)
        if override_gate and not reason.strip():
            raise InvalidArgument("reason", "is needed to override a policy: it is audited")
        expected = check_number("expected_generation", expected or 0)
        return _Move(name, kind, expected, by, reason, override_gate, may_move_protected)


def standing(
    c: Connection, project: str, adapter: str, alias: str, generation: int | None = None
) -> Alias:
    """Give an alias as it stands, or as it stood at a generation."""
    query = ledger.standing(project, generation).where(
        adapters.c.name == adapter, aliases.c.name == alias
    )
    row = c.execute(query).one_or_none()
    if row is None:
        raise NotFound("alias", f"{adapter}:{alias}")
    return ledger.read_alias(row)


def _move(
    c: Connection,
    move: _Move,
    request: Request,
    act: _Act,
) -> Alias:
    name = move.name
    earlier = request.earlier_outcome(c)
    if earlier is not None:
        return standing(c, name.project, name.adapter, name.alias, earlier["generation"])
    top = ledger.lock_top(c, name.project, name.adapter, name.alias)
    _check_generation(move, top)
    _check_protection(c, move, top)
    generation, overridden = act(c, top)
    request.settle(c, generation=generation)
    _record(c, move, generation, overridden)
    pointed = ledger.entry(c, top.alias_id, generation).version_id
    end_of_moved(c, top, pointed, move.by, move.kind)
    reached("alias.written")
    return standing(c, name.project, name.adapter, name.alias)


def _check_generation(move: _Move, top: ledger.Entry) -> None:
    if move.expected != top.live_generation:
        raise StaleGeneration(str(move.name), move.expected, top.live_generation)


def _check_protection(c: Connection, move: _Move, top: ledger.Entry) -> None:
    demands = demands_of(c, top.alias_id)
    check_protection(demands, str(move.name), may_move_protected=move.may_move_protected)


def _pass_gate(
    c: Connection, move: _Move, top: ledger.Entry, version: AnyRow
) -> Sequence[GateCheck]:
    """Raise EvalGateFailed unless the policy is met, or overridden: then give what is not met."""
    demands = demands_of(c, top.alias_id)
    if move.kind is MoveKind.ROLLBACK and is_within_window(c, top, demands.rollback_window_s):
        return ()
    incumbent_id, movers = incumbent_of(c, top), frozenset({move.by})
    wanted = Wanted(move.name.project, top.alias_id, version.id, incumbent_id, movers)
    report = report_of(c, demands, wanted)
    if report.passed or move.override_gate:
        return report.failures
    raise EvalGateFailed(f"{version.adapter}@{version.number}", str(move.name), report.checks)


def _target(c: Connection, project: str, version_id: int | None) -> AnyRow:
    row = c.execute(all_versions(project).where(versions.c.id == version_id)).one()
    if row.state == VersionState.DELETED.value:
        raise VersionYanked(f"{row.adapter}@{row.number}", "it was deleted; set the alias instead")
    if row.state == VersionState.YANKED.value:
        reason = f"{row.state_reason or 'no reason given'} (the alias can't roll back to it)"
        raise VersionYanked(f"{row.adapter}@{row.number}", reason)
    return row


def _record(c: Connection, move: _Move, generation: int, overridden: Sequence[GateCheck]) -> None:
    name = move.name
    record_change(c, "alias", name.project, name.adapter, name.alias)
    details = {"generation": str(generation)}
    if overridden:
        unmet = [f"{check.subject} {check.code}: {check.message}" for check in overridden]
        details |= {"gate": "overridden", "unmet": "; ".join(unmet)}
    action = f"alias.{move.kind.value}"
    record_deed(c, Deed(name.project, move.by, action, str(name), move.reason, details))


def _request(move: _Move, request_id: str, **more: object) -> Request:
    payload = {
        "do": f"alias.{move.kind.value}",
        "name": str(move.name),
        "expected": move.expected,
        "reason": move.reason,
        "override_gate": move.override_gate,
        **more,
    }
    return Request(move.name.project, request_id, payload)
