"""Texts as they grow, and the chance by which their tokens are drawn."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonai.serving.language.drawing import Drawing, Drawn, Sampling, draw
from leptonai.serving.language.text import GrowingText


def from_bytes(tokens: Sequence[int]) -> str:
    """The plainest tokenizer: each byte is a token."""
    return bytes(tokens).decode("utf-8", "replace")


def pieces_of(text: str, stops: Sequence[str] = ()) -> tuple[list[str], bool]:
    growing = GrowingText(from_bytes, stops)
    pieces = []
    for token in text.encode():
        pieces.append(growing.add(token))
        if growing.stopped:
            break
    return [*pieces, growing.finish()], growing.stopped


@given(st.text())
def test_the_pieces_are_the_text(text: str) -> None:
    pieces, stopped = pieces_of(text)
    assert ("".join(pieces), stopped) == (text, False)


@given(st.text("abc"), st.lists(st.text("abc", min_size=1, max_size=4), max_size=4))
def test_it_ends_before_the_first_stop_sequence(text: str, stops: list[str]) -> None:
    pieces, stopped = pieces_of(text, stops)
    # Whichever ends first has stopped it, and of these the one that began first.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    expected = text
    if ends:
        seen = text[: min(ends)]
        expected = seen[: min(at for stop in stops if (at := seen.find(stop)) >= 0)]
    assert ("".join(pieces), stopped) == (expected, bool(ends))


def test_half_a_character_is_held_back_and_told_at_the_end() -> None:
    growing = GrowingText(from_bytes)
    assert [growing.add(byte) for byte in "é".encode()] == ["", "é"]
    assert growing.add("🙂".encode()[0]) == ""
    assert growing.finish() == "�"


def test_the_beginning_of_a_stop_sequence_is_held_back_until_it_is_none() -> None:
    pieces, _ = pieces_of("a<en<end", ["<end>"])
    assert pieces == ["a", "", "", "", "<en", "", "", "", "<end"]


SCORES = torch.tensor([[2.0, 1.0, 0.0, -1.0]])


def drawn(sampling: Sampling, times: int = 400, seed: int = 0) -> list[int]:
    drawing = Drawing(sampling, seed)
    return [draw(SCORES, [drawing])[0].token for _ in range(times)]


def test_without_temperature_the_likeliest_is_taken() -> None:
    assert draw(SCORES, [Drawing(Sampling(temperature=0.0), 0)]) == [Drawn(0, None)]


def test_tokens_come_as_often_as_they_are_likely() -> None:
    found = Counter(drawn(Sampling(), 4_000))
    shares = SCORES[0].softmax(0)
    assert [found[token] / 4_000 for token in range(4)] == pytest.approx(shares.tolist(), abs=0.03)


def test_top_p_and_top_k_leave_out_what_is_unlikely() -> None:
    assert set(drawn(Sampling(top_p=0.5))) == {0}  # which alone has more
    assert set(drawn(Sampling(top_p=0.7))) == {0, 1}
    assert set(drawn(Sampling(top_k=3))) == {0, 1, 2}


def test_a_seed_draws_the_same_whatever_is_drawn_beside_it() -> None:
    alone = drawn(Sampling(), 20, seed=7)
    drawing, others = Drawing(Sampling(), 7), [Drawing(Sampling(top_p=0.3), at) for at in range(5)]
    rows = torch.cat([SCORES] * 6)
    assert [draw(rows, [*others, drawing])[5].token for _ in range(20)] == alone
    assert drawn(Sampling(), 20, seed=8) != alone


def test_biases_forbid_and_penalties_vary() -> None:
    assert drawn(Sampling(temperature=0.0, logit_bias={0: -100.0}), 1) == [1]
    assert drawn(Sampling(temperature=0.0, presence_penalty=1.5), 3) == [0, 1, 0]
    assert drawn(Sampling(temperature=0.0, frequency_penalty=0.6), 4) == [0, 0, 1, 0]


def test_how_likely_a_token_was_is_told_before_temperature_and_bias() -> None:
    sampling = Sampling(temperature=0.0, logit_bias={0: -100.0}, logprobs=2)
    [(token, likely)] = draw(SCORES, [Drawing(sampling, 0)])
    logprobs = SCORES[0].log_softmax(0).tolist()
    assert likely is not None
    assert (token, likely.logprob) == (1, pytest.approx(logprobs[1]))
    assert [token for token, _ in likely.top] == [0, 1]
    assert [logprob for _, logprob in likely.top] == pytest.approx(logprobs[:2])
