"""Resource names: `projects/{project}/adapters/{adapter}/versions/{number}` and its kin."""

from __future__ import annotations

from loradock.registry.errors import InvalidName
from loradock.registry.names import MAX_NUMBER, Reference, check_name, parse_reference
from loradock.server.services.call import current_call
from loradock.server.services.principal import Role


def project_of(name: str, role: Role) -> str:
    """Take `projects/{project}` apart; the caller must have the role there."""
    (project,) = _parts("parent", name, "projects/{project}")
    return _allowed(project, role)


def adapter_of(name: str, role: Role) -> tuple[str, str]:
    """Give project and adapter of an adapter's name."""
    pattern = "projects/{project}/adapters/{adapter}"
    project, adapter = _parts("adapter", name, pattern)
    return _allowed(project, role), check_name("adapter", adapter)


def version_of(name: str, role: Role) -> tuple[str, str, int]:
    """Give project, adapter and number of a version's name."""
    project, adapter, number = version_parts(name)
    return _allowed(project, role), adapter, number


def version_parts(name: str) -> tuple[str, str, int]:
    """Take a version's name apart without asking who calls."""
    pattern = "projects/{project}/adapters/{adapter}/versions/{number}"
    project, adapter, number = _parts("version", name, pattern)
    if not (number.isascii() and number.isdecimal() and 0 < int(number[:11]) <= MAX_NUMBER):
        raise InvalidName("version", name[:200], pattern)
    return check_name("project", project), check_name("adapter", adapter), int(number)


def alias_of(name: str, role: Role) -> tuple[str, str, str]:
    """Give project, adapter and alias of an alias's name."""
    pattern = "projects/{project}/adapters/{adapter}/aliases/{alias}"
    project, adapter, alias = _parts("alias", name, pattern)
    return _allowed(project, role), check_name("adapter", adapter), check_name("alias", alias)


def policy_of(name: str, role: Role) -> tuple[str, str, str]:
    """Give project, adapter and alias of a policy's name."""
    pattern = "projects/{project}/adapters/{adapter}/aliases/{alias}/policy"
    project, adapter, alias = _parts("policy", name, pattern)
    return _allowed(project, role), check_name("adapter", adapter), check_name("alias", alias)


def rollout_of(name: str, role: Role) -> tuple[str, str, str]:
    """Give project, adapter and alias of a rollout's name."""
    pattern = "projects/{project}/adapters/{adapter}/aliases/{alias}/rollout"
    project, adapter, alias = _parts("rollout", name, pattern)
    return _allowed(project, role), check_name("adapter", adapter), check_name("alias", alias)


def evaluation_of(name: str, role: Role) -> tuple[str, str]:
    """Give project and id of an evaluation's name."""
    pattern = "projects/{project}/evaluations/{evaluation}"
    project, evaluation = _parts("evaluation", name, pattern)
    return _allowed(project, role), evaluation


def base_of(name: str) -> str:
    """Give the id of a base's name."""
    (base,) = _parts("base model", name, "baseModels/{base}")
    return check_name("base model", base)


def optional_base_of(name: str) -> str:
    """Give the id of a base's name; empty where none is named."""
    return base_of(name) if name else ""


def reference_of(text: str, project: str) -> tuple[str, Reference]:
    """Read a reference; it may name its own project, which must be one the caller may see."""
    reference = parse_reference(text)
    if reference.project is not None and reference.project != project:
        current_call().principal.require(Role.VIEW, reference.project)
    return reference.project or project, reference


def adapter_name(project: str, adapter: str) -> str:
    """Spell an adapter."""
    return f"projects/{project}/adapters/{adapter}"


def version_name(project: str, adapter: str, number: int) -> str:
    """Spell a version."""
    return f"projects/{project}/adapters/{adapter}/versions/{number}"


def alias_name(project: str, adapter: str, alias: str) -> str:
    """Spell an alias."""
    return f"projects/{project}/adapters/{adapter}/aliases/{alias}"


def policy_name(project: str, adapter: str, alias: str) -> str:
    """Spell an alias's policy."""
    return f"{alias_name(project, adapter, alias)}/policy"


def rollout_name(project: str, adapter: str, alias: str) -> str:
    """Spell an alias's rollout."""
    return f"{alias_name(project, adapter, alias)}/rollout"


def evaluation_name(project: str, evaluation: str) -> str:
    """Spell an evaluation."""
    return f"projects/{project}/evaluations/{evaluation}"


def base_name(base: str) -> str:
    """Spell a base."""
    return f"baseModels/{base}"


def _allowed(project: str, role: Role) -> str:
    check_name("project", project)
    current_call().principal.require(role, project)
    return project


def _parts(kind: str, name: str, pattern: str) -> list[str]:
    """Match a name with its pattern; collections must be equal, ids must not be empty."""
    given, wanted = name.split("/"), pattern.split("/")
    if len(given) != len(wanted):
        raise InvalidName(kind, name[:200], pattern)
    ids = []
    for part, want in zip(given, wanted, strict=True):
        if want.startswith("{") and part:
            ids.append(part)
        elif part != want:
            raise InvalidName(kind, name[:200], pattern)
    return ids
