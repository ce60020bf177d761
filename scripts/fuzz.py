"""Fuzz what reads bytes from outside, guided by coverage: python scripts/fuzz.py TARGET [SECONDS].

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris==3.0.0 -e '.[server]'
    nice -n 19 /tmp/fuzz/bin/python scripts/fuzz.py header 150 --corpus /tmp/fuzz/corpus

The targets are `header` (of a safetensors file), `config` (adapter_config.json), `manifest` and
`bundle`. Whatever bytes come, the answer is a value or a typed refusal: any other exception is a
finding, and libFuzzer writes its input as crash-…; kept cases are in tests/registry/fuzz_cases/.
It ends with how many inputs ran and what they covered.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import atheris

with atheris.instrument_imports(include=["loradock.registry"]):
    from loradock.registry.bundle import archive
    from loradock.registry.bundle.importing import _index_of as index_of
    from loradock.registry.bundle.index import INDEX_NAME, parse_index
    from loradock.registry.errors import InvalidArgument, RegistryError
    from loradock.registry.limits import Limits
    from loradock.registry.lora_config import MalformedConfig, read_config
    from loradock.registry.manifest import Manifest, canonical_json, parse_manifest
    from loradock.registry.profile import check_lineage, check_profile
    from loradock.registry.resources import (
        BaseDigests,
        BlobRef,
        Dataset,
        Decoding,
        Delta,
        Lineage,
        Profile,
    )
    from loradock.registry.safetensors_header import MalformedHeader, header_end, read_header

Json: TypeAlias = Any
LIMITS = Limits(max_header_bytes=1 << 16, max_config_bytes=1 << 16)
CASES = Path(__file__).parent.parent / "tests" / "registry" / "fuzz_cases"


def fuzz_header(content: bytes) -> None:
    """Read a header; what is read covers the file without a hole."""
    try:
        header_end(content[:16], len(content), LIMITS)
        tensors = read_header(content, len(content), LIMITS)
    except MalformedHeader as refused:
        assert refused.problem.code
        return
    start = 8 + int.from_bytes(content[:8], "little")
    assert sum(tensor.end - tensor.start for tensor in tensors.values()) == len(content) - start
    assert all(start <= tensor.start <= tensor.end for tensor in tensors.values())


def fuzz_config(content: bytes) -> None:
    """Read a config."""
    try:
        read_config(content, LIMITS)
    except MalformedConfig as refused:
        assert str(refused)


def fuzz_manifest(content: bytes) -> None:
    """Read a manifest; what is read has this one spelling."""
    try:
        manifest = parse_manifest(content)
    except InvalidArgument:
        return
    assert manifest.to_bytes() == content
    check_profile(manifest.profile, LIMITS)
    check_lineage(manifest.lineage, LIMITS)


def fuzz_bundle(content: bytes) -> None:
    """Read an archive and the index in it; and the same bytes as an index alone."""
    try:
        reading = archive.members(io.BytesIO(content))
        index_of(next(reading, None))
        for member in reading:
            assert sum(map(len, member.content)) == member.size_bytes
    except RegistryError:
        pass
    try:
        index = parse_index(content)
        assert parse_index(index.to_bytes()) == index
    except RegistryError:
        pass


VALUES: list[Json] = [None, True, 0, 1, -1, 0.5, 1e308, 2**63, "", "q_proj", "F32", "0" * 71]
VALUES += ["sha256:" + "1" * 64, [], {}, [0, 4], [[0]], {"a": 1}, "(a+)+$", "\u0000", "\ud800"]


def mutated(document: Json, draw: random.Random) -> Json:
    """Change one place of a document: another value, none, twice, or of another place."""
    places: list[tuple[Json, Json]] = []

    def walk(node: Json) -> None:
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys if isinstance(node, dict | list) else ():
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    root = [document]
    walk(root)
    node, key = draw.choice(places)
    other, place = draw.choice(places)
    kind = draw.randrange(5)
    if kind == 0:
        node[key] = draw.choice(VALUES)
    elif kind == 1:
        node[key] = copy.deepcopy(other[place])
    elif kind == 2 and isinstance(node[key], int | float):
        node[key] += draw.choice([1, -1, 2**31, 0.5])
    elif kind == 3 and len(root) and node is not root:
        del node[key]
    elif isinstance(node, dict):
        node[draw.choice(WORDS)] = draw.choice(VALUES)
    else:
        node.append(draw.choice(VALUES))
    return root[0]


WORDS = ["r", "bias", "use_dora", "modules_to_save", "layers_pattern", "auto_mapping", "stop"]
WORDS += ["__metadata__", "a", "dtype", "shape", "data_offsets", "labels", "decoding", "training"]


def unpacked(target: str, content: bytes) -> Json:
    """Find the document in an input."""
    if target == "header":
        return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    if target == "bundle" and not content.startswith(b"{"):
        return json.loads(next(archive.members(io.BytesIO(content))).content.__next__())
    return json.loads(content)


def packed(target: str, document: Json, draw: random.Random) -> bytes:
    """Make an input of a document."""
    text = json.dumps(document).encode()
    if target == "manifest":
        return canonical_json(document)
    if target == "header":
        return struct.pack("<Q", len(text)) + text + bytes(draw.choice([0, 4, 4, 8]))
    if target == "bundle" and draw.random() < 0.5:
        return (
            archive.header(INDEX_NAME, len(text)) + text + archive.padding(len(text)) + archive.END
        )
    return text


def mutator(target: str) -> Callable[[bytes, int, int], bytes]:
    """Mutate what an input says as often as its bytes."""

    def mutate(content: bytes, max_size: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.7:
            try:
                document = unpacked(target, content)
                for _ in range(draw.choice([1, 1, 2, 4])):
                    document = mutated(document, draw)
                return packed(target, document, draw)[:max_size]
            except (ValueError, RegistryError, StopIteration, RecursionError, OverflowError):
                pass
        return bytes(atheris.Mutate(content, max_size))

    return mutate


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header": fuzz_header,
    "config": fuzz_config,
    "manifest": fuzz_manifest,
    "bundle": fuzz_bundle,
}


def seeds(target: str) -> list[bytes]:
    """Give valid inputs to begin with, and the findings of earlier runs."""
    digest = "sha256:" + "0" * 64
    ref: Json = {"digest": digest, "size_bytes": 4}
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    config: Json = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    richer: Json = {
        "target_modules": r"model\.layers\.\d+\.q_proj",
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"^model.*": 4},
        "layers_to_transform": [0, 1],
        "layers_pattern": "layers",
        "exclude_modules": ["k"],
        "use_rslora": True,
        "bias": "none",
    }
    blob = BlobRef(digest, 4)
    lineage = Lineage((digest,), (Dataset("d", digest),), {"seed": 1})
    profile = Profile("{{ content }}", "Be brief.", ("a", "b"), Decoding(4, 0.5, stop=("x",)))
    manifest = Manifest(BaseDigests(*[digest] * 3), Delta(blob, blob), profile, lineage)
    digests: Json = {"structural": digest, "weights": digest, "tokenizer": digest}
    base: Json = {"name": "b", "digests": digests, "architecture": "L", "modules": {"q": [8, 8]}}
    base |= {"context_length": 8, "num_parameters": 8, "description": ""}
    metric: Json = {
        "name": "a",
        "value": 0.5,
        "num_items": 1,
        "low": None,
        "high": 1,
        "direction": "lower",
    }
    evaluation: Json = {"id": "1", "suite": "s", "dataset_digest": digest, "base_name": "b"}
    evaluation |= {"base": digests, "adapter": "a", "version": digest, "metrics": [metric]}
    evaluation |= {"items": {"ids": ["1"], "scores": {"a": [0.5]}}}
    evaluation |= {"cost": {"s": 1}, "harness": "", "engine_profile": "", "created_by": "e"}
    index: Json = {
        "schema": "loradock.bundle.v1",
        "bases": [base],
        "adapters": [{"name": "a", "owner": "", "description": "", "tags": ["t"]}],
        "versions": [{"adapter": "a", "number": 1, "manifest": ref, "yanked": None}],
        "blobs": [ref],
        "evaluations": [{**evaluation, "created_at_us": 0}],
        "aliases": [{"adapter": "a", "name": "production", "digest": digest}],
    }
    text = json.dumps(index).encode()
    packed = archive.header(INDEX_NAME, len(text)) + text + archive.padding(len(text))
    made = {
        "header": [struct.pack("<Q", len(header)) + header + bytes(4), bytes(8)],
        "config": [json.dumps(one).encode() for one in (config, {**config, **richer})],
        "manifest": [manifest.to_bytes()],
        "bundle": [text, packed + archive.END, packed + archive.header("x", 4) + bytes(512)],
    }
    return made[target] + [path.read_bytes() for path in sorted(CASES.glob(f"{target}-*"))]


def main() -> None:
    """Run one target for a while."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("seconds", type=int, nargs="?", default=60)
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"))
    given = parser.parse_args()
    corpus = given.corpus / given.target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(given.target)):
        (corpus / f"seed-{number}").write_bytes(content)
    bounds = [f"-max_total_time={given.seconds}", "-max_len=8192", "-timeout=10"]
    bounds += ["-rss_limit_mb=1024", "-print_final_stats=1", f"-artifact_prefix={corpus.parent}/"]
    atheris.Setup(
        [sys.argv[0], str(corpus), *bounds],
        TARGETS[given.target],
        custom_mutator=mutator(given.target),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
