"""Grouped products over stacks of adapters, beside a product for each."""

import pytest
import torch
from engine_harness import at_work
from engine_oracle import Oracle

from loradock.engine.lora import LoraAdapter, LoraPair, Segment
from loradock.engine.stacks import LONG, SLOTS, Group, Stacks, grouped, work_on

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)
pytestmark = pytest.mark.skipif(
    not work_on(CPU, torch.float32), reason="this torch has no grouped products"
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
    stacks = Stacks()
    ranks = [8, 3, 8, 5, 16, 9, 8]  # of two stacks, in any order
    adapters = [stacks.put(an_adapter(f"a{i}", r, dtype=dtype)) for i, r in enumerate(ranks)]
    segments, end = side_by_side(adapters, [1, 2, 1, 7, 1, 3, 1])
    parts = grouped(segments, CPU)
    assert [type(part) for part in parts] == [Group, Group]
    x = torch.randn(end + 2, 32, dtype=dtype)
    for module in ("q", "k"):
        one, each = added(parts, module, x), added(segments, module, x)
        torch.testing.assert_close(one, each, rtol=0.02, atol=1e-4 if dtype == DTYPES[0] else 0.5)
        assert one[1:end].abs().min() > 0
        assert not one[0].any() and not one[end:].any()


def test_nothing_is_multiplied_for_modules_that_no_active_adapter_has():
    stacks = Stacks()
    idle = stacks.put(an_adapter("idle", modules=("q", "v")))
    active = [stacks.put(an_adapter(name, modules=("q",))) for name in ("a", "b")]
    (group,) = grouped(side_by_side(active, [1, 1])[0], CPU)
    assert isinstance(group, Group)
    assert group.stack is idle.stack
    assert group.modules == {"q"}


def test_a_slot_used_again_keeps_nothing_of_the_adapter_before():
    stacks = Stacks()
    others = [stacks.put(an_adapter(f"a{i}", modules=("q", "k"))) for i in range(SLOTS)]
    stacks.take_out(others[3])
    fresh = stacks.put(an_adapter("fresh", rank=2, modules=("q",)))
    assert fresh.place == others[3].place
    segments, end = side_by_side([fresh, others[5]], [2, 2])
    x = torch.randn(end, 32)
    parts = grouped(segments, CPU)
    for module in ("q", "k"):
        torch.testing.assert_close(added(parts, module, x), added(segments, module, x))


def test_few_long_segments_and_lone_ones_have_products_of_their_own():
    stacks = Stacks()
    two = [stacks.put(an_adapter(f"a{i}")) for i in range(2)]
    long, _ = side_by_side(two, [LONG + 1, LONG])
    assert grouped(long, CPU) == long
    assert grouped(long[:1], CPU) == long[:1]
    assert grouped([], CPU) == []


def test_stacks_fill_up_and_go_when_they_are_empty():
    stacks = Stacks()
    adapters = [stacks.put(an_adapter(f"a{i}")) for i in range(SLOTS + 1)]
    first, second = adapters[0].stack, adapters[-1].stack
    assert {id(a.stack) for a in adapters} == {id(first), id(second)}
    for adapter in adapters[:-1]:
        stacks.take_out(adapter)
    assert not first.factors and second.factors


def test_what_there_is_no_memory_for_takes_no_slot_and_keeps_no_memory(monkeypatch):
    def run_out(self, *shape):
        raise torch.OutOfMemoryError("out of memory")

    stacks = Stacks()
    kept = stacks.put(an_adapter("a"))
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "new_zeros", run_out)
        for adapter in (an_adapter("b", modules=("q", "v")), an_adapter("c", rank=32)):
            for _ in range(SLOTS):
                with pytest.raises(torch.OutOfMemoryError):
                    stacks.put(adapter)
    assert len(kept.stack.free) == SLOTS - 1
    assert stacks.put(an_adapter("b")).stack is kept.stack
    assert stacks.put(an_adapter("c", rank=32)).stack.number == 1


def test_auto_has_no_stacks_on_a_cpu_and_the_engine_gives_slots_back(tiny_base, tiny_adapter):
    oracle = Oracle.load(tiny_base, tiny_adapter(7))
    assert oracle.digest is not None
    with at_work(tiny_base, "stacks") as work:
        assert "stacks" in work.engine.decoder.description
        for _ in range(2 * SLOTS):
            work.engine.make_resident(oracle.source)
            work.engine.release(oracle.digest)
        work.engine.make_resident(oracle.source)
        assert work.engine._resident[oracle.digest].place[0] == 0
    with at_work(tiny_base, "modules") as work:
        assert "stacks" not in work.engine.decoder.description
