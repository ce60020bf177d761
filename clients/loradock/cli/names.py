"""What is written on a command line: an alias, a version, a metric filter."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loradock.cli.refusal import CommandError

if TYPE_CHECKING:
    from loradock.client import MetricFilter

MAX_NUMBER = 2**31 - 1  # of a version
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def split_alias(text: str) -> tuple[str, str]:
    """Take `support-triage:production` apart."""
    adapter, colon, alias = text.partition(":")
    if not adapter or not alias:
        raise CommandError(f"{text!r} names no alias", "write it as support-triage:production")
    return adapter, alias


def split_version(text: str) -> tuple[str, int]:
    """Take `support-triage@2` apart."""
    adapter, at, number = text.partition("@")
    if not adapter or not number.isdecimal():
        raise CommandError(f"{text!r} names no version", "write it as support-triage@2")
    return adapter, int(number)


def version_number(text: str) -> int:
    """Read `2` or `@2`."""
    number = text.removeprefix("@")
    if not number.isdecimal() or int(number) > MAX_NUMBER:
        raise CommandError(f"{text!r} is no version number", "write it as 2")
    return int(number)


def dataset_digest(text: str) -> str:
    """Give the digest of a rows file, or the digest that was given."""
    if text.startswith("sha256:"):
        return text
    path = Path(text)
    if not path.is_file():
        raise CommandError(f"there is no file {path}", "give the rows file, or sha256:<hex>")
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def seconds_of(text: str | None) -> float | None:
    """Read `90`, `90s`, `30m`, `12h` or `7d`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not found:
        raise CommandError(f"{text!r} is no time", "write it as 90s, 30m, 12h or 7d")
    return float(found[1]) * _UNITS[found[2]]


def stage(text: str) -> tuple[float, float]:
    """Read a stage's per cent and seconds: `10:30m`; without a time it is held ten minutes."""
    percent, _, hold = text.partition(":")
    found = re.fullmatch(r"(\d+(?:\.\d{1,2})?)%?", percent)
    if not found:
        raise CommandError(f"{text!r} is no stage", "write it as PERCENT:HOLD, as in 10:30m")
    if float(found[1]) > 100:
        raise CommandError(f"{text!r}: {found[1]} % is more than 100 %")
    return float(found[1]), seconds_of(hold or "10m") or 0.0


def metric_filter(text: str | None) -> MetricFilter | None:
    """Read `heldout:accuracy>=0.9`."""
    from loradock.client import MetricFilter

    if text is None:
        return None
    found = re.fullmatch(r"([^:]+):([^<>=]+)(>=|<=)(-?\d+(?:\.\d+)?)", text)
    if not found:
        raise CommandError(
            f"{text!r} is no metric filter", "write it as SUITE:METRIC>=0.9 or SUITE:METRIC<=0.1"
        )
    suite, metric, sign, value = found.groups()
    comparison: Literal["at_least", "at_most"] = "at_least" if sign == ">=" else "at_most"
    return MetricFilter(suite, metric, comparison, float(value))
