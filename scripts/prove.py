"""Run the full-size proofs and write what they showed to docs/proofs.md.

A proof is a test marked `prove`; its figures are what it calls `record_property(name, value)` with.
A proof that failed or was skipped leaves the page as it was.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "proofs.md"
FEW_CASES = 4  # whose figures are told one by one


def main() -> int:
    """Write the page if every proof ran and held; give the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "proofs.xml"
        command = [sys.executable, "-m", "pytest", "-m", "prove", "-q", f"--junitxml={report}"]
        status = subprocess.run([*command, *sys.argv[1:]], cwd=ROOT).returncode
        if status != 0:
            return status
        cases = ET.parse(report).getroot()
        if skipped := _skipped(cases):
            print(f"not proven, so nothing was written: {', '.join(skipped)}")
            return 1
        PAGE.write_text(_page(cases))
    return 0


def _page(report: ET.Element) -> str:
    proofs: dict[str, list[ET.Element]] = {}
    for case in report.iter("testcase"):
        proofs.setdefault(case.get("name", "").partition("[")[0], []).append(case)
    when = f"on {datetime.date.today()}, at commit {_commit()}, on {_machine()}"
    lines = [
        "# Proofs at full size",
        "",
        f"Written by `make prove` {when}.",
        "",
        "| promise | proof | cases | seconds | figures |",
        "| --- | --- | --- | --- | --- |",
        *sorted(_row(name, cases) for name, cases in proofs.items()),
        "",
    ]
    return "\n".join(lines)


def _skipped(report: ET.Element) -> list[str]:
    cases = report.iter("testcase")
    return [case.get("name", "") for case in cases if case.find("skipped") is not None]


def _row(name: str, cases: list[ET.Element]) -> str:
    seconds = sum(float(case.get("time", 0)) for case in cases)
    promises = {_properties(case).get("contract", "") for case in cases}
    few = len(cases) <= FEW_CASES
    figures = "; ".join(filter(None, map(_figures, cases))) if few else _spans(cases)
    told = " ".join(sorted(promises))
    return f"| {told} | `{name}` | {len(cases)} | {seconds:.1f} | {figures} |"


def _figures(case: ET.Element) -> str:
    """Give what one case recorded, behind its parameters."""
    figures = [f"{k} {v}" for k, v in _properties(case).items() if k != "contract"]
    _, _, parameters = case.get("name", "").rstrip("]").partition("[")
    return f"{parameters}: {', '.join(figures)}".removeprefix(": ") if figures else ""


def _spans(cases: list[ET.Element]) -> str:
    """Give each figure of many cases from its lowest to its highest."""
    found: dict[str, list[str]] = {}
    for case in cases:
        for name, value in _properties(case).items():
            found.setdefault(name, []).append(value)
    found.pop("contract", None)
    return ", ".join(f"{name} {_span(values)}" for name, values in found.items())


def _span(values: list[str]) -> str:
    if not all(re.fullmatch(r"-?\d+(\.\d+)?", value) for value in values):
        return " or ".join(sorted(set(values)))
    low, high = min(values, key=float), max(values, key=float)
    return low if low == high else f"{low} to {high}"


def _properties(case: ET.Element) -> dict[str, str]:
    return {p.get("name", ""): p.get("value", "") for p in case.iter("property")}


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _machine() -> str:
    return f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
