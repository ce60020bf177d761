"""A safetensors file is read as the package reads it, nothing is left behind, damage is told."""

import json
import tracemalloc

import pytest
import torch
from safetensors.torch import save, save_file

from loradock.engine.tensors import DTYPES, read_tensors

TENSORS = {
    f"{name} {shape}": torch.randn(shape).to(dtype)
    for name, dtype in DTYPES.items()
    for shape in ((3, 5), (7,), (0, 4), ())
}


def test_every_tensor_is_what_was_saved(tmp_path):
    save_file(TENSORS, tmp_path / "all", {"format": "pt"})
    found = read_tensors(tmp_path / "all")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_data_need_not_be_aligned(tmp_path):
    numbers = torch.arange(4, dtype=torch.float32)
    header = {"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    text = json.dumps(header).encode() + b" "
    text += b" " * (1 - len(text) % 2)  # an odd length
    (tmp_path / "odd").write_bytes(
        len(text).to_bytes(8, "little") + text + numbers.numpy().tobytes()
    )
    assert torch.equal(read_tensors(tmp_path / "odd")["x"], numbers)


@pytest.mark.parametrize("length", [0, 7, 8, 9, 60, -1])
def test_a_file_that_is_cut_short_is_told(tmp_path, length):
    content = save({"x": torch.ones(3, 5)})
    (tmp_path / "cut").write_bytes(content[:length])
    with pytest.raises(ValueError):
        read_tensors(tmp_path / "cut")


@pytest.mark.contract("S16")
def test_s16_reading_leaves_nothing_behind(tmp_path):
    save_file(TENSORS, tmp_path / "all")

    def read_often():
        for _ in range(50):
            read_tensors(tmp_path / "all")

    read_often()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    read_often()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 10_000, "an integer a tensor would be 22,400 bytes"
