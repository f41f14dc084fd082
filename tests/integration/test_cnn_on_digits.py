"""The default CNN on real images, by the calls that people make."""

import numpy as np
import torch

from leptonai.data import split
from leptonai.data.digits import Digits
from leptonai.training.models import CNN

GOOD_ACCURACY = 0.985


def test_the_default_cnn_reads_digits_it_has_not_seen() -> None:
    digits = Digits.load()
    parts = split(digits.ids.tolist(), digits.labels.tolist(), seed=0, held_out=0.2)
    train, held_out = digits.only(parts.train), digits.only(parts.held_out)
    torch.manual_seed(0)
    model = CNN(
        (8, 8, 1), 10, pixel_mean=float(train.images.mean()), pixel_std=float(train.images.std())
    )
    model.fit(
        train, 12, 48, learning_rate=3e-3, weight_decay=1e-2, schedule="one cycle", quiet=True
    )
    loss, accuracy = model.evaluate(held_out)
    assert accuracy >= GOOD_ACCURACY
    assert loss < 0.1
    predicted = model.predict(held_out).argmax(1)
    assert float(np.mean(predicted == held_out.labels)) == accuracy
