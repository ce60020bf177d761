"""What breaks fails alone and says how; where nothing can go on, everybody is told."""

import pytest
from engine_harness import WAIT_S, AtWork, at_work

from loradock.engine.engine import BuiltinEngine
from loradock.engine.errors import EngineStopped
from loradock.engine.loading import load_base
from loradock.engine.protocol import Failure, Finish, Generate, Sampling

PROMPT = list(range(3, 53))
NAMES = ("rank 64, all linear", "rank 8, mlp")
MUCH = "much"  # a penalty that is no number: it passes the types of no caller but a careless one


class Faulty:
    """A real decoder that raises where a test says so."""

    def __init__(self, decoder, fault=lambda batch: None, clear=lambda: None):
        self._decoder, self._fault, self._clear = decoder, fault, clear

    def __getattr__(self, name):
        return getattr(self._decoder, name)

    def forward(self, batch):
        self._fault(batch)
        return self._decoder.forward(batch)

    def clear(self, blocks):
        self._clear()
        self._decoder.clear(blocks)


@pytest.fixture
def work(tiny_base, decoder, zoo):
    with at_work(tiny_base, decoder) as running:
        for name in NAMES:
            running.engine.make_resident(zoo[name].source)
        yield running


def asked(work, zoo, bare_oracle):
    """Ask for a row of the base and one of each adapter."""
    oracles = [bare_oracle, *(zoo[name] for name in NAMES)]
    return [(oracle, work.ask(PROMPT, oracle.digest)) for oracle in oracles]


def assert_whole(work, rows):
    for oracle, row in rows:
        result = work.result(row)
        assert (result.finish, len(result.tokens)) == (Finish.LENGTH, 64)
        oracle.assert_greedy(PROMPT, result.tokens)


def test_s2_a_row_whose_token_cannot_be_drawn_fails_alone(work, zoo, bare_oracle):
    rows = asked(work, zoo, bare_oracle)
    failing = work.ask(PROMPT, zoo[NAMES[0]].digest, repetition_penalty=MUCH)
    drawn = work.ask(PROMPT, temperature=1.0, seed=3)
    result = work.result(failing)
    assert (result.finish, result.failure, result.tokens) == (Finish.FAILED, Failure.COMPUTE, [])
    assert_whole(work, rows)
    assert work.result(drawn).tokens == work.generate(PROMPT, temperature=1.0, seed=3).tokens


def test_s2_a_step_that_runs_out_of_memory_is_computed_in_parts(work, zoo, bare_oracle):
    """Nobody fails, as long as there is memory for a token of each row by itself."""
    tried = []

    def fault(batch):
        tried.append(len(batch))
        if len(batch) > 3:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"
            )

    work.engine.decoder = Faulty(work.engine.decoder, fault)
    rows = asked(work, zoo, bare_oracle)
    scores = work.ask_scores(PROMPT, [(5, 6, 7), (5, 8)])
    assert_whole(work, rows)
    assert max(tried) > 50
    work.engine.decoder = work.engine.decoder._decoder
    beside = work.score(PROMPT, [(5, 6, 7), (5, 8)], salt="fresh")
    for own, other in zip(work.result(scores).scores, beside.scores, strict=True):
        assert own == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(
    ("error", "failure"), [(MemoryError(), Failure.MEMORY), (KeyError("x"), Failure.COMPUTE)]
)
def test_s2_the_row_that_breaks_steps_is_found_among_many(work, zoo, bare_oracle, error, failure):
    """It breaks in the middle of its answer; its tokens so far stand."""
    broken = work.ask([9, *PROMPT], zoo[NAMES[1]].digest, max_tokens=300)

    def fault(batch):
        for span in batch.spans:
            if span.chunk.row.name == broken and span.chunk.start > 80:
                raise error

    work.engine.decoder = Faulty(work.engine.decoder, fault)
    rows = asked(work, zoo, bare_oracle)
    result = work.result(broken)
    assert (result.finish, result.failure, len(result.tokens)) == (Finish.FAILED, failure, 31)
    assert_whole(work, rows)


def test_a_step_that_fails_as_a_whole_fails_its_rows_and_no_later_ones(work, bare_oracle):
    faults = iter([ZeroDivisionError("once")])

    def clear():
        for error in faults:
            raise error

    work.engine.decoder = Faulty(work.engine.decoder, clear=clear)
    result = work.generate(PROMPT)
    assert (result.finish, result.failure) == (Finish.FAILED, Failure.COMPUTE)
    assert_whole(work, [(bare_oracle, work.ask(PROMPT))])
    assert work.engine.state().failure is None


def test_s15_an_engine_that_cannot_go_on_tells_everybody(work, zoo, bare_oracle):
    def clear():
        raise ZeroDivisionError("always")

    work.engine.decoder = Faulty(work.engine.decoder, clear=clear)
    failures = [work.generate(PROMPT).failure for _ in range(3)]
    assert failures == [Failure.COMPUTE, Failure.COMPUTE, Failure.ENGINE]
    work.wait_until(lambda: work.engine.state().failure is not None)
    assert "ZeroDivisionError" in (work.engine.state().failure or "")
    with pytest.raises(EngineStopped, match="ZeroDivisionError"):
        work.ask(PROMPT)
    work.engine.cancel("nobody")


def test_s15_rows_end_even_if_accounts_are_broken(tiny_base, decoder):
    """Blocks that are given back twice: what is left of the accounts is not trusted."""
    engine = engine_of(tiny_base, decoder, max_rows=2)
    work = AtWork(engine)
    rows = [work.ask(PROMPT, max_tokens=500) for _ in range(3)]

    def spoil():
        for row in engine._scheduler.running:
            engine._pool.give_back(row.blocks)

    work.when(rows[0], 5, spoil)
    failures = [result.failure for result in work.results(rows)]
    assert Failure.ENGINE in failures
    assert_stopped(engine)


def engine_of(base, decoder, max_rows):
    loaded = load_base(base, "tiny")
    return BuiltinEngine(loaded, max_rows=max_rows, kv_tokens=4096, decoder=decoder)


def assert_stopped(engine):
    engine._thread.join(WAIT_S)
    assert engine.state().failure is not None
    with pytest.raises(EngineStopped):
        engine.submit(Generate("later", (5,), Sampling(4)))
    engine.close()


def test_a_sink_that_raises_stops_the_engine_and_not_in_silence(tiny_base, decoder, caplog):
    engine = engine_of(tiny_base, decoder, max_rows=1)
    heard = []

    def sink(events):
        heard.append(events)
        raise BrokenPipeError("gone")

    engine.start(sink)
    engine.submit(Generate("row", (5,), Sampling(4)))
    assert_stopped(engine)
    assert "BrokenPipeError" in engine.state().failure
    assert heard[-1][-1].failure is Failure.ENGINE
    assert "the engine can't go on" in caplog.text
