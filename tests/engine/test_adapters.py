"""What the engine answers with an adapter is what PEFT does, alone and among all others."""

import gc
import random
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from engine_harness import at_work, usable_decoder
from engine_oracle import Oracle
from engine_zoo import TINY_ZOO
from tiny_base import VOCAB_SIZE

from loradock.engine.errors import OutOfMemory
from loradock.engine.protocol import Finish

NUM_TOKENS = 64
MIN_REFUSED = 0.5  # the share of an adapter's tokens that the base would clearly not choose


def random_prompt(length, seed=0):
    return random.Random(f"{length} {seed}").choices(range(3, VOCAB_SIZE), k=length)


PROMPTS = [random_prompt(length) for length in (1, 7, 16, 33, 100)]


@pytest.fixture(scope="module", params=["modules", "stacks", "cpu"])
def decoder(request):
    """Adapters in stacks too: what a GPU computes, on this device."""
    return usable_decoder(request.param)


@pytest.fixture(scope="module")
def everyone(work, zoo, bare_oracle):
    """Oracles of the base and of all adapters; the engine has them all."""
    for oracle in zoo.values():
        work.engine.make_resident(oracle.source)
    return [bare_oracle, *zoo.values()]


def ask(work, oracle, prompt, **options):
    return work.ask(prompt, oracle.digest, max_tokens=NUM_TOKENS, **options)


def assert_right(oracle, prompt, result):
    assert (result.finish, len(result.tokens)) == (Finish.LENGTH, NUM_TOKENS)
    oracle.assert_greedy(prompt, result.tokens)


@pytest.mark.parametrize("name", TINY_ZOO)
def test_s1_an_adapter_alone_says_what_peft_does(work, zoo, bare_oracle, name):
    work.engine.make_resident(zoo[name].source)
    for prompt in PROMPTS:
        result = work.result(ask(work, zoo[name], prompt))
        assert_right(zoo[name], prompt, result)
        assert bare_oracle.share_refused(prompt, result.tokens) > MIN_REFUSED


def bytes_of_tensors():
    """Count what all tensors of this process hold, once."""
    gc.collect()
    storages = [t.untyped_storage() for t in gc.get_objects() if type(t) is torch.Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.contract("S8")
def test_s8_an_adapter_takes_the_bytes_that_are_foreseen_and_gives_them_back(
    tiny_base, decoder, zoo
):
    """The budget counts them by this, and evicts by it."""
    sources = [oracle.source for oracle in zoo.values()]
    with at_work(tiny_base, decoder) as work:
        before = bytes_of_tensors()
        for taken in sources:
            was = bytes_of_tensors()
            told = work.engine.make_resident(taken).size_bytes
            assert bytes_of_tensors() - was == told == work.engine.size_of(taken.modules) > 0
        for given_back in sources:
            was = bytes_of_tensors()
            work.engine.release(given_back.digest)
            assert was - bytes_of_tensors() == work.engine.size_of(given_back.modules)
        assert bytes_of_tensors() == before


@contextmanager
def no_more_memory():
    """Let this process map nothing more, for real."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (num_pages * resource.getpagesize(), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="reads what is mapped from /proc")
def test_s9_no_memory_for_an_adapter_fails_that_adapter_alone(work, zoo, tiny_base, tiny_adapter):
    small, big = (
        zoo["rank 4, attention"],
        Oracle.load(tiny_base, tiny_adapter(99, rank=8192)),
    )  # too much for the heap
    work.engine.make_resident(small.source)
    before = work.engine.state().resident
    with no_more_memory(), pytest.raises(OutOfMemory, match="lower max_adapter_bytes"):
        work.engine.make_resident(big.source)
    assert work.engine.state().resident == before
    assert_right(small, PROMPTS[1], work.result(ask(work, small, PROMPTS[1])))
    assert work.engine.make_resident(big.source).size_bytes > 20 << 20


def test_s1_the_bare_base_says_what_transformers_does(work, bare_oracle):
    for prompt in PROMPTS:
        assert_right(bare_oracle, prompt, work.result(ask(work, bare_oracle, prompt)))


def test_s1_s2_all_adapters_and_the_base_in_one_batch(work, everyone):
    """More rows than the engine runs at once, of prompts of different lengths."""
    asked = [(oracle, prompt) for prompt in PROMPTS for oracle in everyone]
    random.Random(0).shuffle(asked)
    together = work.results([ask(work, *pair, salt="together") for pair in asked])
    for (oracle, prompt), result in zip(asked, together, strict=True):
        assert_right(oracle, prompt, result)
    for (oracle, prompt), result in list(zip(asked, together, strict=True))[::3]:
        alone = work.result(ask(work, oracle, prompt, salt="alone"))
        oracle.assert_same(prompt, result.tokens, alone.tokens)


def test_s2_rows_join_and_leave_in_the_middle(work, everyone):
    """Each row's 9th token brings in the next row; every third row is cancelled at its 20th."""
    asked = [(oracle, PROMPTS[at % len(PROMPTS)]) for at, oracle in enumerate(everyone * 2)]
    rows: list[str] = []

    def ask_next():
        row = ask(work, *asked[len(rows)], salt="joining")
        if len(rows) % 3 == 2:
            work.when(row, 20, lambda: work.engine.cancel(row))
        rows.append(row)
        if len(rows) < len(asked):
            work.when(row, 9, ask_next)

    ask_next()
    work.wait_until(lambda: len(rows) == len(asked))
    for at, ((oracle, prompt), result) in enumerate(zip(asked, work.results(rows), strict=True)):
        wanted = (Finish.CANCELLED, 20) if at % 3 == 2 else (Finish.LENGTH, NUM_TOKENS)
        assert (result.finish, len(result.tokens)) == wanted
        oracle.assert_greedy(prompt, result.tokens)


@pytest.mark.parametrize(("max_rows", "step_tokens"), [(1, 1), (3, 4), (5, 23)])
def test_s2_prompts_in_small_chunks_beside_running_rows(
    tiny_base, decoder, everyone, max_rows, step_tokens
):
    settings = {"max_rows": max_rows, "step_tokens": step_tokens}
    with at_work(tiny_base, decoder, **settings) as work:
        for oracle in everyone[1:]:
            work.engine.make_resident(oracle.source)
        asked = [(everyone[at], PROMPTS[-at % 5]) for at in range(len(everyone))]
        rows = [ask(work, *pair) for pair in asked]
        for (oracle, prompt), result in zip(asked, work.results(rows), strict=True):
            assert_right(oracle, prompt, result)
        assert not max_rows > 1 or work.engine.state().num_steps < len(rows) * NUM_TOKENS


def test_s1_a_full_context(work, zoo, everyone):
    """A prompt and an answer that fill all positions that the base has."""
    oracle = zoo["rank 16, all linear"]
    prompt = random_prompt(work.engine.base.context_length - NUM_TOKENS)
    assert_right(oracle, prompt, work.result(ask(work, oracle, prompt)))


def test_s2_more_rows_than_memory_holds(tiny_base, decoder, everyone):
    """Rows wait for others' blocks, and take over what those have left."""
    with at_work(tiny_base, decoder, max_rows=8, kv_tokens=512) as work:
        for oracle in everyone[1:]:
            work.engine.make_resident(oracle.source)
        asked = [(oracle, prompt) for prompt in PROMPTS[1:] for oracle in everyone]
        rows = [ask(work, *pair) for pair in asked]
        for (oracle, prompt), result in zip(asked, work.results(rows), strict=True):
            assert_right(oracle, prompt, result)


def test_the_oracle_refuses_another_adapters_tokens(zoo, bare_oracle):
    """The tests above would notice: a token of the base's is not an adapter's."""
    prompt = PROMPTS[2]
    tokens: list[int] = []
    for _ in range(8):
        tokens.append(int(bare_oracle.logits([*prompt, *tokens])[-1].argmax()))
    bare_oracle.assert_greedy(prompt, tokens)
    for oracle in zoo.values():
        with pytest.raises(AssertionError, match="behind the oracle's best"):
            oracle.assert_greedy(prompt, tokens)


def test_bfloat16_stays_near_the_float32_oracle(tiny_base, decoder, everyone):
    with at_work(tiny_base, decoder, dtype="bfloat16") as work:
        for oracle in everyone[1:]:
            work.engine.make_resident(oracle.source)
        rows = [ask(work, oracle, PROMPTS[3]) for oracle in everyone]
        for oracle, result in zip(everyone, work.results(rows), strict=True):
            assert len(result.tokens) == NUM_TOKENS
            assert oracle.share_refused(PROMPTS[3], result.tokens) < 0.1
