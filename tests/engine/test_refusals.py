"""What can't be done is refused at once, with all that is wrong and with the numbers."""

import pytest
from engine_harness import at_work
from safetensors.torch import load_file, save_file
from tiny_base import CONTEXT, VOCAB_SIZE

from loradock.engine.engine import BuiltinEngine
from loradock.engine.errors import AdapterError, BadWork, BaseError, NotResident, TooLong
from loradock.engine.loading import load_base
from loradock.engine.protocol import AdapterSource, Finish, Generate, LoraModule, Sampling

PROMPT = list(range(3, 23))


def refusal(ask, *args, **options):
    with pytest.raises(TooLong) as refused:
        ask(*args, **options)
    error = refused.value
    numbers = (error.prompt_tokens, error.max_tokens, error.limit_tokens)
    assert all(str(number) in str(error) for number in numbers)
    return numbers


def test_s19_a_request_beyond_the_context_is_refused_with_the_numbers(work):
    long = [3] * 1000
    assert refusal(work.ask, long, max_tokens=CONTEXT - 999) == (1000, 25, CONTEXT)
    assert refusal(work.ask, [3] * CONTEXT, max_tokens=1) == (CONTEXT, 1, CONTEXT)
    assert refusal(work.ask, [3] * 5000, max_tokens=7) == (5000, 7, CONTEXT)
    texts = [(4,), tuple([5] * 25)]
    assert refusal(work.ask_scores, long, texts) == (1000, 25, CONTEXT)
    work.settled()


def test_a_row_of_a_name_that_is_taken_is_refused(work, bare_oracle):
    """Waiting to be heard or running; once it has ended the name is free."""
    again = Generate("twin", tuple(PROMPT), Sampling(300, ignore_eos=True))
    work.engine.submit(again)
    for _ in range(2):
        with pytest.raises(BadWork, match="there is a row 'twin' already"):
            work.engine.submit(again)
        beside = work.ask(PROMPT)
        bare_oracle.assert_greedy(PROMPT, work.result(beside).tokens)
    work.engine.cancel("twin")
    assert work.result("twin").finish is Finish.CANCELLED


def test_s19_what_just_fits_runs_to_its_end(work, bare_oracle):
    long = [3] * 1000
    result = work.generate(long, max_tokens=CONTEXT - 1000)
    assert (result.finish, len(result.tokens)) == (Finish.LENGTH, CONTEXT - 1000)
    scored = work.score(long, [(4,), tuple([5] * 24)])
    assert scored.finish is Finish.SCORED
    assert scored.scores[1] == pytest.approx(bare_oracle.logprobs(long, [5] * 24), abs=1e-3)


def test_s19_a_request_beyond_the_memory_is_refused_with_the_numbers(tiny_base, decoder):
    """The last sampled token needs no place: 64 hold a text of 65."""
    with at_work(tiny_base, decoder, kv_tokens=64) as work:
        assert refusal(work.ask, PROMPT, max_tokens=46) == (20, 46, 65)
        assert work.generate(PROMPT, max_tokens=45).finish is Finish.LENGTH
        wide = [(first, second) for first in range(9) for second in range(5)]
        deep = [tuple([first] * 5) for first in range(12)]
        assert work.score(PROMPT, wide).finish is Finish.SCORED
        assert refusal(work.ask_scores, PROMPT, deep) == (20, 48, 64)


@pytest.mark.parametrize(
    ("prompt", "options", "problems"),
    [
        ([], {}, ["the prompt is empty"]),
        ([5, -1], {}, [r"no tokens \[-1\]"]),
        ([VOCAB_SIZE, 3, VOCAB_SIZE + 9], {}, [r"no tokens \[512, 521\]; it has 0 to 511"]),
        ([3], {"max_tokens": 0}, ["max_tokens is 0, not at least 1"]),
        ([], {"max_tokens": -2}, ["the prompt is empty", "max_tokens is -2"]),
    ],
    ids=str,
)
def test_s19_work_that_makes_no_sense_is_refused_with_all_that_is_wrong(
    work, prompt, options, problems
):
    for problem in problems:
        with pytest.raises(BadWork, match=problem):
            work.ask(prompt, **options)


@pytest.mark.parametrize(
    ("prompt", "continuations", "problems"),
    [
        ([3], [], ["no continuation"]),
        ([3], [(4,), ()], ["no continuation, or an empty one"]),
        ([3], [(4, 600)], [r"no tokens \[600\]"]),
        ([], [(-7,), ()], ["prompt is empty", r"no tokens \[-7\]", "or an empty one"]),
    ],
    ids=str,
)
def test_s19_scores_that_make_no_sense_are_refused(work, prompt, continuations, problems):
    for problem in problems:
        with pytest.raises(BadWork, match=problem):
            work.ask_scores(prompt, continuations)


def test_s3_an_adapter_that_is_not_resident_is_refused_by_name(work, zoo):
    oracle = zoo["rsLoRA"]
    for ask in (work.ask, lambda prompt, digest: work.ask_scores(prompt, [(4,)], digest)):
        with pytest.raises(NotResident, match=oracle.digest) as refused:
            ask(PROMPT, oracle.digest)
        assert refused.value.digest == oracle.digest
    work.engine.make_resident(oracle.source)
    oracle.assert_greedy(PROMPT, work.generate(PROMPT, oracle.digest).tokens)
    work.engine.release(oracle.digest)
    with pytest.raises(NotResident, match=oracle.digest):
        work.ask(PROMPT, oracle.digest)


def test_adapters_that_do_not_fit_are_refused_with_all_that_is_wrong(work, zoo, tmp_path):
    source = zoo["rank 4, attention"].source
    good = source.modules[0]
    wrong = [
        LoraModule("model.layers.7.mlp.up_proj", 4, 1.0, good.a_key, good.b_key),
        LoraModule(good.module, 4, 1.0, "nothing.lora_A.weight", good.b_key),
    ]
    with pytest.raises(AdapterError) as refused:
        work.engine.make_resident(AdapterSource("sha256:wrong", source.weights, wrong))
    assert refused.value.problems == [
        "the base has no linear module 'model.layers.7.mlp.up_proj'",
        "there is no tensor 'nothing.lora_A.weight'",
    ]
    tensors = load_file(source.weights)
    tensors[good.a_key] = tensors[good.a_key][:, :-1].contiguous()
    file = tmp_path / "misfit.safetensors"
    save_file(tensors, file)
    with pytest.raises(AdapterError, match=r"has the shape \(4, 63\), wanted \(4, 64\)"):
        work.engine.make_resident(AdapterSource("sha256:wrong", file, source.modules))
    file.write_bytes(b"no safetensors")
    with pytest.raises(AdapterError, match="can't be read"):
        work.engine.make_resident(AdapterSource("sha256:wrong", file, source.modules))
    file.unlink()
    with pytest.raises(AdapterError, match="can't be read"):
        work.engine.make_resident(AdapterSource("sha256:wrong", file, source.modules))
    assert "sha256:wrong" not in work.engine.state().resident


def test_an_adapters_file_may_go_once_it_is_resident(work, zoo, tmp_path):
    oracle = zoo["alpha pattern"]
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(oracle.source.weights.read_bytes())
    work.engine.make_resident(AdapterSource("sha256:gone", file, oracle.source.modules))
    file.write_bytes(b"\0" * file.stat().st_size)
    file.unlink()
    oracle.assert_greedy(PROMPT, work.generate(PROMPT, "sha256:gone").tokens)
    told = work.engine.state().resident["sha256:gone"]
    assert told.num_modules == len(oracle.source.modules)
    stored = sum(tensor.nbytes for tensor in load_file(oracle.source.weights).values())
    assert stored <= told.size_bytes < 3 * stored


def test_a_decoder_that_nobody_knows_is_refused(tiny_base):
    with pytest.raises(BaseError, match="fastest"):
        BuiltinEngine(load_base(tiny_base, "base"), max_rows=1, decoder="fastest")
