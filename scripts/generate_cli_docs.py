"""Write docs/cli.md from the CLI itself: its commands, its exit codes, its JSON.

    python scripts/generate_cli_docs.py

A test fails when the page is stale.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import loradock.client
from loradock.cli.command import GIVES
from loradock.cli.main import app
from loradock.cli.server_top import ServerRates, VersionRates
from loradock.cli.suite_run import SuiteResult

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

HEAD = """\
# The CLI

Written by scripts/generate_cli_docs.py from the CLI itself.

`loradock [connection] NOUN VERB …`. Data goes to stdout, talk to stderr. On a terminal lists are
tables; off it they are aligned text without colour or animation, and nothing is ever asked. With
`--json` a command gives one JSON document, and an error is one line of JSON on stderr:
`{"error": {"message", "exit_code", "hint", "reason", "metadata", "request_id", "retry_after_s",
"problems"}}`. Fields may be added to the JSON; none is renamed or removed within a major release.

## Exit codes

| code | means |
| --- | --- |
| 0 | done |
| 1 | failed: a fault of the server or of the CLI, a message over a size limit, or no was answered |
| 2 | usage: the command line, a suite file or a request that can't be right |
| 3 | not found |
| 4 | no token, or not allowed |
| 5 | conflict: the name is taken, or somebody else was first |
| 6 | refused by the state of things: not admitted, another base, yanked, still referred to |
| 7 | bytes do not hash to what was promised |
| 8 | nobody answers, not in time, or no room now; also an alias that moved but isn't followed yet |
| 130 | interrupted |

## Contributed commands

`serve`, `migrate`, `backup`, `restore` and `base register` run on a server's host and come with
`loradock[server]`; without it they say so. docs/operations.md has how to use them. Any package can
add commands by the entry-point group `loradock.commands`.

## Evaluation suites

`eval run` reads a suite file in TOML:

| key | means |
| --- | --- |
| name | the suite's name, under which it is recorded |
| rows | JSON lines of `{"input", "expected"}`, beside the suite file; else `heldout.jsonl` |
| scorer | `label` (first line, stripped, case aside), `exact` (stripped), `json` (parsed) |
| mode | `generate` (greedy) or `classify`; `generate` unless named |
| base_template | what the bare base is asked instead of the input, around `{{ content }}` |
| labels | what is chosen from in mode `classify`; without them, a version's own |
| max_tokens | how long an answer may be |

Recorded are `accuracy`, or for `json` `object_accuracy` (the whole object is right) and
`field_accuracy` (the mean share of right fields, over those that are expected or given). Shares
carry Wilson's 95 % interval, the mean a percentile bootstrap's (2000 resamples, seeded). The
dataset digest is the sha256 of the rows file; with `--limit` that of the lines that were used. Cost
is tokens (prompt and answer) and seconds (wall clock of the run). All rows go to one version, which
is resolved once.
"""


def page() -> str:
    """Give the whole page."""
    root: Any = typer.main.get_command(app)
    parts = [HEAD, "## Connection\n\n" + _options(root)]
    for name, found in root.commands.items():
        parts += _section(name, found, "##")
    told = (
        "Times are ISO 8601 with their zone; digests are `sha256:<hex>`. What is absent is null, "
        "and\nso is every empty string but those of `text` and `label`."
    )
    parts.append(f"## JSON\n\n{told}\n")
    parts += [_value(kind) for kind in sorted(_given(), key=lambda kind: kind.__name__)]
    return "\n".join(parts)


def _section(path: str, found: Any, heading: str) -> Iterator[str]:  # noqa: ANN401
    verbs = getattr(found, "commands", None)
    if verbs is None:
        yield _command(path, found, heading)
        return
    yield f"{heading} {path}\n\n{found.help}\n"
    for verb, inner in verbs.items():
        yield from _section(f"{path} {verb}", inner, f"{heading}#")


def _command(path: str, found: Any, heading: str) -> str:  # noqa: ANN401
    examples, about = found.help.removeprefix("\b\nExample:\n").split("\n\n", 1)
    shown = "\n".join(line.strip() for line in examples.splitlines())
    arguments = " ".join(
        _argument(param) for param in found.params if param.param_type_name == "argument"
    )
    gives = GIVES[_function(found)]
    lines = [
        f"{heading} {path}\n",
        f"```console\n{shown}\n```\n",
        f"`loradock {path} {arguments}`".replace(" `", "`") + "\n",
        f"{about}\n",
        _options(found),
        f"JSON: {gives}.\n",
    ]
    return "\n".join(lines)


def _function(found: Any) -> Any:  # noqa: ANN401
    return getattr(found.callback, "__wrapped__", found.callback)


def _argument(param: Any) -> str:  # noqa: ANN401
    name = param.metavar or param.name.upper()
    name = name if param.nargs == 1 else f"{name}…"
    return name if param.required else f"[{name}]"


def _options(found: Any) -> str:  # noqa: ANN401
    rows = [
        f"| `{'`, `'.join(param.opts)}` | {_option_help(param)} |"
        for param in found.params
        if param.param_type_name == "option" and "completion" not in param.name
    ]
    shown = [row for row in rows if "`--help`" not in row and "`--json`" not in row]
    return "| option | |\n| --- | --- |\n" + "\n".join(shown) + "\n" if shown else ""


def _option_help(param: Any) -> str:  # noqa: ANN401
    told = (param.help or "").replace("|", "\\|")
    notes = ["required"] if param.required else []
    if param.envvar:
        notes.append(f"`{param.envvar}`")
    if param.default not in (None, False, "", ()):
        default = param.default.value if isinstance(param.default, enum.Enum) else param.default
        notes.append(f"default {default}")
    return " ".join([told, f"({', '.join(notes)})" if notes else ""]).strip()


def _given() -> set[type]:
    """Find the values that commands give, and those inside them."""
    known = {name: getattr(loradock.client, name) for name in loradock.client.__all__}
    known |= {kind.__name__: kind for kind in (ServerRates, SuiteResult, VersionRates)}
    found: set[Any] = set()
    open_names = [name for gives in GIVES.values() for name in re.findall(r"[A-Z]\w+", gives)]
    while open_names:
        kind = known.get(open_names.pop())
        if kind is None or kind in found or not dataclasses.is_dataclass(kind):
            continue
        found.add(kind)
        for field in dataclasses.fields(kind):
            open_names += re.findall(r"[A-Z]\w+", str(field.type))
    return found


def _value(kind: type) -> str:
    return f"### {kind.__name__}\n\n" + "\n".join(_fields(kind)) + "\n"


def _fields(kind: Any) -> Iterator[str]:  # noqa: ANN401
    for field in dataclasses.fields(kind):
        yield f"- `{field.name}`: {_json_type(str(field.type))}"


def _json_type(python: str) -> str:
    enum_kind = getattr(loradock.client, python, None)
    if enum_kind is not None and hasattr(enum_kind, "__members__"):
        return "one of " + ", ".join(f'"{member.value}"' for member in enum_kind)
    told = re.sub(r"tuple\[(\w+), \.\.\.\]", r"list of \1", python)
    told = re.sub(r"(?:Mapping|dict)\[str, (\w+)\]", r"object of \1", told)
    for name, meaning in (
        ("str", "string"),
        ("int", "integer"),
        ("float", "number"),
        ("bool", "boolean"),
        ("datetime", "time"),
        ("None", "null"),
        ("Any", "anything"),
    ):
        told = re.sub(rf"\b{name}\b", meaning, told)
    return told.replace(" | ", " or ")


if __name__ == "__main__":
    PAGE.write_text(page())
