"""Blocks are free, used or cached; names find what was finished under them, and nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradock.engine.blocks import BlockPool, next_link, root_of
from loradock.engine.protocol import Generate, Sampling
from loradock.engine.rows import GenerateRow

NAMES = [f"name {number}".encode() for number in range(8)]
ADAPTERS = st.sampled_from([None, "", "None", "base", "sha256:1", "sha256:2"])
SALTS = st.sampled_from(["", "a", "b", "adapter", "salt"])


@settings(deadline=None)
@given(ADAPTERS, SALTS, ADAPTERS, SALTS)
def test_s5_namespaces_are_told_apart(adapter, salt, other_adapter, other_salt):
    is_same = (adapter, salt) == (other_adapter, other_salt)
    assert (root_of(adapter, salt) == root_of(other_adapter, other_salt)) == is_same


def chain_of(tokens, adapter=None, salt=""):
    """Name every whole block of two tokens, as a row of theirs does."""
    row = GenerateRow(Generate("row", tuple(tokens), Sampling(1), adapter, salt), 0)
    return [row.link(block, 2) for block in range(len(tokens) // 2)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=9), st.lists(st.integers(0, 3), max_size=9))
def test_s5_chains_are_equal_as_far_as_whole_blocks_are(tokens, others):
    one, other = chain_of(tokens), chain_of(others)
    assert (len(one), len(other)) == (len(tokens) // 2, len(others) // 2)
    for at, (link, other_link) in enumerate(zip(one, other, strict=False)):
        end = 2 * at + 2
        assert (link == other_link) == (tokens[:end] == others[:end])


def test_a_chain_is_its_links():
    first = next_link(root_of("sha256:1", "tenant"), [1, 2])
    chain = chain_of([1, 2, 3, 2**40, 5], "sha256:1", "tenant")
    assert chain == [first, next_link(first, [3, 2**40])]


def test_what_is_named_and_given_back_is_found_until_it_is_needed():
    pool = BlockPool(4)
    first, second = pool.take(2)
    pool.name(first, NAMES[0])
    pool.name(second, NAMES[1])
    assert pool.find(NAMES[:3]) == [first, second], "while it is still held, too"
    pool.give_back([first, second])
    assert (pool.num_free, pool.num_cached, pool.num_used) == (2, 2, 0)
    taken = pool.take(3)
    assert second in taken, "the end of a prefix goes before its beginning"
    assert pool.find(NAMES[:2]) == [first]
    assert pool.find(NAMES[1:2]) == []
    assert not pool.can_take(1, [first])
    assert pool.take(0, [first]) == [first]
    pool.check()


def test_nothing_is_taken_that_is_not_there():
    pool = BlockPool(3)
    held = pool.take(2)
    with pytest.raises(MemoryError):
        pool.take(2)
    assert pool.num_used == 2
    pool.give_back(held)
    assert pool.num_free == 3


def test_shared_blocks_are_held_until_the_last_lets_go():
    pool = BlockPool(2)
    (block,) = pool.take(1)
    pool.name(block, NAMES[0])
    assert pool.take(0, pool.find(NAMES[:1])) == [block]
    pool.give_back([block])
    assert (pool.num_used, pool.num_cached) == (1, 0)
    pool.give_back([block])
    assert (pool.num_used, pool.num_cached) == (0, 1)


def test_forgotten_blocks_are_not_found_though_others_hold_them():
    pool = BlockPool(2)
    (block,) = pool.take(1)
    pool.name(block, NAMES[0])
    pool.take(0, [block])
    pool.give_back([block], forget=True)
    assert pool.find(NAMES[:1]) == []
    pool.give_back([block])
    assert (pool.num_free, pool.num_cached) == (2, 0)
    pool.check()


def test_the_first_block_of_a_name_stays_the_one():
    pool = BlockPool(2)
    first, second = pool.take(2)
    pool.name(first, NAMES[0])
    pool.name(second, NAMES[0])
    pool.name(first, NAMES[1])
    assert pool.find(NAMES[:1]) == [first]
    assert pool.find(NAMES[1:2]) == []
    pool.check()


@pytest.mark.parametrize("spoil", ["lose", "double", "unname"])
def test_check_finds_accounts_that_do_not_add_up(spoil):
    pool = BlockPool(3)
    (block,) = pool.take(1)
    pool.name(block, NAMES[0])
    pool.give_back([block])
    pool.check()
    match spoil:
        case "lose":
            pool._free.pop()
        case "double":
            pool._free[0] = block
        case "unname":
            pool._name_of.clear()
    with pytest.raises(AssertionError):
        pool.check()


@settings(deadline=None)
@given(st.data())
def test_random_histories_add_up(data):
    """Holders take, name, share, let go and forget, in any order."""
    pool = BlockPool(data.draw(st.integers(1, 6)))
    held: list[list[int]] = []
    content: dict[int, bytes | None] = {}  # of blocks that someone has named
    for _ in range(data.draw(st.integers(0, 30))):
        shared = pool.find(data.draw(st.permutations(NAMES[:3])))
        num_new = data.draw(st.integers(0, 3))
        if data.draw(st.booleans()) and pool.can_take(num_new, shared):
            used_before = {block for blocks in held for block in blocks}
            taken = pool.take(num_new, shared)
            fresh = taken[len(shared) :]
            assert taken[: len(shared)] == shared
            assert len(set(taken)) == len(taken)
            assert not used_before & set(fresh), "a fresh block has one holder"
            for block, name in zip(fresh, data.draw(st.permutations(NAMES)), strict=False):
                content.pop(block, None)
                if data.draw(st.booleans()) and not pool.find([name]):
                    pool.name(block, name)
                    content[block] = name
            held.append(taken)
        elif held:
            blocks = held.pop(data.draw(st.integers(0, len(held) - 1)))
            pool.give_back(blocks, forget=data.draw(st.booleans()))
        pool.check()
        assert pool.num_used == len({block for blocks in held for block in blocks})
        for name in NAMES:
            assert all(content[block] == name for block in pool.find([name]))
