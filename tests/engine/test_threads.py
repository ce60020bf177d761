"""Engines that share a process share how many threads torch has."""

from concurrent.futures import ThreadPoolExecutor

import torch
from engine_harness import AtWork, usable_decoder

from loradock.engine.cpu.decoder import CpuDecoder
from loradock.engine.engine import BuiltinEngine
from loradock.engine.loading import load_base


def on_a_new_thread(function):
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function).result()


def test_torch_has_its_threads_back_once_the_last_engine_has_ended(tiny_base):
    usable_decoder("cpu")
    torch.set_num_threads(3)

    def at_work():
        engine = BuiltinEngine(load_base(tiny_base, "base"), max_rows=1, decoder="cpu")
        assert isinstance(engine.decoder, CpuDecoder)
        assert engine.decoder._team.threads == 3  # whatever another engine has torch do
        work = AtWork(engine)
        work.generate([3, 4, 5], max_tokens=2)
        return work

    first, second = (on_a_new_thread(at_work) for _ in range(2))
    first.engine.close()
    assert on_a_new_thread(torch.get_num_threads) == 1
    second.engine.close()
    assert on_a_new_thread(torch.get_num_threads) == 3
