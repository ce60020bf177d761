"""Text out of streamed tokens is that of all of them, and what stops it never shows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_base import EOS, VOCAB_SIZE, make_tokenizer
from tokenizers import Tokenizer as BareTokenizer
from tokenizers import decoders, models, normalizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from loradock.engine.errors import BaseError
from loradock.engine.text import HALF_CHARACTER, MAX_PENDING_TOKENS, TextStream, Tokenizer

RAW = make_tokenizer()
TOKENIZER = Tokenizer(RAW)
# Letters that make stop strings likely, and characters of two, three and four bytes.
TEXTS = st.text(
    st.sampled_from("ab c\n." + "é" + "€" + "😀" + "e\u0301" + HALF_CHARACTER), max_size=30
)
STOPS = st.lists(st.text(st.sampled_from("abé€😀 "), max_size=4), max_size=3)


class OneTokenACharacter:
    """Token n is the n-th character: what a stop string does, without a tokenizer's part in it."""

    def decode(self, tokens):
        return "".join(map(chr, tokens))

    def ends_with_mark(self, tokens):
        return tokens[-1] == ord(HALF_CHARACTER)


def pieces(tokens, sizes):
    """Split tokens as a stream might."""
    at = 0
    while at < len(tokens):
        size = next(sizes)
        yield tokens[at : at + size]
        at += size


def cycle(sizes):
    while True:
        yield from sizes


def streamed(tokenizer, tokens, sizes, stops=()):
    """Give a stream's parts, the flushed one last."""
    stream = TextStream(tokenizer, stops)
    return [*(stream.push(part) for part in pieces(tokens, cycle(sizes))), stream.flush()]


def stopped(text, stops):
    """Cut a text before the stop string that is complete first; of two, before the longer."""
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(ends)[1]] if ends else text


SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@settings(deadline=None)
@given(TEXTS, SIZES)
def test_s19_a_streamed_text_is_the_whole_text(text, sizes):
    tokens = TOKENIZER.encode(text)
    assert "".join(streamed(TOKENIZER, tokens, sizes)) == text


@settings(deadline=None)
@given(TEXTS)
def test_s19_half_characters_are_held_back(text):
    tokens = TOKENIZER.encode(text)
    stream = TextStream(TOKENIZER)
    out = ""
    for token in tokens:
        out += stream.push([token])
        assert text.startswith(out)


@settings(deadline=None)
@given(st.lists(st.integers(0, 258), max_size=40), SIZES)
def test_any_bytes_come_out_as_they_do_whole(tokens, sizes):
    """Random bytes: where they are no characters, only what stands for that may differ."""
    whole = TOKENIZER.decode(tokens)
    text = "".join(streamed(TOKENIZER, tokens, sizes))
    assert text.replace(HALF_CHARACTER, "") == whole.replace(HALF_CHARACTER, "")


@pytest.mark.parametrize("text", ["\ufffd", "so\ufffd", "\ufffd\ufffd", "€\ufffd"])
@pytest.mark.parametrize("half", [[], ["Ã"], ["â", "Ĥ"]])
def test_s19_the_replacement_character_itself_is_not_lost(text, half):
    """At the very end too, and before half a character, which is lost."""
    tokens = [*TOKENIZER.encode(text), *map(RAW.get_vocab().__getitem__, half)]
    assert "".join(streamed(TOKENIZER, tokens, [1])) == text
    assert "".join(streamed(TOKENIZER, tokens, [20])) == text


def test_s19_bytes_that_fall_back_write_it_too():
    """As SentencePiece's tokens of single bytes do, behind a space of their own."""
    vocab = {"<unk>": 0, "▁": 1, "a": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    bare = BareTokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    bare.normalizer = normalizers.Prepend("▁")
    bare.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>"))
    mark, half = [3 + byte for byte in HALF_CHARACTER.encode()], [3 + 0xE2, 3 + 0x82]
    assert "".join(streamed(tokenizer, [2, *mark], [1])) == "a" + HALF_CHARACTER
    assert "".join(streamed(tokenizer, [2, *mark, *half], [1])) == "a" + HALF_CHARACTER
    assert "".join(streamed(tokenizer, [2, *half], [1])) == "a"


@settings(max_examples=300, deadline=None)
@given(st.text("abc", max_size=25), st.lists(st.text("abc", max_size=4), max_size=4), SIZES)
def test_s19_stop_strings_cut_the_text_and_never_show(text, stops, sizes):
    stops = [stop for stop in stops if stop]
    wanted = stopped(text, stops)
    parts = streamed(OneTokenACharacter(), [ord(letter) for letter in text], sizes, stops)
    assert "".join(parts) == wanted
    assert "".join(streamed(OneTokenACharacter(), list(map(ord, text)), [1], stops)) == wanted


@settings(deadline=None)
@given(TEXTS, STOPS, SIZES)
def test_s19_stop_strings_over_real_tokens(text, stops, sizes):
    stops = [stop for stop in stops if stop]
    out = "".join(streamed(TOKENIZER, TOKENIZER.encode(text), sizes, stops))
    assert out == stopped(text, stops)


@settings(deadline=None)
@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_no_more_is_held_back_than_could_begin_a_stop_string(text, stops):
    stream, out = TextStream(OneTokenACharacter(), stops), ""
    for end, letter in enumerate(text, 1):
        out += stream.push([ord(letter)])
        if stream.is_stopped:
            break
        held = text[len(out) : end]
        assert out + held == text[:end]
        assert not held or any(len(held) < len(s) and s.startswith(held) for s in stops)


def test_nothing_comes_after_a_stop_string():
    stream = TextStream(OneTokenACharacter(), ["stop"])
    assert stream.push([*map(ord, "so it sto")]) == "so it "
    assert not stream.is_stopped
    assert stream.push([*map(ord, "p and more")]) == ""
    assert stream.is_stopped
    assert (stream.push([*map(ord, "more")]), stream.flush()) == ("", "")


def test_what_was_held_comes_with_the_end():
    stream = TextStream(OneTokenACharacter(), ["stop"])
    assert stream.push([*map(ord, "do not sto")]) == "do not "
    assert stream.flush() == "sto"


def test_special_tokens_have_no_text():
    tokens = [*TOKENIZER.encode("one"), EOS, *TOKENIZER.encode("two")]
    assert "".join(streamed(TOKENIZER, tokens, [1])) == "onetwo"


def test_what_never_becomes_a_character_is_not_held_for_ever():
    half = RAW.get_vocab()["Ã"]  # the first byte of é, over and over
    stream = TextStream(TOKENIZER)
    parts = [stream.push([half]) for _ in range(MAX_PENDING_TOKENS)]
    assert parts[-1]
    assert not any(parts[:-1])


class Counting:
    """Counts the tokens that it decodes."""

    def __init__(self):
        self.num_decoded = 0

    def decode(self, tokens):
        self.num_decoded += len(tokens)
        return TOKENIZER.decode(tokens)

    def ends_with_mark(self, tokens):
        return TOKENIZER.ends_with_mark(tokens)


def test_the_work_per_token_does_not_grow_with_the_text():
    tokens = TOKENIZER.encode("Two of the five chairs arrived broken. " * 40)
    counts = []
    for length in (len(tokens) // 2, len(tokens)):
        counting = Counting()
        streamed(counting, tokens[:length], [1], ["never"])
        counts.append(counting.num_decoded / length)
    assert counts[1] < 1.05 * counts[0]


def test_texts_are_encoded_as_the_tokenizer_does():
    text = "My parcel: where is it?"
    assert TOKENIZER.encode(text) == tuple(RAW(text)["input_ids"])
    assert TOKENIZER.count(text) == len(TOKENIZER.encode(text))
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    assert TOKENIZER.eos == EOS
    assert max(TOKENIZER.encode(text)) < VOCAB_SIZE


def test_an_opening_token_is_put_once():
    raw, name = make_tokenizer(), "<|im_start|>"
    bos = raw.convert_tokens_to_ids(name)
    raw.bos_token = name
    raw.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{name} $A <|im_end|>", special_tokens=[(name, bos), ("<|im_end|>", EOS)]
    )
    opening = Tokenizer(raw)
    assert opening.encode("one") == (bos, *TOKENIZER.encode("one")), "and nothing at the end"
    assert opening.encode(f"{name}one") == (bos, *TOKENIZER.encode("one"))
    assert opening.encode_alone("one") == TOKENIZER.encode("one")


def test_chats_are_written_by_the_template():
    turns = [("system", "Be short."), ("user", "Why?")]
    assert TOKENIZER.has_chat_template
    assert TOKENIZER.chat_text(turns) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_base_without_a_template_gets_the_contents():
    raw = make_tokenizer()
    raw.chat_template = None
    bare = Tokenizer(raw)
    assert not bare.has_chat_template
    assert bare.chat_text([("system", "Be short."), ("user", "Why?")]) == "Be short.\n\nWhy?"


def test_a_template_that_refuses_says_why():
    raw = make_tokenizer()
    raw.chat_template = "{{ raise_exception('no system turns here') }}"
    with pytest.raises(ValueError, match="refuses this chat.*no system turns here"):
        Tokenizer(raw).chat_text([("system", "Be short.")])


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(BaseError, match="no tokenizer that can be loaded"):
        Tokenizer.load(tmp_path)
