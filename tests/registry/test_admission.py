"""What is let in, and what is refused by name (A1 to A4)."""

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save
from tiny_adapters import adapter_bytes, config, tensors
from tiny_admission import GOOD, GOOD_CONFIG, admit
from tiny_registry import SHAPES, TARGETS, digest, tiny_base

from loradock.registry.admission import Admission
from loradock.registry.errors import BaseMismatch, NotAdmitted
from loradock.registry.limits import Limits
from loradock.registry.resources import BlobRef, Decoding, Delta, Lineage, Profile

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def refusals(weights: bytes, text, **options) -> set[tuple[str, str]]:
    """Everything that is told when bytes are refused."""
    with pytest.raises(NotAdmitted) as caught:
        admit(weights, text, **options)
    assert all(problem.message for problem in caught.value.problems)
    return {(problem.subject, problem.code) for problem in caught.value.problems}


def with_config(**more):
    return config(TARGETS, **more)


def test_a_good_adapter_is_admitted_whatever_the_chunks():
    for chunk in (1, 7, 4096, 1 << 20):
        modules = admit(GOOD, GOOD_CONFIG, chunk=chunk)
        assert [(m.module, m.rank, m.scaling) for m in modules] == [
            (name, 4, 2.0) for name in TARGETS
        ]


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("registry input was unpickled",))


def _zip(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return file.getvalue()


@pytest.mark.contract("A1")
@pytest.mark.parametrize("protocol", range(2, 6))
def test_a1_a_pickle_is_refused_by_content(protocol):
    content = pickle.dumps({"w": Boom()}, protocol)
    for weights in (content, _zip(content), b"\x1f\x8b" + content):
        told = refusals(weights, GOOD_CONFIG)
        assert told == {("adapter_model.safetensors", "PICKLE_REFUSED")}
    told = refusals(GOOD, content)
    assert told == {("adapter_config.json", "CONFIG_MALFORMED")}


@pytest.mark.contract("A1")
def test_a1_a_pickle_of_an_old_protocol_is_no_safetensors_either():
    for protocol in (0, 1):
        assert refusals(pickle.dumps([Boom()] * 9, protocol), GOOD_CONFIG)


@pytest.mark.contract("A1")
def test_a1_a_header_whose_length_looks_like_a_pickle_is_admitted():
    weights = _raw(_header_of(GOOD), _data_of(GOOD), pad_to=0x0280)
    assert weights.startswith(b"\x80\x02")
    assert admit(weights, GOOD_CONFIG)


@pytest.mark.contract("A2")
def test_a2_another_base_is_refused_before_a_tensor_is_read(tiny):
    garbage = tiny.upload(b"no tensors at all")
    delta = Delta(garbage, garbage)
    for part in ("structural", "weights", "tokenizer"):
        other = replace(tiny.base.digests, **{part: digest("other")})
        with pytest.raises(BaseMismatch) as caught:
            tiny.publish(delta=delta, base_digests=other)
        (problem,) = caught.value.problems
        assert (problem.subject, problem.code) == (f"base.{part}", "BASE_MODEL_MISMATCH")


@pytest.mark.contract("A2")
def test_a2_the_base_that_is_named_decides_not_the_config(lite):
    named = lite.delta(base_model_name_or_path="/somewhere/else")
    assert lite.publish(delta=named).version.base == lite.base


NOT_SERVABLE = {
    "modules_to_save": ["lm_head"],
    "bias": "all",
    "use_dora": True,
    "alora_invocation_tokens": [1, 2],
    "layer_replication": [[0, 1]],
    "trainable_token_indices": [3],
    "target_parameters": ["x.weight"],
    "lora_bias": True,
    "megatron_config": {"a": 1},
    "loftq_config": {"loftq_bits": 4},
    "corda_config": {},
    "lora_ga_config": {},
    "arrow_config": {},
    "kasa_config": {},
    "velora_config": {},
    "monteclora_config": {},
    "use_bdlora": {},
    "use_qalora": True,
    "ensure_weight_tying": True,
    "peft_type": "IA3",
    "task_type": "SEQ_CLS",
    "init_lora_weights": "pissa",
    "auto_mapping": {"base_model_class": "os; rm"},
}


@pytest.mark.contract("A3")
def test_a3_what_can_not_be_served_is_refused_by_name():
    for key, value in NOT_SERVABLE.items():
        assert refusals(GOOD, with_config(**{key: value})) == {(key, "NOT_SERVABLE")}
    told = refusals(GOOD, with_config(**NOT_SERVABLE))
    assert told == {(key, "NOT_SERVABLE") for key in NOT_SERVABLE}
    for init in ("pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "mica", 1, ["x"]):
        told = refusals(GOOD, with_config(init_lora_weights=init))
        assert told == {("init_lora_weights", "NOT_SERVABLE")}
    assert refusals(GOOD, with_config(new_thing=None)) == {("new_thing", "CONFIG_KEY_UNKNOWN")}


@pytest.mark.contract("A3")
@pytest.mark.parametrize(
    "more",
    [
        {"r": 0},
        {"r": True},
        {"r": 4.0},
        {"r": 10**9},
        {"lora_alpha": 0},
        {"lora_alpha": 1e300},
        {"lora_alpha": "8"},
        {"use_rslora": 1},
        {"target_modules": None},
        {"target_modules": []},
        {"target_modules": {"a": 1}},
        {"target_modules": "(q_proj"},
        {"target_modules": r"(?=.*)q_proj"},
        {"target_modules": r"(.)\1"},
        {"target_modules": "x" * 5000},
        {"target_modules": "(x{1000}){1000}"},
        {"target_modules": ".*q_proj", "layers_to_transform": 0},
        {"exclude_modules": 3},
        {"layers_to_transform": [-1]},
        {"layers_to_transform": [0] * 5000},
        {"layers_to_transform": [0, 1], "layers_pattern": ".*"},
        {"layers_to_transform": [0, 1], "layers_pattern": ["layers"] * 101},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": [1]},
        {"alpha_pattern": {"q_proj": None}},
        {"alpha_pattern": {"(": 1}},
    ],
    ids=str,
)
def test_a3_a_config_value_that_is_none_is_told(more):
    key = list(more)[-1 if "layers_pattern" in more or "layers_to_transform" in more else 0]
    told = refusals(GOOD, with_config(**more))
    assert any(subject.startswith(key) and code == "CONFIG_VALUE_WRONG" for subject, code in told)


def _edited(**edits):
    """The good tensors with some replaced, or dropped where None is given."""
    made = {**tensors(TARGETS), **edits}
    return save({key: value for key, value in made.items() if value is not None})


A, B = f"{Q0}.lora_A.weight", f"{Q0}.lora_B.weight"
MODULE = "model.layers.0.self_attn.q_proj"


@pytest.mark.contract("A3")
@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ({A: np.ones((4, 9), "f4")}, {(A, "SHAPE_WRONG")}),
        ({B: np.ones((8, 8), "f4")}, {(B, "SHAPE_WRONG")}),
        ({A: np.ones(32, "f4")}, {(A, "SHAPE_WRONG")}),
        ({B: None}, {(MODULE, "TENSOR_MISSING")}),
        ({A: None, B: None}, {(MODULE, "TENSORS_MISSING")}),
        ({"x.lora_A.weight": np.ones((4, 8), "f4")}, {("x.lora_A.weight", "MODULE_UNKNOWN")}),
        ({"what": np.ones(3, "f4")}, {("what", "TENSOR_UNKNOWN")}),
        ({f"{Q0}.lora_B.bias": np.ones(8, "f4")}, {(f"{Q0}.lora_B.bias", "TENSOR_UNKNOWN")}),
        ({f"{Q0}.lora_A.default.weight": np.ones((4, 8), "f4")}, {(A, "TENSOR_REPEATED")}),
        ({A: np.full((4, 8), np.nan, "f4")}, {(A, "TENSOR_NOT_FINITE")}),
        ({B: np.full((8, 4), -np.inf, "f2")}, {(B, "TENSOR_NOT_FINITE")}),
    ],
)  # fmt: skip
def test_a3_tensors_that_do_not_fit_are_told(edits, told):
    assert refusals(_edited(**edits), with_config()) == told


@pytest.mark.contract("A3")
def test_a3_one_number_that_is_none_is_found_wherever_it_is():
    for dtype in ("f2", "f4", "f8"):
        for position in (0, 13, 31):
            spoilt = np.ones(32, dtype)
            spoilt[position] = np.inf
            weights = _edited(**{A: spoilt.reshape(4, 8)})
            for chunk in (3, 4096):
                told = refusals(weights, with_config(), chunk=chunk)
                assert told == {(A, "TENSOR_NOT_FINITE")}


@pytest.mark.contract("A3")
def test_a3_bfloat16_is_understood():
    made = {}
    for key, value in tensors(TARGETS).items():
        made[key] = (value.astype("<f4").view("<u4") >> 16).astype("<u2")
    assert admit(_bf16(made), with_config())
    made[A].reshape(-1)[5] = 0x7F80  # infinity
    assert refusals(_bf16(made), with_config()) == {(A, "TENSOR_NOT_FINITE")}


def _bf16(made):
    header, data = {}, b""
    for key, value in made.items():
        content = value.tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[key] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": offsets}
        data += content
    return _raw(header, data)


@pytest.mark.contract("A3")
def test_a3_an_update_that_changes_nothing_is_refused():
    nothing = {k: np.zeros_like(v) for k, v in tensors(TARGETS).items() if "lora_B" in k}
    told = {("adapter_model.safetensors", "UPDATE_ALL_ZERO")}
    assert refusals(_edited(**nothing), with_config()) == told
    negative = {k: -v for k, v in nothing.items()}
    assert refusals(_edited(**negative), with_config()) == told
    one_left = {k: v for k, v in nothing.items() if "layers.0" in k}
    assert admit(_edited(**one_left), with_config())


@pytest.mark.contract("A3")
def test_a3_an_adapter_for_no_module_of_the_base_is_refused():
    shapes = {"transformer.h.0.attn.c_attn": (8, 8)}
    told = refusals(*adapter_bytes(shapes))
    assert ("adapter_model.safetensors", "MAPS_TO_NOTHING") in told
    told = refusals(GOOD, with_config(target_modules=["k_proj"]))
    assert told == {(m, "MODULE_NOT_TARGETED") for m in TARGETS} | {
        (m, "TENSORS_MISSING") for m in SHAPES if "k_proj" in m
    }


@pytest.mark.contract("A3")
def test_a3_all_problems_are_told_at_once(lite):
    weights = _edited(**{A: np.full((4, 9), np.nan, "f4"), "what": np.ones(3, "f4")})
    text = json.dumps(with_config(use_dora=True, colour="red")).encode()
    delta = Delta(lite.upload(weights), lite.upload(text))
    profile = Profile(
        template="{% for x in y %}{% endfor %}",
        labels=("a", "a", " "),
        decoding=Decoding(temperature=-1, top_p=2, stop=("",)),
    )
    with pytest.raises(NotAdmitted) as caught:
        lite.publish(delta=delta, profile=profile, lineage=Lineage(training={"x": float("nan")}))
    codes = {problem.code for problem in caught.value.problems}
    assert codes >= {
        "TEMPLATE_NOT_ALLOWED",
        "LABEL_REPEATED",
        "LABEL_EMPTY",
        "OUT_OF_RANGE",
        "STOP_EMPTY",
        "FACT_NOT_PLAIN",
        "NOT_SERVABLE",
        "CONFIG_KEY_UNKNOWN",
        "TENSOR_UNKNOWN",
    }
    assert lite.registry.adapters.list("acme").items == []


@pytest.mark.contract("A3")
def test_a3_all_linear_means_what_the_file_has():
    shapes = {name: shape for name, shape in SHAPES.items() if "mlp" in name}
    weights, _ = adapter_bytes(shapes)
    assert len(admit(weights, with_config(target_modules="all-linear"))) == 4
    told = refusals(weights, with_config(target_modules="all-linear", exclude_modules=["up_proj"]))
    assert {code for _, code in told} == {"MODULE_NOT_TARGETED"}


@pytest.mark.contract("A3")
@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
@pytest.mark.parametrize("adapter", ["", ".default"])
def test_a3_old_and_new_keys_are_understood(prefix, adapter):
    made = {
        key.replace("base_model.model.", prefix).replace(".weight", f"{adapter}.weight"): value
        for key, value in tensors(TARGETS).items()
    }
    modules = admit(save(made), with_config())
    assert {m.a_key for m in modules} | {m.b_key for m in modules} == set(made)


def _header_of(weights):
    (length,) = struct.unpack("<Q", weights[:8])
    return json.loads(weights[8 : 8 + length])


def _data_of(weights):
    (length,) = struct.unpack("<Q", weights[:8])
    return weights[8 + length :]


def _raw(header, data=b"", pad_to=0):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text = text.ljust(pad_to)
    return struct.pack("<Q", len(text)) + text + data


def _one(name="t", **fields):
    return {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **fields}}


DATA = b"\0" * 8
TWO = {**_one("a"), **_one("b", data_offsets=[8, 16])}


@pytest.mark.contract("A4")
@pytest.mark.parametrize(
    ("weights", "code"),
    [
        (b"", "TRUNCATED"),
        (b"\1\0\0", "TRUNCATED"),
        (struct.pack("<Q", 2**63) + b"{}", "HEADER_TOO_LARGE"),
        (struct.pack("<Q", 1000) + b"{}", "TRUNCATED"),
        (_raw(b"[]"), "HEADER_MALFORMED"),
        (_raw(b" {}"), "HEADER_MALFORMED"),
        (_raw(b"{}"), "TENSOR_COUNT"),
        (_raw(b"{\xff}"), "HEADER_MALFORMED"),
        (_raw(b"{" + b'"a":{' * 90_000), "HEADER_MALFORMED"),
        (_raw(b'{"a":' + b"[" * 90_000), "HEADER_MALFORMED"),
        (_raw(b'{"t":1,"t":2}'), "HEADER_MALFORMED"),
        (_raw(b'{"t":NaN}'), "HEADER_MALFORMED"),
        (_raw(b'{"t":' + b"9" * 9000 + b"}"), "HEADER_MALFORMED"),
        (_raw({"t": 3}), "TENSOR_MALFORMED"),
        (_raw(_one(name="a\0b"), DATA), "TENSOR_MALFORMED"),
        (_raw(_one(name=""), DATA), "TENSOR_MALFORMED"),
        (_raw(_one(name="x" * 600), DATA), "TENSOR_MALFORMED"),
        (_raw(_one(extra=1), DATA), "TENSOR_MALFORMED"),
        (_raw(_one(shape=[-2]), DATA), "TENSOR_MALFORMED"),
        (_raw(_one(shape=[2.0]), DATA), "TENSOR_MALFORMED"),
        (_raw(_one(shape=[True, 2]), DATA), "TENSOR_MALFORMED"),
        (_raw(_one(shape=[1] * 9), DATA), "TENSOR_MALFORMED"),
        (_raw(_one(shape=[2**40, 2**40]), DATA), "OFFSETS_WRONG"),
        (_raw(_one(dtype="I64"), DATA), "DTYPE_REFUSED"),
        (_raw(_one(dtype="F8_E4M3"), DATA), "DTYPE_REFUSED"),
        (_raw(_one(data_offsets=[0, 4]), DATA), "OFFSETS_WRONG"),
        (_raw(_one(data_offsets=[8, 0]), DATA), "OFFSETS_WRONG"),
        (_raw(_one(data_offsets=[-8, 0]), DATA), "TENSOR_MALFORMED"),
        (_raw({**TWO, **_one("b")}, DATA), "OFFSETS_WRONG"),
        (_raw({**TWO, **_one("b", data_offsets=[16, 24])}, DATA * 3), "OFFSETS_WRONG"),
        (_raw(TWO, DATA), "TRUNCATED"),
        (_raw(TWO, DATA * 3), "TRAILING_BYTES"),
        (_raw({**TWO, "__metadata__": {"a": 1}}, DATA * 2), "METADATA_MALFORMED"),
        (_raw({**TWO, "__metadata__": []}, DATA * 2), "METADATA_MALFORMED"),
    ],
)
def test_a4_a_hostile_header_is_a_typed_refusal(weights, code):
    assert {told for _, told in refusals(weights, GOOD_CONFIG)} == {code}


@pytest.mark.contract("A4")
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b'{"r": 1, "r": 2}',
        b'{"r": Infinity}',
        b"[" * 100_000,
        b'{"r": ' + b"9" * 5000 + b"}",
        b'"' + b"x" * (2 << 20) + b'"',
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a4_a_hostile_config_is_a_typed_refusal(text):
    told = refusals(GOOD, text)
    assert {code for _, code in told} <= {
        "CONFIG_MALFORMED",
        "CONFIG_TOO_LARGE",
        "CONFIG_KEY_MISSING",
        "CONFIG_VALUE_WRONG",
    }


@pytest.mark.contract("A4")
def test_a4_patterns_that_blow_up_are_bounded():
    evil = ["(a+)+$", "(.*)*x", "(.*.*.*.*)*y", "(a|aa)+$", "((a?){30}){30}"]
    for pattern in evil:
        assert refusals(GOOD, with_config(target_modules=pattern))
        assert refusals(GOOD, with_config(exclude_modules=pattern + "|.*"))
        admit(GOOD, with_config(rank_pattern={pattern: 9}))
    many = {f"x{i}.*.*.*z": 1 for i in range(4000)}
    assert refusals(GOOD, with_config(rank_pattern=many))
    plain = {f"model.layers.{i}.self_attn.q_proj": 1 for i in range(2, 4000)}
    assert admit(GOOD, with_config(rank_pattern=plain))


@pytest.mark.contract("A4")
def test_a4_a_huge_file_is_read_in_bounded_memory():
    shapes = {"model.layers.0.mlp.up_proj": (8, 16)}
    weights, text = adapter_bytes(shapes)
    big = 64 << 20
    header = {
        **_header_of(weights),
        "ballast": {"dtype": "F32", "shape": [big // 4], "data_offsets": [384, 384 + big]},
    }
    assert len(_data_of(weights)) == 384
    start = _raw(header, _data_of(weights))

    def read(name):
        if name == digest("config"):
            yield text
            return
        yield start
        for _ in range(big >> 20):
            yield bytes(1 << 20)

    delta = Delta(
        BlobRef(digest("weights"), len(start) + big), BlobRef(digest("config"), len(text))
    )
    tracemalloc.start()
    with pytest.raises(NotAdmitted) as caught:
        Admission(read).admit(tiny_base(), delta, [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [problem.subject for problem in caught.value.problems] == ["ballast"]
    assert peak < 16 << 20


@pytest.mark.contract("A4")
def test_a4_limits_are_the_callers_to_set():
    small = Limits(max_header_bytes=100)
    assert {c for _, c in refusals(GOOD, GOOD_CONFIG, limits=small)} == {"HEADER_TOO_LARGE"}
    few = Limits(max_tensors=3)
    assert {c for _, c in refusals(GOOD, GOOD_CONFIG, limits=few)} == {"TENSOR_COUNT"}
    low = Limits(max_rank=2)
    assert ("r", "CONFIG_VALUE_WRONG") in refusals(GOOD, GOOD_CONFIG, limits=low)


@pytest.mark.contract("A4")
def test_a4_a_refused_publish_leaves_nothing_visible(tiny, tmp_path):
    delta = tiny.delta(use_dora=True)
    before = tiny.registry.reader.latest_sequence()
    with pytest.raises(NotAdmitted):
        tiny.publish(delta=delta, request_id="r")
    assert tiny.registry.reader.latest_sequence() == before
    assert tiny.registry.adapters.list("acme").items == []
    assert not [path for path in (tmp_path / "blobs/staging").rglob("*") if path.is_file()]
