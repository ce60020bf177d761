"""Bases are loaded whole, from files that can't run code, or refused in words."""

import json
import logging
import pickle
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_base import (
    CONTEXT,
    EOS,
    VOCAB_SIZE,
    edit_json,
    make_tiny_base,
    make_tokenizer,
    split_weights,
    with_peft,
)
from tiny_gguf import make_tiny_gguf
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from loradock.engine.errors import BaseError
from loradock.engine.loading import describe_base, load_base
from loradock.engine.protocol import LinearShape
from loradock.engine.stored import find_base
from loradock.engine.text import Tokenizer

PROMPT = torch.arange(3, 40)[None]


@pytest.fixture
def copy(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "copy")


@pytest.fixture(scope="module")
def gguf_base(tiny_base, tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_base)


@pytest.fixture
def gpt2_base(tmp_path):
    folder = tmp_path / "gpt2"
    config = GPT2Config(vocab_size=VOCAB_SIZE, n_embd=32, n_layer=1, n_head=2, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def logits_of(model):
    with torch.no_grad():
        return model(PROMPT).logits


def test_a_base_is_dense_without_gradients_and_describes_itself(tiny_base):
    loaded = load_base(tiny_base, "tiny")
    info, parameters = loaded.info, list(loaded.model.parameters())
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in parameters)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert (info.name, info.architecture) == ("tiny", "LlamaForCausalLM")
    assert (info.context_length, info.vocab_size) == (CONTEXT, VOCAB_SIZE)
    assert info.num_parameters == sum(parameter.numel() for parameter in parameters)
    assert info.profile == "cpu/float32"
    assert info.modules["model.layers.1.self_attn.k_proj"] == LinearShape(64, 32)
    assert info.modules["lm_head"] == LinearShape(64, VOCAB_SIZE)
    assert len(info.modules) == 2 * 7 + 1


@pytest.mark.parametrize("tied", [False, True])
def test_describing_a_base_gives_what_loading_it_does(tmp_path, tied):
    base = make_tiny_base(tmp_path / "base", is_endless=False, tie_word_embeddings=tied)
    assert describe_base(base, "x") == load_base(base, "x").info


def test_modules_have_the_shapes_that_peft_gives_them(gpt2_base):
    """GPT-2 keeps the weights of its linear modules the other way round."""
    modules = load_base(gpt2_base, "gpt2").info.modules
    config = peft.LoraConfig(r=2, target_modules=list(modules), fan_in_fan_out=True)
    adapted = with_peft(AutoModelForCausalLM.from_pretrained(gpt2_base), config)
    shapes = {name: tuple(p.shape) for name, p in adapted.named_parameters() if "lora_" in name}
    assert len(shapes) == 2 * len(modules) == 2 * 5
    for path, shape in modules.items():
        name = f"base_model.model.{path}.lora_%s.default.weight"
        assert shapes[name % "A"] == (2, shape.in_features)
        assert shapes[name % "B"] == (shape.out_features, 2)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_a2_digests_are_those_of_the_stored_base_whatever_it_runs_in(tiny_base, tmp_path, stored):
    base = tmp_path / "base"
    LlamaForCausalLM.from_pretrained(tiny_base).to(stored).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    auto, wide = load_base(base, "x"), load_base(base, "x", dtype="float32")
    narrow = load_base(base, "x", dtype="bfloat16")
    assert auto.model.dtype == stored
    assert auto.info.profile == "cpu/" + str(stored).removeprefix("torch.")
    assert (wide.model.dtype, narrow.model.dtype) == (torch.float32, torch.bfloat16)
    assert (wide.info.profile, narrow.info.profile) == ("cpu/float32", "cpu/bfloat16")
    assert auto.info.fingerprint == wide.info.fingerprint == narrow.info.fingerprint


def test_auto_is_what_the_files_hold_and_not_what_their_config_says(copy):
    edit_json(copy / "config.json", dtype="bfloat16")
    assert load_base(copy, "x").info.profile == "cpu/float32"


def test_a_split_base_is_the_same_base(tiny_base, copy):
    split_weights(copy, 3)
    whole, parts = load_base(tiny_base, "x"), load_base(copy, "x")
    assert parts.info == whole.info
    assert torch.equal(logits_of(parts.model), logits_of(whole.model))


def test_a_gguf_file_is_a_base(tiny_base, gguf_base):
    folder, file = load_base(tiny_base, "x"), load_base(gguf_base, "x")
    assert torch.allclose(logits_of(folder.model), logits_of(file.model), atol=1e-4)
    assert dict(file.info.modules) == dict(folder.info.modules)
    assert file.info.fingerprint != folder.info.fingerprint
    assert file.info.profile == "cpu/float32"
    assert describe_base(gguf_base, "x") == file.info


def test_a_gguf_file_has_its_tokenizer_in_it(tiny_base, gguf_base):
    turns = [("user", "Where is my parcel?")]
    one, other = Tokenizer.load(tiny_base), Tokenizer.load(find_base(gguf_base))
    text = one.chat_text(turns)
    assert other.chat_text(turns) == text
    assert other.encode_alone(text) == one.encode_alone(text)
    assert other.eos == one.eos == EOS


def only_pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def pickled_beside(folder):
    """A pickle by the name of the safetensors file: opening it would create a file."""
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(folder / "run")))


class Bomb:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


def an_adapter(folder):
    (folder / "adapter_config.json").write_text("{}")


def quantised(folder):
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def remote_code(folder):
    edit_json(folder / "config.json", model_type="own", auto_map={"AutoModelForCausalLM": "m.Own"})
    (folder / "m.py").write_text(f"open({str(folder / 'run')!r}, 'w')")


def a_tensor_less(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")


def outside(folder):
    weight_map = {"model.norm.weight": "../elsewhere.safetensors"}
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


REFUSED = {
    "only pickled": (only_pickled, "no safetensors weights.*save_pretrained"),
    "pickled": (pickled_beside, "no whole safetensors file"),
    "an adapter": (an_adapter, "holds an adapter"),
    "quantised": (quantised, "quantised .gptq."),
    "remote code": (remote_code, "can't be loaded"),
    "a tensor less": (a_tensor_less, r"lacks model\.layers\.1\.mlp\.up_proj"),
    "other shapes": (
        lambda f: edit_json(f / "config.json", hidden_size=32),
        "other shapes.*64.*32.* and ",
    ),
    "not a number": (lambda f: edit_json(f / "config.json", hidden_size="a"), "can't be loaded"),
    "outside": (outside, "no weight_map of files beside it"),
    "no tokenizer": (no_tokenizer, "no tokenizer"),
    "no config": (lambda f: (f / "config.json").unlink(), r"no model .config\.json. in"),
    "bad config": (lambda f: (f / "config.json").write_text("{"), "can't be read"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
    "no model": (lambda f: edit_json(f / "config.json", model_type="t5"), "can't be loaded"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "no whole safetensors file"),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_a1_what_is_no_whole_safe_base_is_refused_with_the_reason(copy, spoil, message):
    spoil(copy)
    with pytest.raises(BaseError, match=message):
        load_base(copy, "x")
    assert not (copy / "run").exists(), "something in the files was run"


def test_an_empty_folder_is_refused_before_its_tokenizer_is_looked_for(tmp_path):
    with pytest.raises(BaseError, match=r"there is no model \(config\.json\) in .*"):
        find_base(tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./nowhere", "no folder and no GGUF file"),
        ("/nowhere/at/all", "no folder and no GGUF file"),
        ("loradock-tests/nowhere", "is no folder, and the hub does not give it"),
        ("a b", "is no folder, and the hub does not give it"),
        (__file__, "is no base"),
    ],
)
def test_a_base_that_is_not_there_is_refused_with_the_reason(model, message):
    with pytest.raises(BaseError, match=message):
        describe_base(model, "x")


def test_a_damaged_gguf_file_is_refused(gguf_base, tmp_path):
    damaged = tmp_path / "damaged.gguf"
    for length in (0, 3, 100, 5_000, gguf_base.stat().st_size - 1_000):
        damaged.write_bytes(gguf_base.read_bytes()[:length])
        with pytest.raises(BaseError, match="no whole GGUF file|ends within|can't be loaded"):
            load_base(damaged, "x")


@pytest.mark.parametrize(
    "options", [{"dtype": "int3"}, {"device": "abacus"}, {"device": "cuda:77"}]
)
def test_unknown_dtypes_and_devices_are_refused(tiny_base, options):
    (value,) = options.values()
    with pytest.raises(BaseError, match=value):
        load_base(tiny_base, "x", **options)


def test_tensors_that_the_model_does_not_use_are_told(copy, caplog):
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {"extra.weight": torch.zeros(2)}, copy / "model.safetensors")
    with caplog.at_level(logging.WARNING, "loradock"):
        load_base(copy, "x")
    assert "extra.weight" in caplog.text
