"""Base models: registered once, never changed, shared by all projects."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import ColumnElement, Connection, select

from loradock.registry.catalog.database import Database
from loradock.registry.catalog.journal import Deed, record_change, record_deed
from loradock.registry.catalog.pages import AnyRow, fetch_page, page, page_request
from loradock.registry.catalog.tables import base_models
from loradock.registry.catalog.types import insert_new, now
from loradock.registry.errors import AlreadyExists, InvalidArgument, NotFound
from loradock.registry.manifest import digests_to_json
from loradock.registry.names import check_digest, check_name, check_text
from loradock.registry.resources import BaseDigests, BaseModel, ModuleShape, Page

_MAX_MODULES = 100_000


class Bases:
    """What adapters are made for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[int, BaseModel] = {}  # rows never change

    def register(self, base: BaseModel, *, by: str) -> tuple[BaseModel, bool]:
        """Record a base. The same name and digests again change nothing."""
        _check(base)
        by = check_text("by", by, 256)
        return self._database.write(lambda c: self._register(c, base, by))

    def get(self, name: str) -> BaseModel:
        """Give the base of a name."""
        check_name("base", name)
        with self._database.read() as c:
            return self.by_id(c, id_of(c, name))

    def by_digests(self, digests: BaseDigests) -> BaseModel | None:
        """Give the base with these digests, if it is registered."""
        with self._database.read() as c:
            found = c.execute(select(base_models.c.id).where(_same(digests))).scalar_one_or_none()
            return None if found is None else self.by_id(c, found)

    def list(self, page_size: int = 50, page_token: str = "") -> Page[BaseModel]:
        """List bases by name."""
        request = page_request(str, ["bases"], page_size, page_token)
        with self._database.read() as c:
            rows, token = fetch_page(c, select(base_models), request, base_models.c.name)
        return page(rows, token, _read)

    def by_id(self, connection: Connection, base_id: int) -> BaseModel:
        """Give the base of a row; read once."""
        if base_id not in self._known:
            query = select(base_models).where(base_models.c.id == base_id)
            self._known[base_id] = _read(connection.execute(query).one())
        return self._known[base_id]

    def _register(self, c: Connection, base: BaseModel, by: str) -> tuple[BaseModel, bool]:
        if insert_new(c, base_models, _row(base, by)):
            record_change(c, "base", "", "", base.name)
            record_deed(c, Deed("", by, "base.register", base.name))
            return _read(_row_of(c, base.name)), True
        found = c.execute(
            select(base_models).where((base_models.c.name == base.name) | _same(base.digests))
        ).all()
        for row in found:
            known = _read(row)
            if known.name != base.name:
                raise AlreadyExists("base of the same digests under another name:", known.name)
            if known.digests != base.digests:
                raise AlreadyExists("base", known.name)
        return _read(found[0]), False


def id_of(connection: Connection, name: str) -> int:
    """Find a base's row."""
    query = select(base_models.c.id).where(base_models.c.name == name)
    found = connection.execute(query).scalar_one_or_none()
    if found is None:
        raise NotFound("base", name)
    return int(found)


def _row_of(connection: Connection, name: str) -> AnyRow:
    return connection.execute(select(base_models).where(base_models.c.name == name)).one()


def _same(digests: BaseDigests) -> ColumnElement[bool]:
    return (
        (base_models.c.structural == digests.structural)
        & (base_models.c.weights == digests.weights)
        & (base_models.c.tokenizer == digests.tokenizer)
    )


def _check(base: BaseModel) -> None:
    check_name("base", base.name)
    for field, digest in digests_to_json(base.digests).items():
        check_digest(f"digests.{field}", digest)
    check_text("architecture", base.architecture)
    check_text("description", base.description, 16 * 1024)
    if not 0 < len(base.modules) <= _MAX_MODULES:
        raise InvalidArgument("modules", f"has {len(base.modules)} entries")
    for name, shape in base.modules.items():
        check_text("modules", name, 512)
        if not name.isprintable():
            raise InvalidArgument("modules", f"{name!r} is no module's name")
        if min(shape.in_features, shape.out_features) < 1:
            raise InvalidArgument("modules", f"{name} has an empty shape")
    if not 0 < base.context_length < 2**31:
        raise InvalidArgument("context_length", f"{base.context_length} is not a length")
    if not 0 <= base.num_parameters < 2**63:
        raise InvalidArgument("num_parameters", f"{base.num_parameters} is not a number of them")


def _row(base: BaseModel, by: str) -> dict[str, object]:
    return {
        "name": base.name,
        **asdict(base.digests),
        "architecture": base.architecture,
        "modules": {n: [s.in_features, s.out_features] for n, s in base.modules.items()},
        "context_length": base.context_length,
        "num_parameters": base.num_parameters,
        "description": base.description,
        "created_by": by,
        "created_at": now(),
    }


def _read(row: AnyRow) -> BaseModel:
    return BaseModel(
        name=row.name,
        digests=BaseDigests(row.structural, row.weights, row.tokenizer),
        architecture=row.architecture,
        modules={name: ModuleShape(*shape) for name, shape in row.modules.items()},
        context_length=row.context_length,
        num_parameters=row.num_parameters,
        description=row.description,
        created_by=row.created_by,
        created_at=row.created_at,
    )
