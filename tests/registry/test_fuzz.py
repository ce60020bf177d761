"""Whatever bytes come, the answer is an adapter or a typed refusal (A4)."""

import json
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_admission import GOOD, GOOD_CONFIG, admit

from loradock.registry.bundle.index import parse_index
from loradock.registry.errors import InvalidArgument, InvalidName, NotAdmitted
from loradock.registry.limits import Limits
from loradock.registry.lora_config import MalformedConfig, read_config
from loradock.registry.manifest import canonical_json, parse_manifest
from loradock.registry.names import parse_reference
from loradock.registry.patterns import Budget, PatternRefused, full_match, suffix_match
from loradock.registry.safetensors_header import MalformedHeader, read_header
from loradock.registry.template import check_template, render

settings.register_profile("registry", deadline=None, max_examples=100)
settings.load_profile("registry")

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def _header(document):
    text = json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.contract("A4")
@given(st.binary(max_size=200))
def test_a4_any_bytes_are_a_header_or_refused(content):
    with pytest.raises(MalformedHeader):
        read_header(content, len(content), Limits())


entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8"]) | scalars,
        "shape": st.lists(st.integers(-1, 4) | scalars, max_size=3) | scalars,
        "data_offsets": st.lists(st.integers(-1, 64) | scalars, max_size=3),
    }
)


@pytest.mark.contract("A4")
@given(st.dictionaries(st.text(max_size=6), entries | documents, max_size=4), st.integers(0, 64))
def test_a4_any_json_header_is_whole_or_refused(document, num_bytes):
    content = _header(document) + bytes(num_bytes)
    try:
        tensors = read_header(content, len(content), Limits())
    except MalformedHeader:
        return
    covered = sum(tensor.end - tensor.start for tensor in tensors.values())
    assert covered == num_bytes


@pytest.mark.contract("A4")
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a4_one_wrong_byte_is_no_crash(position, value):
    content = GOOD[:position] + bytes([value]) + GOOD[position + 1 :]
    try:
        admit(content, GOOD_CONFIG)
    except NotAdmitted as refused:
        assert refused.problems


KEYS = st.sampled_from(sorted(json.loads(GOOD_CONFIG)) + ["rank_pattern", "layers_to_transform"])


@pytest.mark.contract("A4")
@given(st.dictionaries(KEYS | st.text(max_size=6), documents, max_size=4))
def test_a4_any_config_is_read_or_refused(changes):
    text = json.dumps({**json.loads(GOOD_CONFIG), **changes}).encode()
    try:
        admit(GOOD, text)
    except NotAdmitted as refused:
        assert refused.problems


@pytest.mark.contract("A4")
@given(st.binary(max_size=60))
def test_a4_any_bytes_are_a_config_or_refused(content):
    with pytest.raises(MalformedConfig):
        read_config(content, Limits())


@given(documents)
def test_canonical_json_has_one_spelling(document):
    try:
        text = canonical_json(document)
    except InvalidArgument:
        return
    assert canonical_json(json.loads(text)) == text


@given(st.binary(max_size=60) | documents.map(lambda d: json.dumps(d).encode()))
def test_any_bytes_are_a_manifest_or_refused(content):
    with pytest.raises(InvalidArgument):
        parse_manifest(content)


@given(st.text(alphabet="ab-/:@7sha256. A\0", max_size=20))
def test_a_reference_reads_back_or_is_refused(text):
    try:
        reference = parse_reference(text)
    except InvalidName:
        return
    assert parse_reference(str(reference)) == reference


PIECES = ["a", "b", ".", "q_proj", r"\d", r"\w", "[a-c]", "[^a]", "$", "^", r"\b", r"\.", "(?:ab)"]
patterns = st.recursive(
    st.sampled_from(PIECES),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{1,2}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        )
        | st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})")
    ),
    max_leaves=6,
)


@given(patterns, st.text(alphabet="ab.q_proj1\n", max_size=8))
def test_a_pattern_matches_as_python_says(pattern, text):
    assert full_match(pattern, text, Budget()) == bool(re.fullmatch(pattern, text))
    name = text.replace("\n", "")
    as_peft = bool(re.match(rf"(.*\.)?({pattern})$", name))
    assert suffix_match(pattern, name, Budget()) == as_peft


@given(st.text(max_size=12))
def test_any_text_is_a_pattern_or_refused(pattern):
    try:
        found = full_match(pattern, "a.b", Budget())
    except PatternRefused:
        return
    assert found == bool(re.fullmatch(pattern, "a.b"))


@pytest.mark.contract("X5")
@given(st.text(alphabet="{}%# content'\"*9()|.[]\n-+", max_size=24), st.text(max_size=12))
def test_x5_any_template_renders_or_is_refused(template, content):
    if check_template(template):
        with pytest.raises(InvalidArgument):
            render(template, content)
    else:
        assert content in render(template, content)


CASES = sorted((Path(__file__).parent / "fuzz_cases").iterdir())


@pytest.mark.contract("A4")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a4_what_the_guided_fuzzer_found_stays_fixed(case):
    """Findings of scripts/fuzz.py, by the target that its name begins with."""
    content, target = case.read_bytes(), case.name.split("-")[0]
    read = {
        "header": lambda: read_header(content, len(content), Limits()),
        "config": lambda: read_config(content, Limits()),
        "manifest": lambda: parse_manifest(content),
        "bundle": lambda: parse_index(content),
    }
    with pytest.raises((MalformedHeader, MalformedConfig, InvalidArgument)):
        read[target]()
