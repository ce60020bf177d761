"""A trie computes what continuations share once, and gives each its own scores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradock.engine.trie import ROOT, Trie

CONTINUATIONS = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple), min_size=1, max_size=8
)


def text_of(trie, node):
    tokens: list[int] = []
    while node != ROOT:
        tokens.insert(0, trie.nodes[node].token)
        node = trie.nodes[node].parent
    return tuple(tokens)


@settings(deadline=None)
@given(CONTINUATIONS)
def test_each_beginning_is_one_node(continuations):
    trie = Trie(continuations)
    beginnings = {text[:end] for text in continuations for end in range(1, len(text) + 1)}
    texts = [text_of(trie, node) for node in range(1, len(trie.nodes))]
    assert sorted(texts) == sorted(beginnings)
    assert [text_of(trie, leaf) for leaf in trie.leaves] == continuations
    assert trie.depth == max(map(len, continuations))
    assert all(node.depth == len(text_of(trie, at)) for at, node in enumerate(trie.nodes))


@settings(deadline=None)
@given(CONTINUATIONS)
def test_inner_nodes_are_those_that_something_follows(continuations):
    trie = Trie(continuations)
    beginnings = {text[:end] for text in continuations for end in range(1, len(text))}
    assert sorted(text_of(trie, node) for node in trie.inner) == sorted(beginnings)
    for place, node in enumerate(trie.inner):
        seen = [text_of(trie, trie.inner[at]) for at in trie.ancestors(node)]
        text = text_of(trie, node)
        assert sorted(seen) == [text[:end] for end in range(1, len(text) + 1)]
        assert max(trie.ancestors(node)) == place, "parents come before their children"
    assert trie.ancestors(ROOT) == []


@settings(deadline=None)
@given(CONTINUATIONS)
def test_scores_are_those_of_each_continuations_own_tokens(continuations):
    """The number of a text stands for its last token's log-likelihood."""
    trie = Trie(continuations)

    def number(text):
        return float(sum((token + 1) * 4**at for at, token in enumerate(text)))

    for node in [ROOT, *trie.inner]:
        trie.put(node, [number((*text_of(trie, node), child)) for child in trie.children(node)])
    wanted = tuple(
        tuple(number(text[:end]) for end in range(1, len(text) + 1)) for text in continuations
    )
    assert trie.scores() == wanted


def test_a_score_that_is_missing_is_noticed():
    trie = Trie([(1, 2), (3,)])
    trie.put(ROOT, [-1.0, -2.0])
    with pytest.raises(AssertionError, match="not scored"):
        trie.scores()
    with pytest.raises(ValueError, match="shorter"):
        trie.put(ROOT, [-1.0])
