"""A row's events on their way to its reader, and the bound on those that wait."""

import pytest

from loradock.engine.protocol import Finish, RowEvent
from loradock.server.answering.bridge import Row
from loradock.server.errors import SlowReader


async def test_a_reader_too_slow_is_cut_off():
    told: list[Exception] = []
    row = Row(2, told.append)
    row.push(RowEvent("r", (1, 2)))
    assert not told
    row.push(RowEvent("r", (3,)))
    assert [type(error) for error in told] == [SlowReader]
    with pytest.raises(SlowReader):
        [event async for event in row.events()]


async def test_an_answer_that_is_whole_is_given_though_it_passes_the_bound():
    told: list[Exception] = []
    row = Row(2, told.append)
    row.push(RowEvent("r", (1, 2)))
    row.push(RowEvent("r", (3,), finish=Finish.STOP))
    assert [event.tokens async for event in row.events()] == [(1, 2), (3,)]
    assert not told
