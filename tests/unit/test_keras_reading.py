"""Sources of batches become arrays, where that means the same."""

import importlib.util
import itertools

import keras
import numpy as np
import pytest
import torch

from leptonai.errors import InvalidRequest
from leptonai.training.keras import reading
from leptonai.training.keras.reading import with_arrays

X, Y = np.arange(14.0, dtype="float32").reshape(7, 2), np.arange(7)
FIT = {"epochs": 3}


class Rows(keras.utils.PyDataset):
    """Whose order, or samples, may be others in each epoch."""

    def __init__(self, *, shuffles=False, draws=False):
        super().__init__()
        self.order, self.shuffles, self.draws = np.arange(7), shuffles, draws
        self.chance = np.random.default_rng(0)

    def __len__(self):
        return 3

    def __getitem__(self, number):
        at = self.order[3 * number : 3 * number + 3]
        noise = self.chance.normal(size=(len(at), 2)) if self.draws else 0
        return {"a": X[at] + noise}, Y[at]

    def on_epoch_end(self):
        if self.shuffles:
            self.order = self.chance.permutation(7)


def batches(size=3):
    return ((X[at : at + size], Y[at : at + size]) for at in range(0, 7, size))


def loader(**options):
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 3, **options
    )


@pytest.mark.parametrize("shuffles", [False, True])
def test_a_py_dataset_is_its_samples(shuffles):
    found = with_arrays("fit", {"x": Rows(shuffles=shuffles), **FIT})
    np.testing.assert_array_equal(found["x"]["a"], X)
    np.testing.assert_array_equal(found["y"], Y)
    assert found["batch_size"] == 3
    assert "shuffle" not in found  # Keras shuffles a PyDataset unless it is told not to


@pytest.mark.parametrize("shuffles", [False, True])
def test_a_loader_of_torch_keeps_its_way_of_ordering(shuffles):
    found = with_arrays("fit", {"x": loader(shuffle=shuffles), "validation_data": loader(), **FIT})
    assert sorted(found["y"]) == [*Y]
    assert (found["shuffle"], found["validation_batch_size"]) == (shuffles, 3)
    np.testing.assert_array_equal(found["validation_data"][0], X)


@pytest.mark.tensorflow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="TensorFlow (2 GB) is not installed: pip install tensorflow-cpu",
)
def test_a_dataset_of_tensorflow_is_its_samples():
    import tensorflow as tf

    found = with_arrays("fit", {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(3), **FIT})
    np.testing.assert_array_equal(found["x"], X)


def test_a_generator_is_enough_for_one_epoch():
    found = with_arrays("fit", {"x": batches(), "epochs": 1})
    np.testing.assert_array_equal(found["x"], X)
    assert found["shuffle"] is False
    assert "y" not in with_arrays("predict", {"x": batches()})
    endless = ((X[:2], Y[:2]) for _ in iter(int, 1))
    assert len(with_arrays("evaluate", {"x": endless, "steps": 5})["x"]) == 10


def test_arrays_stay_as_they_are():
    asked = {"x": X, "y": Y, "validation_data": (X, Y), **FIT}
    assert with_arrays("fit", asked) == asked


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"x": batches(), **FIT}, "x is a generator, which gives its samples once"),
        ({"x": Rows(draws=True), **FIT}, "x gives other samples each time it is read"),
        ({"x": Rows(), "y": Y, **FIT}, "x gives batches by itself, so there is no y beside it"),
        ({"x": Rows(), "validation_split": 0.5}, "validation_split needs arrays"),
        ({"x": iter(())}, "x gives no batch"),
        ({"x": iter(["abc"])}, "a batch of x is a builtins str: only arrays can be shipped"),
        ({"x": iter([(X, Y[:2])])}, "a batch of x has 2 and 7 samples"),
        ({"x": iter([X[:3], X[:1], X])}, "x gives batches of 1 to 7 samples"),
        ({"x": iter([X, X[:, :1]])}, "the batches of x do not fit together"),
        ({"x": X, "y": Y, "validation_data": iter(())}, "validation_data gives no batch"),
    ],
)
def test_what_would_not_be_the_same_is_refused(asked, told):
    with pytest.raises(InvalidRequest, match=told) as refused:
        with_arrays("fit", asked)
    assert refused.value.hint


def test_what_has_no_end_is_refused(monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 10)
    with pytest.raises(InvalidRequest, match="x has no end, or more than"):
        with_arrays("fit", {"x": itertools.repeat(X), "epochs": 1})
