"""What an adapter_config.json says of modules, ranks and scalings, read as PEFT 0.21 reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from loradock.registry.config_keys import key_problems
from loradock.registry.errors import Problem
from loradock.registry.limits import Limits
from loradock.registry.patterns import Budget, PatternRefused, full_match, suffix_match
from loradock.registry.strict_json import parse_json

CONFIG = "adapter_config.json"
ALL_LINEAR = "all-linear"
_MAX_LAYERS_PATTERNS = 100  # each is tried on each module, without a budget
_PLAIN_LAYERS = re.compile(r"[A-Za-z0-9_.]{1,100}")
_SIMPLE = re.compile(r"[A-Za-z0-9_\-]{1,200}(\.[A-Za-z0-9_\-]{1,200}){0,30}")


Number = TypeVar("Number", int, float)


class MalformedConfig(Exception):
    """The config can't be served, for every reason listed."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(problem.message for problem in problems))


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of a config that a forward pass depends on. Methods may raise PatternRefused."""

    rank: int
    alpha: float
    use_rslora: bool
    targets: str | tuple[str, ...]  # a pattern, or names; ALL_LINEAR means what the file has
    excluded: str | tuple[str, ...]
    layers: tuple[int, ...] | None
    layers_patterns: tuple[str, ...]
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    budget: Budget

    @property
    def is_all_linear(self) -> bool:
        """Whether the targets are all linear modules but the output layer."""
        return isinstance(self.targets, str) and self.targets.lower() == ALL_LINEAR

    def is_target(self, module: str) -> bool:
        """Say whether the config means a module of the base."""
        if self.is_excluded(module):
            return False
        if self.is_all_linear:
            return True
        if isinstance(self.targets, str):
            return full_match(self.targets, module, self.budget)
        return _is_named(module, self.targets) and self._is_in_layers(module)

    def is_excluded(self, module: str) -> bool:
        """Say whether the config leaves a module out by name."""
        if isinstance(self.excluded, str):
            return bool(self.excluded) and full_match(self.excluded, module, self.budget)
        return _is_named(module, self.excluded)

    def rank_of(self, module: str) -> int:
        """Give a module's rank: the first pattern that fits, or the general one."""
        return self._first(self.ranks, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """Give a module's scaling."""
        alpha = self._first(self.alphas, module, self.alpha)
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def _first(self, patterns: Mapping[str, Number], module: str, default: Number) -> Number:
        for pattern, value in patterns.items():
            if _SIMPLE.fullmatch(pattern):
                self.budget.spend(1)
                if _is_suffix(pattern, module):
                    return value
            elif suffix_match(pattern, module, self.budget):
                return value
        return default

    def _is_in_layers(self, module: str) -> bool:
        if self.layers is None:
            return True
        index = _layer_index(module, self.layers_patterns)
        return index is not None and index in self.layers


def read_config(content: bytes, limits: Limits) -> LoraConfig:
    """Read a config; MalformedConfig lists everything that is wrong with it."""
    document = _parse(content, limits)
    problems = key_problems(document)
    budget = Budget()
    fields = _Fields(document, limits, problems, budget)
    config = LoraConfig(
        rank=fields.rank("r", document.get("r", 8)),
        alpha=fields.alpha("lora_alpha", document.get("lora_alpha", 8)),
        use_rslora=fields.flag("use_rslora"),
        targets=fields.names("target_modules"),
        excluded=fields.names("exclude_modules"),
        layers=fields.layers(),
        layers_patterns=fields.layers_patterns(),
        ranks=fields.patterns("rank_pattern", fields.rank),
        alphas=fields.patterns("alpha_pattern", fields.alpha),
        budget=budget,
    )
    if not config.targets:
        problems.append(_wrong("target_modules", "names no module"))
    if isinstance(config.targets, str) and config.layers is not None:
        problems.append(_wrong("layers_to_transform", "needs target_modules to be a list"))
    if problems:
        raise MalformedConfig(problems)
    return config


def _parse(content: bytes, limits: Limits) -> dict[str, Any]:
    if len(content) > limits.max_config_bytes:
        message = f"has {len(content)} bytes; the limit is {limits.max_config_bytes}"
        raise MalformedConfig([Problem(CONFIG, "CONFIG_TOO_LARGE", message)])
    try:
        document = parse_json(content)
    except ValueError as error:
        message = f"is not JSON: {error!s:.200}"
        raise MalformedConfig([Problem(CONFIG, "CONFIG_MALFORMED", message)]) from None
    if not isinstance(document, dict):
        raise MalformedConfig([Problem(CONFIG, "CONFIG_MALFORMED", "is not a JSON object")])
    return document


@dataclass(frozen=True, slots=True)
class _Fields:
    """Reads a document's fields; problems are noted, and a harmless value comes back."""

    document: Mapping[str, Any]
    limits: Limits
    problems: list[Problem]
    budget: Budget

    def rank(self, key: str, value: object) -> int:
        if type(value) is int and 0 < value <= self.limits.max_rank:
            return value
        self._add(key, f"is {value!r:.40}, which is no rank in 1..{self.limits.max_rank}")
        return 1

    def alpha(self, key: str, value: object) -> float:
        if isinstance(value, int | float) and type(value) is not bool and 0 < abs(value) < 1e9:
            return float(value)
        self._add(key, f"is {value!r:.40}, which is no alpha that scales anything")
        return 1.0

    def flag(self, key: str) -> bool:
        value = self.document.get(key)
        if value is not None and not isinstance(value, bool):
            self._add(key, "is neither true nor false")
        return bool(value)

    def names(self, key: str) -> str | tuple[str, ...]:
        value = self.document.get(key)
        if value is None:
            return ()
        if isinstance(value, str):
            return self._pattern(key, value)
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self._add(key, "is neither a pattern nor a list of names")
            return ()
        return tuple(value) if self._is_short(key, value) else ()

    def layers(self) -> tuple[int, ...] | None:
        value = self.document.get("layers_to_transform")
        listed = [value] if type(value) is int else value
        if listed is None or listed == []:
            return None
        if not isinstance(listed, list) or not all(type(i) is int and i >= 0 for i in listed):
            self._add("layers_to_transform", "is neither a layer's index nor a list of them")
            return None
        return tuple(listed) if self._is_short("layers_to_transform", listed) else None

    def layers_patterns(self) -> tuple[str, ...]:
        value = self.document.get("layers_pattern")
        listed = [value] if isinstance(value, str) else (value or [])
        if not isinstance(listed, list) or not all(
            isinstance(name, str) and (not name or _PLAIN_LAYERS.fullmatch(name)) for name in listed
        ):
            self._add("layers_pattern", "is neither a plain name nor a list of them")
            return ()
        named = tuple(name for name in listed if name)
        return named if self._is_short("layers_pattern", named, _MAX_LAYERS_PATTERNS) else ()

    def patterns(self, key: str, read: Callable[[str, object], Any]) -> dict[str, Any]:
        value = self.document.get(key) or {}
        if not isinstance(value, dict) or len(value) > self.limits.max_patterns:
            self._add(key, f"is no map of at most {self.limits.max_patterns} patterns")
            return {}
        return {
            self._pattern(key, pattern): read(f"{key}[{pattern!r:.100}]", number)
            for pattern, number in value.items()
        }

    def _is_short(self, key: str, entries: Sequence[object], most: int | None = None) -> bool:
        most = self.limits.max_patterns if most is None else most
        if len(entries) > most:
            self._add(key, f"has {len(entries)} entries; the limit is {most}")
        return len(entries) <= most

    def _pattern(self, key: str, pattern: str) -> str:
        if len(pattern) > self.limits.max_pattern_chars:
            most = self.limits.max_pattern_chars
            self._add(key, f"has a pattern of {len(pattern)} characters; the limit is {most}")
            return ""
        if _SIMPLE.fullmatch(pattern) or (key == "target_modules" and pattern == ALL_LINEAR):
            return pattern
        try:
            full_match(pattern, "", self.budget)
        except PatternRefused as error:
            self._add(key, f"{pattern!r:.100} {error}")
        return pattern

    def _add(self, key: str, message: str) -> None:
        self.problems.append(_wrong(key, message))


def _wrong(key: str, message: str) -> Problem:
    return Problem(key, "CONFIG_VALUE_WRONG", message)


def _is_named(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _is_suffix(name: str, module: str) -> bool:
    """Say whether a plain name ends a module's; a dot is any character, as in PEFT's patterns."""
    start = len(module) - len(name)
    if start < 0 or (start > 0 and module[start - 1] != "."):
        return False
    end = module[start:]
    return end == name or (
        "." in name and all(a in (".", b) for a, b in zip(name, end, strict=True))
    )


def _layer_index(module: str, patterns: tuple[str, ...]) -> int | None:
    if not patterns:
        found = re.match(r".*?\.[^.]*\.(\d+)\.", module)
        return int(found[1]) if found else None
    for pattern in patterns:
        found = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module)
        if found:
            return int(found[1])
    return None
