"""A base's digests tell what matters of its files as stored, and nothing else (A2)."""

import json
import shutil
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch
from tiny_base import edit_json, split_weights

from loradock.engine.errors import BaseError
from loradock.engine.fingerprint import fingerprint
from loradock.engine.stored import StoredBase, StoredTensor, read_base

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
PARTS = ("structural", "weights", "tokenizer")


@pytest.fixture
def copy(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "copy")


def digests(folder):
    return fingerprint(read_base(folder))


def changed(one, other):
    """Name the digests that differ."""
    return {part for part in PARTS if getattr(one, part) != getattr(other, part)}


def fixed_base(folder):
    """Write a base whose every byte is written here."""
    folder.mkdir()
    weights = {"b": np.arange(6, dtype="f4").reshape(2, 3), "a": np.arange(4, dtype="f2")}
    (folder / WEIGHTS).write_bytes(save(weights))
    (folder / CONFIG).write_text('{"model_type": "llama", "hidden_size": 3, "use_cache": true}')
    (folder / TOKENIZER).write_text('{"version": "1.0", "model": {"vocab": {"ä": 0}}}')
    (folder / TOKENIZER_CONFIG).write_text('{"eos_token": "ä", "chat_template": "{{ x }}"}')
    return folder


def test_a2_digests_are_the_same_in_every_release(tmp_path):
    """They stand in registries: if this fails, adapters of old lose their base."""
    found = digests(fixed_base(tmp_path / "fixed"))
    assert [getattr(found, part).removeprefix("sha256:") for part in PARTS] == [
        "1285b9a3dc368108ddd370399a596116ec032635e47567770fc066948304fca5",
        "4e02898b1be35b12f79090620e1fb628655fb79e72eedbf88b819b2458c3bc48",
        "205a984ce7ac0c0bfcc79c87405b109407e1b5391b5df18629e514e4e7a13977",
    ]


@pytest.mark.parametrize("num_files", [1, 3])
def test_digests_do_not_depend_on_how_weights_are_split(tiny_base, copy, num_files):
    split_weights(copy, num_files)
    assert digests(copy) == digests(tiny_base)


def test_digests_do_not_depend_on_what_names_tools_and_places(tiny_base, copy):
    edit_json(
        copy / CONFIG,
        _name_or_path="elsewhere",
        transformers_version="9",
        torch_dtype="float16",
        use_cache=False,
        attention_dropout=0.5,
    )
    edit_json(copy / TOKENIZER, truncation={"max_length": 8}, padding=None)
    edit_json(copy / TOKENIZER_CONFIG, name_or_path="elsewhere", model_max_length=7)
    (copy / "README.md").write_text("A base.")
    assert digests(copy) == digests(tiny_base)


def test_a_chat_template_is_the_same_wherever_it_stands(tiny_base, copy):
    template = (copy / TEMPLATE).read_text()
    (copy / TEMPLATE).unlink()
    assert changed(digests(copy), digests(tiny_base)) == {"tokenizer"}
    edit_json(copy / TOKENIZER_CONFIG, chat_template=template)
    assert digests(copy) == digests(tiny_base)


def flip_a_bit(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1000] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def swap_two_tensors(folder):
    tensors = load_file(folder / WEIGHTS)
    one, other = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1))
    save_file(tensors | {one: tensors[other], other: tensors[one]}, folder / WEIGHTS)


def cast(folder):
    tensors = load_torch(folder / WEIGHTS)
    save_torch({k: t.to(torch.bfloat16) for k, t in tensors.items()}, folder / WEIGHTS)


def add_a_tensor(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"model.layers.0.bias": np.zeros(2, "f4")}, folder / WEIGHTS)


def change_the_vocabulary(folder):
    content = json.loads((folder / TOKENIZER).read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / TOKENIZER).write_text(json.dumps(content))


CHANGES = {
    "a bit": (flip_a_bit, {"weights"}),
    "two tensors": (swap_two_tensors, {"weights"}),
    "the dtype": (cast, {"structural", "weights"}),
    "one more tensor": (add_a_tensor, {"structural", "weights"}),
    "the rope": (lambda f: edit_json(f / CONFIG, rope_parameters=None), {"structural"}),
    "an epsilon": (lambda f: edit_json(f / CONFIG, rms_norm_eps=1e-4), {"structural"}),
    "the vocabulary": (change_the_vocabulary, {"tokenizer"}),
    "the template": (lambda f: (f / TEMPLATE).write_text("{{ messages }}"), {"tokenizer"}),
    "the eos": (lambda f: edit_json(f / TOKENIZER_CONFIG, eos_token="a"), {"tokenizer"}),
    "added tokens": (
        lambda f: (f / "added_tokens.json").write_text('{"<new>": 512}'),
        {"tokenizer"},
    ),
}


@pytest.mark.parametrize(("change", "wanted"), CHANGES.values(), ids=CHANGES)
def test_a2_digests_tell_what_has_changed(tiny_base, copy, change, wanted):
    change(copy)
    assert changed(digests(copy), digests(tiny_base)) == wanted


def test_a2_another_base_of_the_same_architecture_has_other_weights(tiny_base, other_tiny_base):
    assert changed(digests(tiny_base), digests(other_tiny_base)) == {"weights"}


def test_a_tokenizer_without_tokenizer_json_is_known_by_its_vocabulary(copy):
    (copy / TOKENIZER).unlink()
    (copy / "vocab.json").write_text('{"a": 0}')
    (copy / "merges.txt").write_text("a b")
    first = digests(copy)
    (copy / "merges.txt").write_text("b a")
    assert changed(digests(copy), first) == {"tokenizer"}


def test_a_truncated_file_is_refused(copy):
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[:-10])
    with pytest.raises(BaseError, match="ends within"):
        digests(copy)


def test_memory_does_not_grow_with_the_base(tmp_path):
    file, size = tmp_path / "large", 200 << 20
    with file.open("wb") as opened:
        opened.truncate(size)
    base = StoredBase(tmp_path, {}, [StoredTensor("w", "F32", (size,), file, 0, size)], {})
    tracemalloc.start()
    try:
        fingerprint(base)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20
