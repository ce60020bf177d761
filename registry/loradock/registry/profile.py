"""What a profile and a lineage may say. Every problem is found, not only the first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from loradock.registry.errors import InvalidArgument, Problem
from loradock.registry.limits import Limits
from loradock.registry.manifest import is_plain_fact
from loradock.registry.names import check_digest, check_text
from loradock.registry.resources import Decoding, Lineage, Profile
from loradock.registry.template import check_template

# name, smallest, whether the smallest itself is allowed, largest
_RANGES = (
    ("max_tokens", 1, True, 1 << 20),
    ("temperature", 0, True, 10),
    ("top_k", 0, True, 1 << 20),
    ("top_p", 0, False, 1),
    ("repetition_penalty", 0, False, 10),
)


def check_profile(profile: Profile, limits: Limits) -> list[Problem]:
    """Everything that is wrong with a profile."""
    return [
        *_template_problems(profile.template, limits),
        *_text_problems("profile.system", profile.system or "", limits.max_template_chars),
        *_label_problems(profile.labels, limits),
        *_decoding_problems(profile.decoding),
        *_stop_problems(profile.decoding.stop, limits),
    ]


def check_lineage(lineage: Lineage, limits: Limits) -> list[Problem]:
    """Everything that is wrong with a lineage, apart from whether its parents exist."""
    problems = [
        *_count_problems("lineage.parents", lineage.parents, limits.max_parents),
        *_count_problems("lineage.merge_of", lineage.merge_of, limits.max_parents),
        *_count_problems("lineage.distilled_from", lineage.distilled_from, limits.max_parents),
        *_count_problems("lineage.datasets", lineage.datasets, limits.max_datasets),
        *_count_problems("lineage.training", list(lineage.training), limits.max_training_facts),
    ]
    for parent in lineage.parents:
        problems += _digest_problems("lineage.parents", parent)
    for merged in lineage.merge_of:
        problems += _digest_problems("lineage.merge_of", merged)
    for teacher in lineage.distilled_from:
        problems += _digest_problems("lineage.distilled_from", teacher)
    for dataset in lineage.datasets:
        problems += _digest_problems("lineage.datasets", dataset.digest)
        problems += _text_problems("lineage.datasets", dataset.name, 256)
    for name, value in lineage.training.items():
        problems += _fact_problems(name, value, limits)
    return problems


def _template_problems(template: str | None, limits: Limits) -> Iterator[Problem]:
    if template is None:
        return
    too_long = list(_text_problems("profile.template", template, limits.max_template_chars))
    yield from too_long
    if not too_long:
        for sentence in check_template(template):
            yield Problem("profile.template", "TEMPLATE_NOT_ALLOWED", sentence)


def _label_problems(labels: Sequence[str], limits: Limits) -> Iterator[Problem]:
    yield from _count_problems("profile.labels", labels, limits.max_labels)
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        yield Problem("profile.labels", "LABEL_REPEATED", f"{label!r:.80} is there twice")
    for label in labels:
        if not label.strip():
            yield Problem("profile.labels", "LABEL_EMPTY", "a label is empty")
        yield from _text_problems("profile.labels", label, limits.max_label_chars)


def _decoding_problems(decoding: Decoding) -> Iterator[Problem]:
    for name, low, with_low, high in _RANGES:
        value = getattr(decoding, name)
        if value is None:
            continue
        above = value >= low if with_low else value > low
        if not (math.isfinite(value) and above and value <= high):
            bracket = "[" if with_low else "("
            message = f"{value} is not in {bracket}{low}, {high}]"
            yield Problem(f"profile.decoding.{name}", "OUT_OF_RANGE", message)


def _stop_problems(stops: Sequence[str], limits: Limits) -> Iterator[Problem]:
    yield from _count_problems("profile.decoding.stop", stops, limits.max_stops)
    for stop in stops:
        if not stop:
            yield Problem("profile.decoding.stop", "STOP_EMPTY", "a stop string is empty")
        yield from _text_problems("profile.decoding.stop", stop, limits.max_label_chars)


def _fact_problems(name: str, value: object, limits: Limits) -> Iterator[Problem]:
    subject = f"lineage.training[{name!r:.80}]"
    yield from _text_problems(subject, name, 256)
    if not is_plain_fact(value):
        message = "a fact is text, a finite number, true, false or null"
        yield Problem(subject, "FACT_NOT_PLAIN", message)
    elif isinstance(value, str):
        yield from _text_problems(subject, value, limits.max_text_chars)
    elif isinstance(value, int) and abs(value) >= 2**63:
        yield Problem(subject, "FACT_NOT_PLAIN", "the number is too large")


def _count_problems(subject: str, items: Sequence[object], most: int) -> Iterator[Problem]:
    if len(items) > most:
        yield Problem(subject, "TOO_MANY", f"has {len(items)} entries; the limit is {most}")


def _text_problems(subject: str, text: str, most: int) -> Iterator[Problem]:
    try:
        check_text(subject, text, most)
    except InvalidArgument as error:
        yield Problem(subject, "TEXT_NOT_ALLOWED", error.reason)


def _digest_problems(subject: str, digest: str) -> Iterator[Problem]:
    try:
        check_digest(subject, digest)
    except InvalidArgument as error:
        yield Problem(subject, "DIGEST_MALFORMED", error.reason)
