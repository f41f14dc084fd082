"""What goes to a job: arrays and models come back as they were, and what cannot go is named."""

import json
import sys
import zipfile

import keras
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.unit import keras_parts

from leptonai.errors import InvalidRequest
from leptonai.training.keras import callbacks as sorting
from leptonai.training.keras.shipping import (
    as_arrays,
    modules_of,
    pack,
    ship_model,
    size_of,
    unpack,
)

leaves = st.none() | arrays.arrays(
    st.sampled_from(["float32", "int64", "bool", "uint8", "<U3"]),
    arrays.array_shapes(min_dims=1, max_dims=3, max_side=3),
)
nests = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        equal = np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        return bool(a.dtype == b.dtype and a.shape == b.shape and equal)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a is b is None


@settings(deadline=None, max_examples=50)
@given(nests)
def test_arrays_come_back_as_they_were_however_they_are_nested(tmp_path_factory, nest):
    folder = tmp_path_factory.mktemp("arrays")
    said = json.loads(json.dumps(pack(nest, folder)))
    assert same(nest, unpack(said, folder))


def test_tensors_and_their_like_are_arrays():
    assert as_arrays(torch.ones(2, requires_grad=True), "x").tolist() == [1, 1]
    assert as_arrays({"a": [np.zeros(1)]}, "x") == {"a": [np.zeros(1)]}
    assert as_arrays(np.ones(2, ml_dtypes.bfloat16), "x").dtype == np.float32
    assert as_arrays(None, "y") is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((n for n in range(3)), "x is a builtins generator: only arrays can be shipped to a job"),
        (
            torch.utils.data.DataLoader([1, 2]),
            "x is a torch DataLoader: only arrays can be shipped to a job",
        ),
        (
            {"a": np.array([None])},
            "x['a'] holds Python objects: only arrays of numbers or strings, a sample a row, can "
            "be shipped",
        ),
        (
            np.float32(3),
            "x is a single number: only arrays of numbers or strings, a sample a row, can be "
            "shipped",
        ),
    ],
)
def test_what_is_no_array_is_refused_by_its_place(value, said):
    with pytest.raises(InvalidRequest) as refused:
        as_arrays(value, "x")
    assert refused.value.message == said


def test_every_array_has_as_many_samples():
    assert size_of((np.zeros(3), {"a": np.zeros((3, 2))}), "x") == 3
    with pytest.raises(InvalidRequest, match="x with y has 3 and 4 samples"):
        size_of((np.zeros(3), np.zeros(4)), "x with y")
    with pytest.raises(InvalidRequest, match="x has 0 samples"):
        size_of((np.zeros(0),), "x")


# --- models --------------------------------------------------------------------------------------


def a_model(*layers, loss="mse", **compiled):
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
    model.compile("adam", loss, **compiled)
    return model


def shipped(model, folder, workers=1, training=True):
    sample = np.zeros((1, 3), "float32")
    return ship_model(model, folder, sample=sample, training=training, workers=workers)


def test_a_model_goes_with_its_weights_its_optimizer_and_how_it_was_compiled(tmp_path):
    model = a_model(keras.layers.Dense(4, "relu"), metrics=["mae"])
    model.optimizer.learning_rate = 0.25
    model.fit(np.ones((4, 3), "float32"), np.ones((4, 1), "float32"), verbose=0)
    assert shipped(model, tmp_path) == []
    found = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    pairs = zip(
        [*model.weights, *model.optimizer.variables],
        [*found.weights, *found.optimizer.variables],
        strict=True,
    )
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs)
    assert float(found.optimizer.learning_rate.numpy()) == 0.25
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert sorted(archive.namelist()) == ["config.json", "metadata.json", "model.weights.h5"]


def test_a_model_that_has_not_seen_data_gets_its_weights_here(tmp_path):
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    shipped(model, tmp_path)
    found = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(found.get_weights()[0], model.get_weights()[0])


def test_registered_parts_go_along_with_the_module_that_defines_them(tmp_path):
    model = a_model(keras_parts.Scaled(3.0), loss=keras_parts.doubled_error)
    assert shipped(model, tmp_path) == ["tests.unit.keras_parts"]
    assert (tmp_path / "sources/tests/unit/keras_parts.py").is_file()


def test_parts_that_only_exist_here_are_refused_and_all_are_named(tmp_path):
    model = a_model(
        keras.layers.Lambda(lambda x: x + 1, name="plus"), loss=keras_parts.not_registered
    )
    with pytest.raises(InvalidRequest) as refused:
        shipped(model, tmp_path)
    assert refused.value.message == (
        "the model cannot be shipped, because of a lambda in Lambda 'plus', not_registered "
        "(not registered)"
    )
    assert "@keras.saving.register_keras_serializable()" in refused.value.hint


def test_what_is_defined_in_the_script_itself_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(keras_parts.Scaled, "__module__", "__main__")
    with pytest.raises(InvalidRequest, match=r"tests>Scaled \(defined in the script itself\)"):
        shipped(a_model(keras_parts.Scaled()), tmp_path)


def test_a_model_that_cannot_be_written_down_says_why(tmp_path):
    class Secretive(keras.layers.Layer):
        def __init__(self, what):
            super().__init__()
            self.what = what

        def call(self, inputs):
            return inputs

    with pytest.raises(InvalidRequest, match=r"cannot be shipped: .*Secretive"):
        shipped(a_model(Secretive(object())), tmp_path)


def test_a_loss_that_several_workers_cannot_share_out_is_refused(tmp_path):
    model = a_model(loss=keras.losses.MeanSquaredError(reduction="sum"))
    with pytest.raises(InvalidRequest, match="the loss MeanSquaredError has reduction='sum'"):
        shipped(model, tmp_path, workers=2)
    shipped(model, tmp_path, workers=1)


def test_keras_own_functions_need_no_module():
    layer = keras.layers.Dense(2, activation=keras.ops.tanh, kernel_initializer="ones")
    config = keras.saving.serialize_keras_object(
        a_model(layer, loss=keras.losses.mean_squared_error)
    )
    assert modules_of(config) == []


# --- callbacks -----------------------------------------------------------------------------------


def test_a_callback_is_rebuilt_from_what_it_was_made_with():
    stopping = keras.callbacks.EarlyStopping(
        "loss", min_delta=0.5, patience=3, mode="min", restore_best_weights=True, baseline=2.0
    )
    slower = keras.callbacks.ReduceLROnPlateau(factor=0.5, cooldown=2, min_lr=1e-4)
    for each in (stopping, slower):
        said = json.loads(json.dumps(sorting.written(each)))
        assert sorting.written(sorting.rebuilt(said)) == said
    assert sorting.written(stopping)["arguments"] == {
        "monitor": "loss",
        "min_delta": 0.5,
        "patience": 3,
        "verbose": 0,
        "mode": "min",
        "baseline": 2.0,
        "restore_best_weights": True,
        "start_from_epoch": 0,
    }


class EachEpoch(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None): ...


class EachBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None): ...


def test_callbacks_run_in_the_job_or_here_at_each_epoch():
    stopping, mine = keras.callbacks.EarlyStopping(), EachEpoch()
    printing = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)
    assert sorting.sort([mine, stopping, printing]) == ((stopping,), (mine, printing))
    assert sorting.sort(stopping) == ((stopping,), ())
    assert sorting.sort(None) == ((), ())


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (EachBatch(), "the callback EachBatch has on_train_batch_end, and only what happens once "
         "an epoch is told from a job"),
        (
            keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: None),
            "the callback LambdaCallback has on_train_batch_begin, and only what happens once an "
            "epoch is told from a job",
        ),
        (
            keras.callbacks.ModelCheckpoint("x.keras"),
            "the callback ModelCheckpoint cannot run in a job",
        ),
        (
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
            "the callback LearningRateScheduler cannot run in a job",
        ),
    ],
)  # fmt: skip
def test_a_callback_that_can_do_neither_is_refused_by_name(callback, said):
    with pytest.raises(InvalidRequest) as refused:
        sorting.sort([callback])
    assert refused.value.message == said


def test_the_modules_of_the_test_kit_are_where_they_are_said_to_be():
    assert keras_parts.__name__ in sys.modules
