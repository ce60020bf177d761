"""What is kept of a prompt is used again for the same version and tenant, and for nobody else."""

import random
import shutil

import pytest
from engine_harness import at_work
from engine_oracle import Oracle
from tiny_base import VOCAB_SIZE

from loradock.engine.memory import BLOCK_TOKENS

NUM_BLOCKS = 4
PROMPT = random.Random(5).choices(range(3, VOCAB_SIZE), k=NUM_BLOCKS * BLOCK_TOKENS + 3)
CONTINUATIONS = [(5, 6, 7), (5, 6, 9, 10), (30,)]
NAMES = ("rank 16, all linear", "rsLoRA")


@pytest.fixture
def work(tiny_base, decoder, zoo):
    """An engine that nobody has asked anything yet."""
    with at_work(tiny_base, decoder) as running:
        for name in NAMES:
            running.engine.make_resident(zoo[name].source)
        yield running


@pytest.fixture(scope="module")
def others(zoo, bare_oracle):
    return [zoo[NAMES[0]], zoo[NAMES[1]], bare_oracle]


def test_s5_no_version_and_no_tenant_uses_what_another_left(work, others):
    asked = [(oracle, salt) for salt in ("", "a", "b", "ab") for oracle in others]
    for oracle, salt in asked:
        first = work.generate(PROMPT, oracle.digest, salt=salt, max_tokens=24)
        assert first.cached_tokens == 0
        oracle.assert_greedy(PROMPT, first.tokens)
    for oracle, salt in asked:
        again = work.generate(PROMPT, oracle.digest, salt=salt, max_tokens=24)
        assert again.cached_tokens == NUM_BLOCKS * BLOCK_TOKENS
        oracle.assert_greedy(PROMPT, again.tokens)


def test_s5_a_new_version_of_the_same_name_uses_nothing_of_the_old(work, zoo, tiny_base, tmp_path):
    """As a promotion leaves it: the same folder name, other weights, another digest."""
    old = zoo[NAMES[0]]
    folder = shutil.copytree(zoo[NAMES[1]].folder, tmp_path / "next")
    new = Oracle.load(tiny_base, folder)
    work.engine.make_resident(new.source)
    before = work.generate(PROMPT, old.digest)
    after = work.generate(PROMPT, new.digest)
    assert after.cached_tokens == 0
    new.assert_greedy(PROMPT, after.tokens)
    assert before.tokens != after.tokens


@pytest.mark.parametrize(
    ("length", "wanted"), [(15, 0), (16, 0), (17, 16), (32, 16), (33, 32), (34, 32)]
)
def test_s5_whole_blocks_are_used_again_but_never_the_last_token(work, others, length, wanted):
    for oracle in others:
        first = work.generate(PROMPT[:length], oracle.digest, max_tokens=24)
        again = work.generate(PROMPT[:length], oracle.digest, max_tokens=24)
        assert (first.cached_tokens, again.cached_tokens) == (0, wanted)
        oracle.assert_same(PROMPT[:length], first.tokens, again.tokens)
        oracle.assert_greedy(PROMPT[:length], again.tokens)


def test_s5_answers_are_used_again_as_prompts(work, others):
    """A chat's next turn begins with the last one's prompt and answer."""
    for oracle in others:
        first = work.generate(PROMPT, oracle.digest, max_tokens=40)
        prompt = [*PROMPT, *first.tokens, 3, 4]
        again = work.generate(prompt, oracle.digest)
        computed = len(PROMPT) + 40 - 1
        assert again.cached_tokens == computed // BLOCK_TOKENS * BLOCK_TOKENS
        oracle.assert_greedy(prompt, again.tokens)


def test_s5_rows_use_what_running_rows_have_computed(work, others):
    first = work.ask(PROMPT, others[0].digest, max_tokens=300)
    seen = []
    work.when(first, 1, lambda: seen.append(work.ask(PROMPT, others[0].digest)))
    work.wait_until(lambda: len(seen) == 1)
    again = work.result(seen[0])
    assert again.cached_tokens == NUM_BLOCKS * BLOCK_TOKENS
    others[0].assert_greedy(PROMPT, again.tokens)
    others[0].assert_greedy(PROMPT, work.result(first).tokens)


def test_s5_prompts_that_part_ways_share_what_they_share(work, others):
    oracle = others[1]
    work.generate(PROMPT, oracle.digest)
    for place in (0, 15, 16, 47, 48):
        other = [*PROMPT]
        other[place] = (other[place] + 1) % VOCAB_SIZE
        found = work.generate(other, oracle.digest, max_tokens=24)
        assert found.cached_tokens == place // BLOCK_TOKENS * BLOCK_TOKENS
        oracle.assert_greedy(other, found.tokens)


def test_s5_scores_use_prompts_and_leave_them_but_no_continuations(work, others):
    for oracle in others:
        first = work.score(PROMPT, CONTINUATIONS, oracle.digest)
        again = work.score(PROMPT, CONTINUATIONS, oracle.digest)
        longer = work.generate([*PROMPT, *CONTINUATIONS[0], *range(40, 60)], oracle.digest)
        whole = NUM_BLOCKS * BLOCK_TOKENS
        assert (first.cached_tokens, again.cached_tokens) == (0, whole)
        assert longer.cached_tokens == whole
        for one, other in zip(first.scores, again.scores, strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_s5_nothing_of_a_trie_is_kept(work):
    """Places after the prompt that fill more than a block, and hold branches side by side."""
    texts = [(first, second, 9) for first in range(10, 20) for second in range(5)]
    assert work.score(PROMPT, texts).cached_tokens == 0
    assert work.settled().num_cached_blocks == NUM_BLOCKS


def test_s5_what_is_kept_makes_room_for_new_rows(tiny_base, decoder, zoo, bare_oracle):
    """Memory for one long row: each row evicts what the one before left, the oldest first."""
    with at_work(tiny_base, decoder, kv_tokens=128) as work:
        for seed in range(6):
            prompt = random.Random(seed).choices(range(3, VOCAB_SIZE), k=64)
            first, again = (work.generate(prompt, max_tokens=33) for _ in range(2))
            assert (first.cached_tokens, again.cached_tokens) == (0, 48)
            bare_oracle.assert_greedy(prompt, first.tokens)
            bare_oracle.assert_greedy(prompt, again.tokens)
            state = work.settled()
            assert state.num_cached_blocks == 6
            assert state.num_blocks == 8


def test_s5_released_and_resident_again(work, zoo):
    """The same digest is the same content: what was kept for it still holds."""
    oracle = zoo[NAMES[0]]
    first = work.generate(PROMPT, oracle.digest)
    work.engine.release(oracle.digest)
    work.engine.release(oracle.digest)
    assert oracle.digest not in work.engine.state().resident
    told = work.engine.make_resident(oracle.source)
    assert told == work.engine.make_resident(oracle.source)
    assert work.engine.state().resident[oracle.digest] == told
    again = work.generate(PROMPT, oracle.digest)
    assert again.cached_tokens == NUM_BLOCKS * BLOCK_TOKENS
    oracle.assert_same(PROMPT, first.tokens, again.tokens)
