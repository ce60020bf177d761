"""Grouped products over stacks of adapters, beside a product for each."""

import pytest
import torch
from engine_harness import at_work

from loradock.engine.lora import LoraAdapter, LoraPair, Segment
from loradock.engine.protocol import LinearShape
from loradock.engine.stacks import LONG, Group, grouped, padded, work_on

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)
pytestmark = pytest.mark.skipif(
    not work_on(CPU, torch.float32, [LinearShape(32, 48)]),
    reason="this torch has no grouped products",
)


def an_adapter(name, rank=8, modules=("q", "k"), dtype=torch.float32):
    draw = torch.Generator().manual_seed(sum(name.encode()))
    pairs = {
        module: LoraPair(
            torch.randn(rank, 32, generator=draw).to(dtype),
            torch.randn(48, rank, generator=draw).to(dtype),
        )
        for module in modules
    }
    return LoraAdapter(name, len(pairs), 0, pairs)


def side_by_side(adapters, lengths):
    """Give segments of these lengths, laid out as a step does, with one base token before."""
    segments, start = [], 1
    by_place = sorted(zip(adapters, lengths, strict=True), key=lambda pair: pair[0].place)
    for adapter, length in by_place:
        segments.append(Segment(adapter, start, start + length))
        start += length
    return segments, start


def added(parts, module, x):
    y = torch.zeros(len(x), 48, dtype=x.dtype)
    for part in parts:
        part.add_to(y, x, module)
    return y


@pytest.mark.parametrize("dtype", DTYPES)
def test_s2_one_product_adds_what_a_product_each_does(dtype):
    ranks = [8, 3, 8, 5, 16, 9, 8]  # padded to two, in any order
    adapters = [padded(an_adapter(f"a{i}", r, dtype=dtype)) for i, r in enumerate(ranks)]
    segments, end = side_by_side(adapters, [1, 2, 1, 7, 1, 3, 1])
    parts = grouped(segments, CPU)
    assert [type(part) for part in parts] == [Group, Group]
    x = torch.randn(end + 2, 32, dtype=dtype)
    for module in ("q", "k"):
        one, each = added(parts, module, x), added(segments, module, x)
        torch.testing.assert_close(one, each, rtol=0.02, atol=1e-4 if dtype == DTYPES[0] else 0.5)
        assert one[1:end].abs().min() > 0
        assert not one[0].any() and not one[end:].any()


def test_adapters_of_other_modules_share_products_and_add_nothing_where_they_have_none():
    some = [padded(an_adapter(name, modules=name)) for name in ("q", "qk", "v", "kq")]
    segments, end = side_by_side(some, [1, 2, 3, 4])
    (group,) = grouped(segments, CPU)
    assert isinstance(group, Group)
    x = torch.randn(end, 32)
    for module in ("q", "k", "v", "o"):
        each = added(segments, module, x)
        torch.testing.assert_close(added([group], module, x), each, rtol=0.02, atol=1e-4)
        assert each.any() == (module != "o")


def test_few_long_segments_and_lone_ones_have_products_of_their_own():
    two = [padded(an_adapter(f"a{i}")) for i in range(2)]
    long, _ = side_by_side(two, [LONG + 1, LONG])
    assert grouped(long, CPU) == long
    assert grouped(long[:1], CPU) == long[:1]
    assert grouped([], CPU) == []


@pytest.mark.parametrize("rank", [1, 3, 8, 9, 16, 64])
def test_padding_copies_what_is_short_alone_and_tells_what_it_takes(rank):
    adapter = an_adapter("a", rank)
    whole = padded(adapter)
    assert whole.rank == max(8, 1 << (rank - 1).bit_length())
    assert whole.size_bytes == 2 * whole.rank * (32 + 48) * 4
    for module, pair in whole.pairs.items():
        assert pair.a.untyped_storage().nbytes() == whole.rank * 32 * 4
        assert (pair is adapter.pairs[module]) == (rank == whole.rank)


def test_auto_has_no_stacks_on_a_cpu(tiny_base):
    for decoder in ("auto", "modules", "stacks"):
        with at_work(tiny_base, decoder) as work:
            assert ("in stacks" in work.engine.decoder.description) == (decoder == "stacks")
