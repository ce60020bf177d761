"""Each family of bases runs in mixed batches as it does under transformers and PEFT.

The models are tiny and random; where a family has sliding windows or caps on scores, they are short
and low enough to change what comes out, which a test of its own makes sure of.
"""

import gc
import random
from dataclasses import replace

import pytest
from engine_harness import AtWork, at_work, usable_decoder
from engine_oracle import Oracle, loaded
from tiny_base import VOCAB_SIZE, TinyAdapters
from tiny_families import FAMILIES, make_base
from transformers import AutoModelForCausalLM

from loradock.engine.cpu.decoder import CpuDecoder
from loradock.engine.engine import BuiltinEngine
from loradock.engine.errors import BaseError
from loradock.engine.loading import load_base
from loradock.engine.protocol import Finish

NUM_TOKENS = 40
MIN_REFUSED = 0.3  # the share of an adapter's tokens that the base would clearly not choose
FOR_THE_CPU = ("llama", "llama3 rope", "mistral", "qwen2", "qwen3")
CASES = [(name, "modules") for name in FAMILIES] + [(name, "cpu") for name in FOR_THE_CPU]
NO_WINDOW = {"sliding_window": 256}
# What must change a family's output when it is taken away.
BINDING = [
    *((family, NO_WINDOW) for family in ("mistral, windows", "qwen2, windows", "gemma2")),
    *((family, NO_WINDOW) for family in ("gemma3_text", "phi3")),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"final_logit_softcapping": None}),
    ("llama3 rope", {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
]
PROMPTS = [
    random.Random(length).choices(range(3, VOCAB_SIZE), k=length) for length in (1, 5, 19, 40, 77)
]


@pytest.fixture(scope="module", params=CASES, ids=" by ".join)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def family(case):
    return case[0]


@pytest.fixture(scope="module")
def decoder(case):
    return usable_decoder(case[1])


@pytest.fixture(scope="module")
def base(family, tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("families") / "base", family)


@pytest.fixture(scope="module")
def oracles(base, family, tmp_path_factory):
    """The bare base, and adapters of all its linear modules, of two and of its head."""
    _, modules = FAMILIES[family]
    make = TinyAdapters(base, tmp_path_factory.mktemp("families"))
    targets = [modules, modules[:1], modules[-1:], (*modules, head_of(base))]
    made = [
        make(seed, rank=3 + 5 * seed, alpha=10 + 10 * seed, targets=names, strength=0.25)
        for seed, names in enumerate(targets)
    ]
    return [Oracle.load(base), *(Oracle.load(base, folder) for folder in made)]


def head_of(base):
    model = loaded(base)
    return next(n for n, m in model.named_modules() if m is model.get_output_embeddings())


def test_s1_s2_mixed_batches_say_what_peft_does(base, family, oracles, decoder):
    with at_work(base, decoder, step_tokens=16) as work:
        for oracle in oracles[1:]:
            work.engine.make_resident(oracle.source)
        asked = [(oracle, prompt) for prompt in PROMPTS for oracle in oracles]
        rows = [work.ask(prompt, oracle.digest, max_tokens=NUM_TOKENS) for oracle, prompt in asked]
        results = work.results(rows)
        for (oracle, prompt), result in zip(asked, results, strict=True):
            assert (result.finish, len(result.tokens)) == (Finish.LENGTH, NUM_TOKENS)
            oracle.assert_greedy(prompt, result.tokens)
            alone = work.generate(prompt, oracle.digest, max_tokens=8, salt="alone")
            oracle.assert_same(prompt, result.tokens[:8], alone.tokens)
            refused = oracles[0].share_refused(prompt, result.tokens)
            assert refused == 0 if oracle is oracles[0] else refused > MIN_REFUSED


def test_scores_of_tries_equal_the_oracles(base, family, oracles, decoder):
    """Positions of a trie's nodes are those in their texts, for windows too."""
    texts = [PROMPTS[2][:n] + PROMPTS[3][:m] for n, m in ((1, 0), (3, 5), (3, 9), (15, 20))]
    with at_work(base, decoder) as work:
        for oracle in oracles[:2]:
            if oracle.folder is not None:
                work.engine.make_resident(oracle.source)
            for prompt in PROMPTS[1:4]:
                result = work.score(prompt, texts, oracle.digest)
                for text, scores in zip(texts, result.scores, strict=True):
                    assert scores == pytest.approx(oracle.logprobs(prompt, text), abs=2e-3)


@pytest.mark.parametrize(("family", "without"), BINDING, ids=str)
def test_windows_and_caps_change_what_comes_out(family, without, tmp_path):
    """Or the tests above would prove nothing of them."""
    base = make_base(tmp_path / "base", family)
    bare = Oracle(AutoModelForCausalLM.from_pretrained(base, **without).eval())
    difference = Oracle.load(base).logits(PROMPTS[-1]) - bare.logits(PROMPTS[-1])
    assert difference.abs().max() > 0.5


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in FOR_THE_CPU])
def test_the_kernels_refuse_what_they_do_not_know_and_the_modules_run_it(family, tmp_path, caplog):
    base = make_base(tmp_path / "base", family)
    with pytest.raises(BaseError, match="the kernels for CPUs can't run this base: "):
        BuiltinEngine(load_base(base, "base"), max_rows=1, decoder="cpu")
    engine = BuiltinEngine(load_base(base, "base"), max_rows=1, decoder="auto")
    assert engine.decoder.description.endswith("through its own modules")
    assert "the base runs through its own modules" in caplog.text


def num_packed():
    """Count the bases that this process has packed."""
    return sum(type(thing) is CpuDecoder for thing in gc.get_objects())


def test_kernels_that_compute_something_else_are_not_used(tiny_base, bare_oracle, caplog):
    """A base that does to its logits what kernels know nothing of: it runs through its modules."""
    usable_decoder("cpu")
    odd = load_base(tiny_base, "odd")
    odd.model.lm_head.register_forward_hook(lambda module, given, logits: 2 * logits)
    num_before = num_packed()

    def load_again():
        assert num_packed() == num_before, "its weights are there a second time"
        return odd.load_again()

    engine = BuiltinEngine(replace(odd, load_again=load_again), max_rows=2, kv_tokens=1024)
    assert "through its own modules" in engine.decoder.description
    assert "the kernels for CPUs compute something else than this base" in caplog.text
    work = AtWork(engine)
    prompt = list(range(3, 40))
    bare_oracle.assert_greedy(prompt, work.generate(prompt).tokens)
    engine.close()


@pytest.mark.parametrize("options", [{"decoder": "cpu"}, {"dtype": "int8"}])
def test_kernels_that_were_asked_for_are_not_replaced(tiny_base, options):
    usable_decoder("cpu")
    odd = load_base(tiny_base, "odd", dtype=options.get("dtype", "float32"))
    odd.model.lm_head.register_forward_hook(lambda module, given, logits: -logits)
    with pytest.raises(BaseError, match="away from its own"):
        BuiltinEngine(odd, max_rows=2, kv_tokens=1024, decoder=options.get("decoder", "auto"))
