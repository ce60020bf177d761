"""Places, positions and sights of rows: what a step computes, and what of it is asked for."""

import pytest

from loradock.engine.blocks import next_link, root_of
from loradock.engine.protocol import Generate, Sampling, Score
from loradock.engine.rows import Chunk, GenerateRow, Row, ScoreRow

PROMPT = (10, 11, 12)


def generating(max_tokens=4, **options):
    return GenerateRow(Generate("row", PROMPT, Sampling(max_tokens), **options), seed=0)


@pytest.fixture
def scoring():
    """A trie of 20 - 21 - (22, 23) and 20 - 30; inner: 20 at place 3, 21 at 4."""
    return ScoreRow(Score("row", PROMPT, ((20, 21, 22), (20, 21, 23), (20, 30))))


def test_a_prompt_is_computed_and_its_last_place_is_asked_for():
    row = generating()
    assert (row.num_places, row.num_remaining, row.most_places) == (3, 3, 6)
    assert [row.token(place) for place in range(3)] == list(PROMPT)
    assert [row.position(place) for place in range(3)] == [0, 1, 2]
    assert Chunk(row, 0, 2).wanted == []
    assert Chunk(row, 0, 3).wanted == Chunk(row, 2, 3).wanted == [2]
    assert row.sees(2) is None


def test_sampled_tokens_follow_the_prompt():
    row = generating()
    row.num_computed = 3
    row.append(77)
    row.append(11)
    assert (row.num_sampled, row.num_places, row.num_remaining) == (2, 5, 2)
    assert row.tokens == [*PROMPT, 77, 11]
    assert row.seen == {*PROMPT, 77}
    assert Chunk(row, 3, 5).wanted == [4]
    assert row.work.prompt == PROMPT


def test_the_last_sampled_token_needs_no_place():
    assert generating(max_tokens=1).most_places == len(PROMPT)


def test_a_tries_nodes_stand_after_the_prompt_and_see_their_ancestors(scoring):
    assert (scoring.num_places, scoring.most_places) == (5, 5)
    assert [scoring.token(place) for place in range(5)] == [*PROMPT, 20, 21]
    assert [scoring.position(place) for place in range(5)] == [0, 1, 2, 3, 4]
    assert Chunk(scoring, 0, 5).wanted == [2, 3, 4]
    assert [scoring.sees(place) for place in range(3)] == [None] * 3
    assert scoring.sees(4) == [4, 3]
    assert scoring.trie.children(scoring.node(3)) == [21, 30]


def test_branches_share_positions_and_do_not_see_each_other():
    row = ScoreRow(Score("row", PROMPT, ((20, 1), (30, 2), (30, 40, 3))))
    assert [row.token(place) for place in (3, 4, 5)] == [20, 30, 40]
    assert [row.position(place) for place in (3, 4, 5)] == [3, 3, 4]
    assert [row.sees(place) for place in (3, 4, 5)] == [[3], [4], [5, 4]]


def test_a_row_without_inner_nodes_computes_its_prompt_alone():
    row = ScoreRow(Score("row", PROMPT, ((20,), (30,))))
    assert (row.num_places, Chunk(row, 0, 3).wanted) == (3, [2])


@pytest.mark.parametrize("adapter", [None, "sha256:1"])
def test_links_are_those_of_the_tokens_and_of_the_namespace(adapter):
    row = generating(adapter=adapter, salt="tenant")
    row.tokens += range(7)
    wanted = [next_link(root_of(adapter, "tenant"), row.tokens[:2])]
    for start in range(2, len(row.tokens) - 1, 2):
        wanted.append(next_link(wanted[-1], row.tokens[start : start + 2]))
    assert [row.link(block, 2) for block in (4, 0, 2)] == [wanted[4], wanted[0], wanted[2]]


def test_a_bare_row_says_nothing_of_what_it_wants():
    row = Row(Generate("row", PROMPT, Sampling(1)))
    with pytest.raises(NotImplementedError):
        row.wanted(0, 1)
