"""Texts: made alike, tokenised by a vocabulary of the training part, hashed, cut into blocks."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.data import DataLoader
from leptonai.data.pipeline.step import Learnt
from leptonai.data.pipeline.texts.blocks import Blocks
from leptonai.data.pipeline.texts.cleaning import NormaliseText
from leptonai.data.pipeline.texts.hashing import HashTexts
from leptonai.data.pipeline.texts.tokenising import SPECIAL, Tokenise
from leptonai.errors import InvalidRequest

LETTERS = [chr(0x4E00 + number) for number in range(3_000)]
METHODS = ["bpe", "wordpiece", "unigram", "wordlevel"]


def corpus(texts: int = 400) -> list[str]:
    """Of words of which a few are frequent, and with many equally frequent ones."""
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefgéхл語", k=chance.randint(1, 7))) for _ in range(600)]
    return [
        " ".join(words[int(600 * chance.random() ** 2)] for _ in range(12)) + "."
        for _ in range(texts)
    ]


def training(texts: list[str]):
    return lambda: iter([texts[:10], texts[10:]])


TEXTS = corpus()
STEPS = {method: Tokenise(method=method, vocabulary=700, max_length=16) for method in METHODS}
LEARNT = {method: step.fit(training(TEXTS)) for method, step in STEPS.items()}

# --- made alike ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({}, "  a\t b\n\n", "a b"),
        ({"whitespace": False}, " a ", " a "),
        ({}, "e\u0301", "é"),
        ({}, "ﬁ²", "ﬁ²"),
        ({"form": "NFKC"}, "ﬁ²", "fi2"),
        ({"lower": True}, "ÄB", "äb"),
        ({"strip_accents": True}, "naïve Å", "naive A"),
        ({"remove_html": True}, "a<br/>b &amp; <b class='x'>c</b> 1 < 2", "a b & c 1 < 2"),
        ({"remove_html": True}, "&nosuchthing; &#65; 5 & 6", "&nosuchthing; A 5 & 6"),
        ({"remove_urls": True}, "see https://a.b/c?d and www.e.f, ok", "see and ok"),
        ({}, "", ""),
    ],
)
def test_texts_that_mean_the_same_become_the_same(options, text, expected):
    assert NormaliseText(**options).transform([text], Learnt()) == [expected]


@given(
    texts=st.lists(st.text(st.characters(codec="utf-8")), max_size=4),
    lower=st.booleans(),
    form=st.sampled_from(["NFC", "NFKC"]),
)
@settings(deadline=None)
def test_a_normalised_text_is_normal(texts, lower, form):
    step = NormaliseText(form=form, lower=lower)
    once = step.transform(texts, Learnt())
    assert [" ".join(text.split()) for text in once] == once
    assert len(once) == len(texts)


# --- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bpe", "wordpiece", "wordlevel"])
def test_equal_texts_teach_equal_vocabularies(method):
    again = [STEPS[method].fit(training(TEXTS)) for _ in range(3)]
    assert again == [LEARNT[method]] * 3
    assert 500 < LEARNT[method].facts["vocabulary"] <= 700


@pytest.mark.parametrize("method", METHODS)
def test_every_text_has_as_many_tokens_as_asked_for(method):
    tokens = STEPS[method].transform(["", TEXTS[0], TEXTS[1] * 3], LEARNT[method])
    assert (tokens.shape, tokens.dtype) == ((3, 16), np.int32)
    assert tokens[0].tolist() == [0] * 16 and (tokens[2] > 3).all()
    assert tokens.max() < LEARNT[method].facts["vocabulary"]
    longest = Tokenise(method=method, max_length=16, pad="longest")
    assert longest.transform(["", "a"], LEARNT[method]).shape[1] < 4


@pytest.mark.parametrize("method", METHODS)
def test_a_text_is_begun_and_ended_where_asked_for(method):
    step = Tokenise(method=method, max_length=6, begin_and_end=True)
    short, long = step.transform(["a", TEXTS[0]], LEARNT[method]).tolist()
    assert short[0] == long[0] == 2 and long[-1] == 3
    assert short[short.index(3) + 1 :] == [0] * (5 - short.index(3))


@pytest.mark.parametrize("method", METHODS)
def test_what_a_text_says_is_never_a_special_token(method):
    said = [f"{name} a" for name in SPECIAL if name != "[UNK]"]
    tokens = STEPS[method].transform(said, LEARNT[method])
    assert not np.isin(tokens[:, :2], [0, 2, 3]).any()


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=4))
@settings(deadline=None)
def test_tokens_of_bytes_are_read_back_as_they_were_written(texts):
    step = Tokenise(max_length=None, pad="longest", begin_and_end=True)
    assert step.texts(step.transform(texts, LEARNT["bpe"]), LEARNT["bpe"]) == texts


@pytest.mark.parametrize("method", ["wordpiece", "unigram", "wordlevel"])
def test_words_are_read_back_too(method):
    text = " ".join(TEXTS[3].rstrip(".").split()[:4])
    tokens = Tokenise(max_length=40).transform([text], LEARNT[method])
    assert Tokenise().texts(tokens, LEARNT[method]) == [text]


def test_a_given_tokenizer_needs_no_training(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(LEARNT["wordpiece"].facts["tokenizer"], "utf-8")
    step = Tokenise.from_file(file, max_length=16)
    learnt = step.fit(lambda: iter([]))
    assert learnt == Learnt({"vocabulary": LEARNT["wordpiece"].facts["vocabulary"], "padding": 0})
    file.unlink()
    expected = STEPS["wordpiece"].transform(TEXTS, LEARNT["wordpiece"])
    assert (step.transform(TEXTS, learnt) == expected).all()


def test_steps_with_one_vocabulary_do_not_meddle_with_each_other():
    short, long = Tokenise(max_length=5), Tokenise(max_length=90)
    made = [step.transform(TEXTS[:1], LEARNT["bpe"]).shape for step in (short, long, short)]
    assert made == [(1, 5), (1, 90), (1, 5)]


def test_the_tokens_of_a_text_do_not_depend_on_its_batch():
    step, learnt = STEPS["unigram"], LEARNT["unigram"]
    alone = np.concatenate([step.transform([text], learnt) for text in TEXTS])
    assert (step.transform(TEXTS, learnt) == alone).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tokenise(max_length=0), "max_length is a number from 1 to 1048576, not 0"),
        (lambda: Tokenise(max_length=2, begin_and_end=True), "max_length is a number from 3"),
        (lambda: Tokenise(max_length=None), "texts cannot be padded to no max_length"),
        (lambda: Tokenise(vocabulary=10), "vocabulary is a number from 512"),
        (lambda: Tokenise(method="gpt"), "'gpt' is none of bpe, wordpiece"),
        (lambda: Tokenise(tokenizer="{}").fit(training(TEXTS)), "not a tokenizer: "),
        (lambda: Tokenise.from_file("/nowhere"), "/nowhere cannot be read"),
        (lambda: Tokenise().fit(lambda: iter([["", ""]])), "there is no text to learn from"),
        (lambda: Tokenise(method="wordpiece").fit(lambda: iter([])), "there is no text to learn"),
        (lambda: STEPS["bpe"].transform([None], LEARNT["bpe"]), "text 0 is NoneType, not a text"),
        (lambda: STEPS["bpe"].transform([b"a"], LEARNT["bpe"]), "text 0 is bytes, not a text"),
        (lambda: STEPS["bpe"].transform("a", LEARNT["bpe"]), "a batch of texts is a list, not str"),
        (
            lambda: STEPS["bpe"].transform(["a", "b\ud800"], LEARNT["bpe"]),
            "text 1 holds half a character at 1",
        ),
        (
            lambda: Tokenise(method="unigram", vocabulary=512).fit(lambda: iter([LETTERS])),
            "unigram cannot be trained: The vocabulary is not large enough",
        ),
        (lambda: NormaliseText(form="NFD"), "form is"),
        (lambda: HashTexts(0), "columns is a number from 1"),
        (lambda: Blocks(np.arange(4, dtype=np.int32), 4), "4 tokens make no block of 4 and the on"),
        (lambda: Blocks(np.arange(4, dtype=np.int32), 0), "length is a number from 1"),
        (lambda: Blocks.of([], 4), "0 tokens make no block of 4"),
    ],
)
def test_what_cannot_be_done_is_said(make, message):
    with pytest.raises(InvalidRequest, match=message):
        make()


@pytest.mark.parametrize("method", ["bpe", "wordpiece", "wordlevel"])
def test_more_letters_than_tokens_are_no_failure(method):
    texts = [" ".join(LETTERS[at : at + 30]) for at in range(0, 3_000, 30)]
    learnt = Tokenise(method=method, vocabulary=512, least_count=1).fit(lambda: iter([texts]))
    assert learnt.facts["vocabulary"] <= 512
    assert Tokenise(max_length=8).transform(texts[:2], learnt).shape == (2, 8)


# --- hashed --------------------------------------------------------------------------------------


def test_hashed_texts_of_the_same_words_are_the_same():
    one, other, none = HashTexts(64, 1).transform(["a bc bc de", "de bc bc a", ""], Learnt())
    assert (one == other).all() and one.dtype == np.float32 and not none.any()
    assert np.linalg.norm(one) == pytest.approx(1)
    ordered = HashTexts(4096, 2).transform(["aa bb", "bb aa"], Learnt())
    assert (ordered[0] != ordered[1]).any()


# --- blocks --------------------------------------------------------------------------------------


@given(
    texts=st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=8),
    length=st.integers(1, 5),
)
def test_every_token_but_the_first_is_a_target_once_and_in_order(texts, length):
    stream = [token for text in texts for token in text]
    longest = max(map(len, texts))
    padded = np.array([text + [0] * (longest - len(text)) for text in texts], np.int32)
    count = max(0, len(stream) - 1) // length
    if not count:
        with pytest.raises(InvalidRequest):
            Blocks.of([padded], length)
        return
    blocks = Blocks.of([padded[:3], padded[3:]], length)
    inputs, targets = (
        np.concatenate([part.ravel() for part in parts])
        for parts in zip(*(blocks[number] for number in range(len(blocks))), strict=True)
    )
    assert len(blocks) == count
    assert inputs.tolist() == stream[: count * length]
    assert targets.tolist() == stream[1 : count * length + 1]


def test_a_loader_reads_blocks_of_what_another_one_tokenised():
    step = Tokenise(max_length=None, pad="longest", begin_and_end=True)
    texts = DataLoader({"text": np.array(TEXTS[:50])}, 8)
    tokens = (step.transform(batch["text"], LEARNT["bpe"]) for batch in texts)
    blocks = Blocks.of(tokens, 32)
    inputs, targets = next(iter(DataLoader(blocks, 4, shuffle=True)))
    assert (inputs.shape, targets.shape) == ((4, 32), (4, 32))
    assert inputs[:, 1:].tolist() == targets[:, :-1].tolist()
    read = step.texts(
        np.concatenate([blocks[at][0] for at in range(len(blocks))])[None], LEARNT["bpe"]
    )
    assert "".join(TEXTS[:50]).startswith(read[0])
