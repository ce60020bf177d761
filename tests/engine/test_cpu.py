"""The kernels for CPUs: what they don't do, what 8 bits cost, and where they can't be had."""

import dataclasses

import pytest
import torch
from engine_harness import at_work
from engine_oracle import Oracle

from loradock.engine.cpu import library
from loradock.engine.cpu.decoder import CpuDecoder
from loradock.engine.cpu.library import NoKernels, load_kernels
from loradock.engine.cpu.packing import Kind, pack
from loradock.engine.errors import BaseError

NUM_TOKENS = 12


@pytest.fixture(autouse=True)
def kernels():
    try:
        load_kernels()
    except NoKernels as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def sources(tiny_base, tiny_adapter):
    """Many adapters of one kind: copies of one file under digests of their own."""
    source = Oracle.load(tiny_base, tiny_adapter(0, rank=16)).source
    return [dataclasses.replace(source, digest=f"sha256:{i:064x}") for i in range(64)]


def spent(base, sources, askers):
    """Count what it takes to answer some rows, with all of `sources` resident."""
    with at_work(base, "cpu", step_tokens=256) as work:
        for source in sources:
            work.engine.make_resident(source)
        decoder = work.engine.decoder
        assert isinstance(decoder, CpuDecoder)
        before = dataclasses.replace(decoder.counts)
        rows = [work.ask(range(10, 30), asker, max_tokens=NUM_TOKENS) for asker in askers]
        work.results(rows)
        after = decoder.counts
        return (
            after.multiply_adds - before.multiply_adds,
            work.engine.state().num_steps,
            after.weight_bytes - before.weight_bytes,
        )


def test_adapters_that_nobody_asks_for_cost_not_one_operation(tiny_base, sources):
    alone, num_steps, _ = spent(tiny_base, [], [None])
    beside, same_steps, _ = spent(tiny_base, sources, [None])
    assert num_steps == same_steps
    assert alone == beside > 0


def test_what_is_active_counts_and_not_what_is_resident(tiny_base, sources):
    few = [source.digest for source in sources[:1]]
    with_one, *_ = spent(tiny_base, sources[:1], few)
    with_all, *_ = spent(tiny_base, sources, few)
    bare, *_ = spent(tiny_base, sources, [None])
    assert with_one == with_all > bare


@pytest.mark.parametrize(("outputs", "inputs"), [(16, 8), (5, 3), (33, 64), (300, 20)])
@pytest.mark.parametrize("kind", Kind)
def test_packing_keeps_every_weight_in_its_place(kind, outputs, inputs):
    weight = torch.randn(outputs, inputs)
    packed = pack(weight, kind)
    panels, runs, lanes, run = packed.data.shape
    unpacked = packed.data.permute(0, 2, 1, 3).reshape(panels * lanes, runs * run)
    assert not unpacked[outputs:].any()
    assert not unpacked[:, inputs:].any()
    found = unpacked[:outputs, :inputs].float()
    if packed.scales is not None:
        found *= packed.scales[:outputs, None]
        step = weight.abs().amax(1, keepdim=True) / 127
        assert ((found - weight).abs() <= step * 0.501).all()
    else:
        assert torch.equal(found, weight.to(kind.dtype).float())


def test_eight_bits_stay_close_and_adapters_keep_their_say(tiny_base, tiny_adapter):
    oracle = Oracle.load(tiny_base, tiny_adapter(3, rank=16))
    prompt, answers = list(range(10, 40)), [[i, i + 1, i + 2] for i in range(40, 60)]
    with at_work(tiny_base, "cpu", dtype="int8") as work:
        assert work.engine.base.profile == "cpu/int8"
        work.engine.make_resident(oracle.source)
        adapted = torch.tensor(work.score(prompt, answers, oracle.digest).scores)
        bare = torch.tensor(work.score(prompt, answers).scores)
    with at_work(tiny_base, "cpu") as work:
        work.engine.make_resident(oracle.source)
        exact = torch.tensor(work.score(prompt, answers, oracle.digest).scores)
    assert (adapted - exact).abs().mean() < 0.1 * (bare - exact).abs().mean()
    assert not torch.equal(adapted, exact)


def test_eight_bits_are_refused_where_there_are_no_kernels_for_them(tiny_base):
    with pytest.raises(BaseError, match="kernels"), at_work(tiny_base, "modules", dtype="int8"):
        pass


def test_a_machine_without_a_compiler_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    with pytest.raises(NoKernels, match="could not be run"):
        library.build_kernels(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_was_built_is_used_again(tmp_path):
    built = library.build_kernels(tmp_path)
    stamp = built.stat().st_mtime_ns
    assert library.build_kernels(tmp_path) == built
    assert built.stat().st_mtime_ns == stamp
    assert list(tmp_path.iterdir()) == [built]


def test_folder_that_can_not_be_written_is_a_reason_and_no_failure(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NoKernels, match="can't be kept"):
        library.build_kernels(tmp_path / "file" / "kernels")
