"""Padding is nothing, whatever the model; hidden tokens are to be found."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.errors import InvalidRequest
from leptonai.training.losses import IGNORED
from leptonai.training.models import GRU, LSTM, RNN, Model, TransformerEncoder


def made(kind: type[Model], **options: object) -> Model:
    torch.manual_seed(0)
    return kind(**options).eval()  # type: ignore[arg-type]


OF_TOKENS = {
    "RNN": made(RNN, vocabulary=12, num_classes=3, width=8),
    "LSTM": made(LSTM, vocabulary=12, num_classes=3, width=8, layers=2, bidirectional=True),
    "GRU": made(GRU, vocabulary=12, num_classes=3, width=8, bidirectional=True),
    "rotary": made(TransformerEncoder, vocabulary=12, num_classes=3, width=8, layers=2, heads=2),
    "learned": made(
        TransformerEncoder,
        vocabulary=12,
        num_classes=3,
        width=8,
        layers=2,
        heads=2,
        positions="learned",
    ),
}
sequences = st.lists(st.lists(st.integers(1, 11), min_size=1, max_size=7), min_size=1, max_size=5)


@pytest.mark.parametrize("name", [*OF_TOKENS])
@given(rows=sequences, more=st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_a_sequence_means_the_same_alone_and_padded_among_longer_ones(
    name: str, rows: list[list[int]], more: int
) -> None:
    model = OF_TOKENS[name]
    longest = max(map(len, rows)) + more
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        together = model(padded)
        alone = torch.cat([model(torch.tensor([row])) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_padded_numbers_come_with_their_lengths() -> None:
    model = made(LSTM, num_features=2, horizon=2, num_values=3, width=8)
    numbers = torch.randn((2, 5, 2))
    lengths = torch.tensor([5, 3])
    together = model((numbers, lengths))
    assert together.shape == (2, 2, 3)
    torch.testing.assert_close(together[1:], model(numbers[1:, :3]))
    assert model.predict([((numbers[0].numpy(), 5), 0)]).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([5, 0], "lengths from 1 to 5, got 0 to 5"), ([6, 1], "lengths from 1 to 5, got 1 to 6")],
)
def test_a_length_that_cannot_be_is_refused(lengths: list[int], message: str) -> None:
    model = made(GRU, num_features=2, num_classes=2)
    with pytest.raises(InvalidRequest, match=message):
        model.check((torch.randn((2, 5, 2)), torch.tensor(lengths)))


@pytest.mark.parametrize("name", ["LSTM", "rotary"])
def test_a_sequence_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"nothing but the padding|lengths from 1 to 3"):
        OF_TOKENS[name].predict(np.array([[1, 2, 3], [0, 0, 0]]))


def test_every_token_sees_every_other_one() -> None:
    model = made(TransformerEncoder, vocabulary=12, width=8, layers=1, heads=2)
    tokens = torch.tensor([[1, 2, 3, 4]])
    for changed_at in range(4):
        changed = tokens.clone()
        changed[0, changed_at] = 9
        moved = (model(tokens) - model(changed)).abs().sum(-1)[0]
        assert bool((moved > 0).all())


@given(st.integers(0, 2**32), st.integers(1, 30))
@settings(deadline=None, max_examples=30)
def test_what_is_hidden_is_to_be_found_and_the_rest_stays(seed: int, length: int) -> None:
    model = made(TransformerEncoder, vocabulary=50, width=8, layers=1, heads=2, context=32)
    assert isinstance(model, TransformerEncoder)
    chance = np.random.default_rng(seed)
    tokens = chance.integers(1, 49, (20, length))
    tokens[:, length // 2 + 1 :] = 0
    seen, targets = model.hide(tokens, np.random.default_rng(seed))
    to_find = targets != IGNORED
    assert np.array_equal(targets[to_find], tokens[to_find])
    assert np.array_equal(seen[~to_find], tokens[~to_find])
    assert not to_find[tokens == 0].any() and to_find.any(1).all()


def test_as_many_are_hidden_as_published() -> None:
    model = made(TransformerEncoder, vocabulary=1000, width=8, layers=1, heads=2, context=200)
    assert isinstance(model, TransformerEncoder)
    tokens = np.full((200, 200), 7)
    seen, targets = model.hide(tokens, np.random.default_rng(0))
    to_find = targets != IGNORED
    assert to_find.mean() == pytest.approx(0.15, abs=0.01)
    assert (seen[to_find] == 999).mean() == pytest.approx(0.8, abs=0.02)
    assert (seen[to_find] == 7).mean() == pytest.approx(0.1, abs=0.02)
