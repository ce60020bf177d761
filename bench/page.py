"""Puts measured tables into docs/performance.md, between the marks of their sections."""

from __future__ import annotations

import datetime
import importlib.metadata
import subprocess
from collections.abc import Sequence
from pathlib import Path

import machine

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
PACKAGES = ("torch", "transformers", "peft")


def fill(section: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Replace a section's table; the text around it stays."""
    begin, end = f"<!-- {section}: begin -->\n", f"<!-- {section}: end -->\n"
    before, rest = PAGE.read_text().split(begin)
    _, after = rest.split(end)
    rule = ["---", *["---:"] * (len(head) - 1)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))
    PAGE.write_text(f"{before}{begin}{_provenance()}\n\n{table}{end}{after}")


def _provenance() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    command = ["git", "describe", "--always"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return f"{machine.describe()}; {versions}; {datetime.date.today()}; commit {commit}."
