"""What a fit needs can be read in the directory that a job gets, and nothing in it is pickled."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leptonai import DataLoader, Pipeline
from leptonai.data.pipeline import NormaliseImages
from leptonai.data.sets.arrays import LabelledImages
from leptonai.errors import InvalidRequest
from leptonai.training import Callback
from leptonai.training.models import MLP, Model, load_model
from leptonai.training.models.sending import fit_in_job
from leptonai.training.models.shipping import Order, check_can_be_sent, open_data, pack

ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)
LABELS = np.arange(6) % 2
IMAGES = LabelledImages(np.zeros((6, 8, 8, 1), np.uint8), LABELS, ("cat", "dog"))
NOBODY: Any = None  # the client, of whom nothing is asked


def sent(directory: Path, data: Any, **given: Any) -> tuple[Any, Any]:
    """The data and the order as they arrive."""
    told: dict[str, Any] = {
        "validation": None, "pipeline": None, "epochs": 2, "batch_size": 3,
        "learning_rate": 0.1, "seed": 5, "options": {},
    }  # fmt: skip
    pack(directory, MLP(4, 2), data, client=NOBODY, **{**told, **given})
    order = Order.read(directory)
    return open_data(directory, "train", order.data), order


@pytest.mark.parametrize(
    "data",
    [
        (ROWS, LABELS),
        ROWS,
        {"x": ROWS, "label": LABELS},
        (torch.tensor(ROWS), torch.tensor(LABELS)),
    ],
    ids=["tuple", "array", "mapping", "tensors"],
)
def test_arrays_arrive_as_they_are(tmp_path: Path, data: Any) -> None:
    arrived, _ = sent(tmp_path, data)
    assert type(arrived) is type(data)
    pairs = (
        [(arrived[name], data[name]) for name in data]
        if isinstance(data, dict)
        else zip(arrived, data, strict=True)
    )
    for here, there in pairs:
        np.testing.assert_array_equal(here, there)


def test_classes_and_options_arrive_and_the_model_is_the_same(tmp_path: Path) -> None:
    torch.manual_seed(1)
    options = {"schedule": "cosine", "metrics": ("accuracy", "f1"), "average": None}
    arrived, order = sent(tmp_path, IMAGES, validation=IMAGES, options=options)
    assert arrived.classes == ("cat", "dog")
    np.testing.assert_array_equal(arrived.as_columns()[0], IMAGES.images)
    assert order.options == {**options, "metrics": ["accuracy", "f1"]}
    assert (order.epochs, order.batch_size, order.learning_rate, order.seed) == (2, 3, 0.1, 5)
    torch.manual_seed(1)
    expected = MLP(4, 2).state_dict()
    arrived_weights = load_model(tmp_path / "model").state_dict()
    assert all(torch.equal(arrived_weights[name], expected[name]) for name in expected)
    assert sorted(each.suffix for each in tmp_path.rglob("*") if each.is_file()) == [
        ".json", ".json", ".npy", ".npy", ".npy", ".npy", ".safetensors",
    ]  # fmt: skip


class Own(Model, format="test-of-ones-own"):
    def __init__(self) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"options": {"callbacks": [Callback()]}}, "the option callbacks (a list)"),
        ({"options": {"loss": max}}, "the option loss (the function max)"),
        ({"options": {"checkpoints": "here"}}, "the option checkpoints (a directory of this"),
        ({"model": Own()}, "the class Own, which is your own"),
        ({"data": DataLoader((ROWS, LABELS))}, "a DataLoader as data"),
        ({"validation": iter([])}, "a list_iterator as validation_data"),
        ({"data": np.array([print], dtype=object)}, "a ndarray as data"),
        ({"pipeline": len}, "the function len as pipeline"),
        ({"pipeline": Pipeline([NormaliseImages()])}, "a pipeline that is not fitted"),
    ],
)
def test_what_only_this_process_has_is_named(given: dict[str, Any], named: str) -> None:
    told: dict[str, Any] = {
        "model": MLP(4, 2), "data": (ROWS, LABELS), "validation": None, "pipeline": None,
        "options": {},
    }  # fmt: skip
    with pytest.raises(InvalidRequest) as refused:
        check_can_be_sent(**{**told, **given})
    assert named in refused.value.message
    assert "leptonai train" in refused.value.hint


def test_an_unknown_resource_is_named_before_anything_is_sent() -> None:
    with pytest.raises(InvalidRequest, match="there is no resource gpus"):
        fit_in_job(
            MLP(4, 2), (ROWS, LABELS), validation=None, pipeline=None, epochs=1, batch_size=2,
            learning_rate=0.1, seed=0, options={}, workers=1, resources={"gpus": 1}, client=NOBODY,
        )  # fmt: skip
