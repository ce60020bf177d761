"""Aliases and their moves to messages, and etags back to generations."""

from __future__ import annotations

from loradock.registry import resources as nouns
from loradock.registry.errors import InvalidArgument
from loradock.registry.split import Split
from loradock.server.services import names
from loradock.server.services.convert_registry import timestamp
from loradock.v1 import resources_pb2 as wire

_KINDS = {
    nouns.MoveKind.SET: wire.MOVE_KIND_SET,
    nouns.MoveKind.ROLLBACK: wire.MOVE_KIND_ROLLBACK,
    nouns.MoveKind.DELETE: wire.MOVE_KIND_DELETE,
    nouns.MoveKind.SPLIT: wire.MOVE_KIND_SPLIT,
}


def alias(noun: nouns.Alias) -> wire.Alias:
    """Write an alias; its etag is its generation as text."""
    return wire.Alias(
        name=names.alias_name(noun.project, noun.adapter, noun.name),
        version_number=noun.version_number,
        version_digest=noun.version_digest,
        previous_number=noun.previous_number,
        previous_digest=noun.previous_digest,
        etag=str(noun.generation),
        generation=noun.generation,
        moved_by=noun.moved_by,
        moved_at=timestamp(noun.moved_at),
        split=None if noun.split is None else split_message(noun.split),
    )


def split_message(noun: Split) -> wire.Split:
    """Write how an alias's requests are shared out."""
    return wire.Split(
        candidate_number=noun.candidate_number,
        candidate_digest=noun.candidate_digest,
        weight_basis_points=noun.weight,
        shadow_basis_points=noun.shadow,
        salt=noun.salt,
    )


def alias_move(noun: nouns.AliasMove) -> wire.AliasMove:
    """Write one line of an alias's ledger."""
    return wire.AliasMove(
        generation=noun.generation,
        kind=_KINDS[noun.kind],
        version_number=noun.version_number,
        version_digest=noun.version_digest,
        moved_by=noun.moved_by,
        reason=noun.reason,
        moved_at=timestamp(noun.moved_at),
        split=None if noun.split is None else split_message(noun.split),
    )


def read_etag(etag: str) -> int | None:
    """Give the generation that an etag stands for; None for none."""
    if not etag:
        return None
    if not (etag.isascii() and etag.isdecimal() and len(etag) < 19):
        raise InvalidArgument("etag", "is not one that this registry gave out")
    return int(etag)


def read_needed_etag(etag: str) -> int:
    """Give the generation that an etag stands for; there must be one."""
    generation = read_etag(etag)
    if generation is None:
        raise InvalidArgument("etag", "is needed: give the alias's, as you last read it")
    return generation
