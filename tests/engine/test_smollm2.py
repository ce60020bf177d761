"""The real base, with adapters of all kinds in one batch, says what PEFT does."""

import functools
import warnings
from itertools import cycle

import peft
import pytest
from engine_harness import at_work
from engine_oracle import CLEARLY, NEAR_TIE, Oracle, behind_best, loaded
from engine_zoo import SMOLLM2_ZOO
from tiny_base import lora_config, randomise

from loradock.engine.protocol import Finish
from loradock.engine.text import Tokenizer

pytestmark = pytest.mark.smollm2

NUM_TOKENS = 64
MIN_REFUSED = 0.25  # the share of an adapter's tokens that the base would clearly not choose
ROUNDING = 1.0  # in logits; PEFT's own tokens in bfloat16 are as far behind the float32 best
TEXTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived",
    "def is_prime(n):\n    ",
    "<|im_start|>user\nMy parcel was due on Monday and it still has not come; please tell me where "
    "it is, and when I can expect it.<|im_end|>\n<|im_start|>assistant\n",
]


class RealOracle(Oracle):
    """Remembers what it was asked: two decoders mostly give the same tokens."""

    @functools.cache  # noqa: B019  it lives as long as the session
    def behind(self, prompt, tokens):
        """Give how far each token is behind the best at its place, [tokens]."""
        return behind_best(self.logits_after(prompt, tokens), tokens)


@pytest.fixture(scope="module")
def prompts(smollm2_path):
    tokenizer = Tokenizer.load(smollm2_path)
    return [tokenizer.encode(text) for text in TEXTS]


@pytest.fixture(scope="module")
def everyone(smollm2_path, tmp_path_factory):
    """Oracles of the base and of all adapters, over one model."""
    folder = tmp_path_factory.mktemp("smollm2")
    model = loaded(smollm2_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks for what transformers is about to drop
        for seed, (name, how) in enumerate(SMOLLM2_ZOO.items()):
            model = with_one_more(model, name, seed, **how)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return [RealOracle(model), *(RealOracle(model, folder / name, name) for name in SMOLLM2_ZOO)]


def with_one_more(model, name, seed, strength, **how):
    config = lora_config(**how)
    if isinstance(model, peft.PeftModel):
        model.add_adapter(name, config)
    else:
        model = peft.get_peft_model(model, config, adapter_name=name)
    randomise(model, seed, strength, name)
    return model


@pytest.fixture(scope="module")
def asked(everyone, prompts):
    """Each adapter with one of the prompts, the base with two."""
    return list(zip([*everyone, everyone[0]], cycle(prompts), strict=False))


@pytest.fixture(scope="module")
def work(smollm2_path, decoder, everyone):
    with at_work(smollm2_path, decoder, max_rows=12) as running:
        make_resident(running, everyone)
        yield running


def make_resident(work, oracles):
    for oracle in oracles:
        if oracle.folder is not None:
            work.engine.make_resident(oracle.source)


def answers(work, asked, num_tokens=NUM_TOKENS):
    rows = [work.ask(prompt, oracle.digest, max_tokens=num_tokens) for oracle, prompt in asked]
    results = work.results(rows)
    assert {(r.finish, len(r.tokens)) for r in results} == {(Finish.LENGTH, num_tokens)}
    return [tuple(result.tokens) for result in results]


def test_s1_s2_adapters_and_the_base_in_one_batch(work, everyone, asked):
    together = answers(work, asked)
    for (oracle, prompt), tokens in zip(asked, together, strict=True):
        assert oracle.behind(prompt, tokens).max() <= NEAR_TIE, oracle.digest
    bare = everyone[0]
    for (oracle, prompt), tokens in zip(asked, together, strict=True):
        refused = (bare.behind(prompt, tokens) > CLEARLY).float().mean()
        assert oracle.folder is None or refused > MIN_REFUSED, oracle.digest


def test_s2_a_row_alone_says_what_it_does_among_others(work, everyone, prompts):
    asked = [(oracle, prompts[1]) for oracle in everyone[-4:]]
    together = answers(work, asked, NUM_TOKENS // 2)
    for (oracle, prompt), tokens in list(zip(asked, together, strict=True))[::2]:
        (alone,) = answers(work, [(oracle, prompt)], NUM_TOKENS // 2)
        oracle.assert_same(prompt, tokens, alone)


def test_bfloat16_answers_are_the_float32_oracles_but_for_rounding(
    smollm2_path, decoder, everyone, prompts
):
    asked = list(zip(everyone[::2], cycle(prompts), strict=False))
    with at_work(smollm2_path, decoder, dtype="bfloat16", max_rows=12) as work:
        make_resident(work, everyone)
        found = answers(work, asked, 24)
    near = [
        (oracle.behind(prompt, tokens) <= ROUNDING).float().mean()
        for (oracle, prompt), tokens in zip(asked, found, strict=True)
    ]
    assert min(near) >= 0.75
    assert sum(near) / len(near) >= 0.95
