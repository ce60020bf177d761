"""Who may call, as a file says it: everybody's subject, project, roles and token's hash.

    [[caller]]
    subject = "ann"
    project = "default"
    roles = ["view", "publish", "infer"]
    token_sha256 = "9f86d081…"

The file holds no secret: tokens stand in it as their sha256, which for tokens drawn at random is
as good as any slower hash. Without `project` it is the server's, without `roles` all of them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loradock.registry.errors import InvalidName
from loradock.registry.names import check_name
from loradock.server.errors import StartRefused
from loradock.server.services.principal import ALL_ROLES, Caller, Principal, Role

FIELDS = {"subject", "project", "roles", "token_sha256"}
MAX_SUBJECT_CHARS = 128


def read_callers(file: Path, project: str) -> tuple[Caller, ...]:
    """Read a callers file; `project` is of those who name none. Raises `StartRefused`, with all."""
    try:
        told = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise StartRefused(f"callers_file: {file}: {error}") from error
    entries = told.get("caller", [])
    if told.keys() - {"caller"} or not isinstance(entries, list) or not entries:
        raise StartRefused(f"callers_file: {file} has to be a list of [[caller]], and no more")
    problems = [
        *_problems(entries),
        *_shared(entries, "subject"),
        *_shared(entries, "token_sha256"),
    ]
    if problems:
        raise StartRefused("\n".join(f"callers_file: {problem}" for problem in problems))
    return tuple(_caller(entry, project) for entry in entries)


def _caller(entry: Mapping[str, Any], project: str) -> Caller:
    roles = frozenset(map(Role, entry["roles"])) if "roles" in entry else ALL_ROLES
    principal = Principal(entry.get("project", project), entry["subject"], roles)
    return Caller(bytes.fromhex(entry["token_sha256"]), principal)


def _problems(entries: list[Any]) -> Iterator[str]:
    for at, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            yield f"caller {at} is no table"
            continue
        who = f"caller {at}"
        if unknown := sorted(entry.keys() - FIELDS):
            yield f"{who}: {', '.join(unknown)} is none of {', '.join(sorted(FIELDS))}"
        subject = entry.get("subject")
        if not _is_subject(subject):
            yield f"{who}: subject has to be a name of up to {MAX_SUBJECT_CHARS} characters"
        if not re.fullmatch(r"[0-9a-f]{64}", str(entry.get("token_sha256", ""))):
            yield f"{who}: token_sha256 has to be 64 hexadecimal digits: the token's sha256"
        yield from _unknown_roles(who, entry.get("roles", []))
        try:
            check_name("project", entry.get("project", "default"))
        except InvalidName as error:
            yield f"{who}: {error}"


def _is_subject(subject: object) -> bool:
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARS:
        return False
    return subject.isprintable() and subject not in ("anonymous", "token")


def _unknown_roles(who: str, roles: object) -> Iterator[str]:
    known = [role.value for role in Role]
    if not isinstance(roles, list):
        yield f"{who}: roles has to be a list"
    elif unknown := [role for role in roles if role not in known]:
        yield f"{who}: of roles, {', '.join(map(str, unknown))} is none of {', '.join(known)}"


def _shared(entries: list[Any], name: str) -> Iterator[str]:
    values = [str(entry[name]) for entry in entries if isinstance(entry, dict) and name in entry]
    for value in sorted({value for value in values if values.count(value) > 1}):
        shown = "" if name == "token_sha256" else f" {value!r}"
        yield f"two callers have the same {name}{shown}"
