"""Derive every task's training and held-out rows from `data/messages.txt`. Run again after an edit.

One message serves all three tasks: its section is its label, its marks say what to extract and
what to redact. Every third message of a section is held out, in all tasks alike.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE / "data" / "messages.txt"
MARK = re.compile(r"\{([nmeopi]):([^{}]+)\}")
MASKS = {"n": "[NAME]", "m": "[NAME]", "e": "[EMAIL]", "o": "[ORDER]", "p": "[PHONE]"}
EXTRACTED = {"name": "n", "order": "o", "product": "i"}
TOO_ALIKE = 0.5  # share of common words from which a held-out message is one seen in training


@dataclass(frozen=True, slots=True)
class Message:
    """One message with its marks, and the label of its section."""

    label: str
    marked: str

    @property
    def text(self) -> str:
        """The message as its sender wrote it."""
        return MARK.sub(r"\2", self.marked)

    @property
    def redacted(self) -> str:
        """The message with what identifies a person masked; products stay."""
        return MARK.sub(lambda mark: MASKS.get(mark[1], mark[2]), self.marked)

    @property
    def extracted(self) -> str:
        """The sender, the order and the product as one line of JSON, null where absent."""
        marks = dict(MARK.findall(self.marked))
        fields = {key: marks.get(kind) for key, kind in EXTRACTED.items()}
        return json.dumps(fields, ensure_ascii=False)


def main() -> None:
    """Write the rows of all tasks, or exit with every problem found in the source."""
    train, heldout = split(list(read_messages()))
    if problems := [*_problems(train + heldout), *_leaks(train, heldout)]:
        sys.exit("\n".join(problems))
    for name, messages in (("train", train), ("heldout", heldout)):
        for task in ("support-triage", "order-extract", "pii-redact"):
            rows = [{"input": m.text, "expected": expected(task, m)} for m in messages]
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            folder = HERE / task
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    print(f"{len(train)} rows to train on, {len(heldout)} held out, for each task")


def read_messages() -> Iterator[Message]:
    """Yield the source's messages in its order."""
    label = ""
    for line in SOURCE.read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            label = line.removeprefix("== ")
        elif line and not line.startswith("#"):
            yield Message(label, line)


def split(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """Hold out every third message of each section; mix the sections in an order by hash."""
    train: list[Message] = []
    heldout: list[Message] = []
    seen: Counter[str] = Counter()
    for message in messages:
        (heldout if seen[message.label] % 3 == 1 else train).append(message)
        seen[message.label] += 1
    return sorted(train, key=_mixed), sorted(heldout, key=_mixed)


def expected(task: str, message: Message) -> str:
    """Return what `task` should answer to `message`."""
    answers = {
        "support-triage": message.label,
        "order-extract": message.extracted,
        "pii-redact": message.redacted,
    }
    return answers[task]


def _mixed(message: Message) -> str:
    return hashlib.sha256(message.text.encode()).hexdigest()


def _problems(messages: list[Message]) -> Iterator[str]:
    texts: set[str] = set()
    for message in messages:
        kinds = [mark[0] for mark in MARK.findall(message.marked)]
        if any(kinds.count(kind) > 1 for kind in EXTRACTED.values()):
            yield f"two of {{n:}}, {{o:}} or {{i:}} in: {message.marked}"
        if re.search(r"[{}]", message.text):
            yield f"a broken mark in: {message.marked}"
        if message.text in texts:
            yield f"twice: {message.text}"
        texts.add(message.text)


def _leaks(train: list[Message], heldout: list[Message]) -> Iterator[str]:
    for kept, seen in product(heldout, train):
        ours, theirs = _words(kept), _words(seen)
        if len(ours & theirs) / len(ours | theirs) > TOO_ALIKE:
            yield f"held out, but nearly in training: {kept.text!r} and {seen.text!r}"


def _words(message: Message) -> set[str]:
    return set(re.findall(r"\w+", message.redacted.lower()))


if __name__ == "__main__":
    main()
