"""Score and Classify: the likelihoods are the model's own; the best label is always one of them."""

import math

import pytest
from oracle import Oracle
from served import inference, info_of, reason_of, refusal_of, running, target_of
from tiny_base import EOS, PAD, make_tokenizer

from loradock.engine.text import Tokenizer
from loradock.server.answering.prompts import terminator

LABELS = ("billing", "bill", "billing address", "other")
LLAMA_LIKE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}: {{ m['content'] | trim }}<|endoftext|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)


@pytest.fixture
async def served(tiny_base, tiny_adapter, tmp_path):
    async with running(tiny_base, tmp_path) as running_server:
        await running_server.publish("triage", tiny_adapter(1))
        await running_server.publish("labelled", tiny_adapter(1), labels=["yes", "no"])
        yield running_server


async def classify(served, adapter, labels=LABELS, text="which?", **prompt):
    request = inference.ClassifyRequest(
        target=target_of(adapter),
        prompt=inference.Prompt(**(prompt or {"text": text})),
        labels=labels,
    )
    return await served.inference.Classify(request, timeout=20)


async def score(served, adapter, continuations, text="which?"):
    request = inference.ScoreRequest(
        target=target_of(adapter), prompt=inference.Prompt(text=text), continuations=continuations
    )
    return (await served.inference.Score(request, timeout=20)).scores


@pytest.mark.parametrize("adapter", ["triage@1", None])
async def test_likelihoods_are_those_of_the_model(served, adapter, tiny_base, tiny_adapter):
    oracle = Oracle(tiny_base, None if adapter is None else tiny_adapter(1))
    answer = await classify(served, adapter)
    prompt = oracle.prompt("which?")
    for found in answer.probabilities:
        wanted = oracle.logprob(prompt, [*oracle.tokens(found.label), EOS])
        assert found.logprob == pytest.approx(wanted, abs=1e-3), found.label
    for found, label in zip(await score(served, adapter, LABELS), LABELS, strict=True):
        wanted = oracle.logprob(prompt, oracle.tokens(label))
        assert found.logprob == pytest.approx(wanted, abs=1e-3)
        assert found.logprob == pytest.approx(sum(found.token_logprobs), abs=1e-4)
        assert found.num_tokens == len(found.token_logprobs)


async def test_classify_gives_the_best_label_and_shares_that_sum_to_one(served):
    answer = await classify(served, "triage@1")
    ranked = [(p.label, p.probability, p.logprob) for p in answer.probabilities]
    assert sorted(label for label, _, _ in ranked) == sorted(LABELS)
    assert ranked == sorted(ranked, key=lambda r: -r[2])
    assert answer.label == ranked[0][0]
    assert sum(share for _, share, _ in ranked) == pytest.approx(1)
    for _, share, logprob in ranked[1:]:
        assert share / ranked[0][1] == pytest.approx(math.exp(logprob - ranked[0][2]))
    alone = await classify(served, "triage@1", labels=["other"])
    assert (alone.label, alone.probabilities[0].probability) == ("other", 1)
    assert alone.usage.prompt_tokens == answer.usage.prompt_tokens > 0


async def test_labels_far_less_likely_than_any_answer_still_give_one(served):
    answer = await classify(served, "triage@1", labels=["x" * 400, "y" * 380])
    assert answer.label in ("x" * 400, "y" * 380)
    assert sum(p.probability for p in answer.probabilities) == pytest.approx(1)


async def test_classify_takes_the_versions_labels_or_says_that_there_are_none(served):
    assert (await classify(served, "labelled@1", labels=())).label in ("yes", "no")
    assert (await classify(served, "labelled@1", labels=["maybe"])).label == "maybe"
    error = await refusal_of(classify(served, "triage@1", labels=()))
    assert info_of(error).metadata["field"] == "labels"


@pytest.mark.parametrize(
    ("labels", "problem"),
    [(["a", "a"], "twice"), (["a", ""], "empty"), (["l" * 600_000, "m" * 600_000], "bytes")],
)
async def test_labels_that_make_no_sense_are_refused(served, labels, problem):
    error = await refusal_of(classify(served, "triage@1", labels=labels))
    assert reason_of(error) == "INVALID_FIELD"
    assert problem in info_of(error).metadata["reason"]


@pytest.mark.contract("S19")
async def test_s19_labels_that_can_never_fit_are_refused_with_the_numbers(served):
    for text, labels in (("word " * 2000, LABELS), ("which?", ["x" * 4000])):
        error = await refusal_of(classify(served, "triage@1", labels=labels, text=text))
        assert reason_of(error) == "PROMPT_TOO_LONG"
        assert info_of(error).metadata["limit_tokens"] == "1024"


async def test_raw_prompts_are_scored_without_any_template(served):
    whole = await classify(served, "triage@1", raw="which?")
    assert whole.usage.prompt_tokens < (await classify(served, "triage@1")).usage.prompt_tokens


def test_terminator_is_what_the_chat_template_ends_an_answer_with():
    bare = make_tokenizer()
    assert terminator(Tokenizer(bare)) == (EOS,) == (bare.eos_token_id,)
    bare.chat_template = LLAMA_LIKE
    assert terminator(Tokenizer(bare)) == (PAD,) != (bare.eos_token_id,)
    bare.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert terminator(Tokenizer(bare)) == (EOS,), "a template that says nothing of it"
    bare.chat_template = "{{ raise_exception('no') }}"
    assert terminator(Tokenizer(bare)) == (EOS,)
    bare.chat_template = None
    assert terminator(Tokenizer(bare)) == (EOS,)
