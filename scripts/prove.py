"""Run the full-size proofs and write what they showed to docs/proofs.md.

A proof is a test marked `prove`; its figures are what it calls `record_property(name, value)` with.
A proof that failed or was skipped leaves the page as it was.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "proofs.md"


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
    rows = [_row(case) for case in report.iter("testcase")]
    when = f"on {datetime.date.today()}, at commit {_commit()}, on {_machine()}"
    lines = [
        "# Proofs at full size",
        "",
        f"Written by `make prove` {when}.",
        "",
        "| promise | proof | seconds | figures |",
        "| --- | --- | --- | --- |",
        *sorted(rows),
        "",
    ]
    return "\n".join(lines)


def _skipped(report: ET.Element) -> list[str]:
    cases = report.iter("testcase")
    return [case.get("name", "") for case in cases if case.find("skipped") is not None]


def _row(case: ET.Element) -> str:
    figures = {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
    promise = figures.pop("contract", "")
    told = ", ".join(f"{name} {value}" for name, value in figures.items())
    return f"| {promise} | `{case.get('name')}` | {float(case.get('time', 0)):.1f} | {told} |"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _machine() -> str:
    return f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
