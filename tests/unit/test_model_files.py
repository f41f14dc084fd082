"""A model's file comes from anywhere: it is read, and never believed or run."""

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from leptonai.errors import InvalidRequest, NotFound
from leptonai.training.models import GPT, MLP, load_model


def a_model() -> MLP:
    torch.manual_seed(0)
    return MLP(2, 2, hidden=(3,))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.pth"
    a_model().save(path)
    return path


def rewritten(path: Path, **changes: Any) -> None:
    """The same weights under another description."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    described = json.loads(header["__metadata__"]["leptonai"]) | changes
    header["__metadata__"]["leptonai"] = json.dumps(described)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def test_one_file_is_safetensors_whatever_its_name(saved: Path) -> None:
    content = saved.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["leptonai"]) == {
        "format": "torch-mlp",
        "format_version": 1,
        "model": a_model().config(),
    }


def test_equal_models_are_equal_files(saved: Path, tmp_path: Path) -> None:
    for _ in range(5):
        a_model().save(tmp_path / "m.pth")
        assert (tmp_path / "m.pth").read_bytes() == saved.read_bytes()


def test_a_pickle_is_refused_before_anything_of_it_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "was here"),)

    (tmp_path / "one.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save({"weights": torch.zeros(1)}, tmp_path / "two.pth")
    for name in ("one.pth", "two.pth"):
        with pytest.raises(InvalidRequest, match=r"is a pickle, which could run anything"):
            load_model(tmp_path / name)
    assert not (tmp_path / "was here").exists()


def test_weights_without_a_description_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "m.pth")
    with pytest.raises(InvalidRequest, match="holds weights, but not how to build a model"):
        load_model(tmp_path / "m.pth")


def test_a_directory_of_hugging_face_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InvalidRequest, match="not the configuration of a model of Lepton") as told:
        load_model(tmp_path)
    assert "HFModel" in told.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "torch-oracle"}, "format torch-oracle 1, which nobody has registered"),
        ({"format_version": 2}, "holds a model of format torch-mlp 2; this reads torch-mlp 1"),
        ({"format_version": "x"}, "cannot be loaded"),
        ({"format_version": None}, "cannot be loaded"),
        ({"model": "["}, "cannot be loaded"),
        ({"model": [1]}, "cannot be loaded"),
        ({"model": {"input_shape": 2}}, "num_classes or num_values"),
        ({"model": {"input_shape": 2, "num_classes": 2, "surprise": 1}}, "surprise"),
        ({"model": {"input_shape": 2, "num_classes": 10**11}}, "num_classes from 1"),
        ({"model": {"input_shape": 2, "num_classes": 2, "hidden": [3, 3]}}, "Missing key"),
        ({"model": {"input_shape": [2, None], "num_classes": 2}}, "whole number, got None"),
        ({"model": {"input_shape": 2, "num_classes": 2, "hidden": 3}}, "cannot be loaded"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    saved: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(saved.read_bytes())
    rewritten(path, **changes)
    with pytest.raises(InvalidRequest, match=message):
        load_model(path)


def test_a_model_that_would_never_be_built_is_refused_at_once(tmp_path: Path) -> None:
    GPT(5, width=4, layers=1, heads=1, context=4).save(tmp_path / "m.pth")
    rewritten(tmp_path / "m.pth", model={"vocabulary": 5, "layers": 10**9})
    with pytest.raises(InvalidRequest, match="layers from 1 to 1024"):
        load_model(tmp_path / "m.pth")


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_a_damaged_file_is_a_model_or_is_refused(saved: Path, data: st.DataObject) -> None:
    """Weights that changed are still weights; what describes them is not guessed."""
    content = bytearray(saved.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    damaged = saved.with_name("damaged.pth")
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        assert isinstance(load_model(damaged), MLP)
    except InvalidRequest as refused:
        assert str(damaged) in refused.message


def test_saving_replaces_a_model_as_a_whole(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    class Half:
        def save(self, path: Path) -> None:
            path.write_bytes(b"half")
            raise Stopped

    a_model().save(tmp_path / "m")
    before = {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()}
    with pytest.raises(Stopped):
        a_model().save(tmp_path / "m", pipeline=Half())
    assert {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()} == before


def test_a_loaded_model_does_not_change_with_its_file(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(saved.read_bytes())
    model = load_model(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    weights = a_model().state_dict()
    assert all(torch.equal(weights[name], own) for name, own in model.state_dict().items())


def test_a_pipeline_lies_beside_the_weights_in_a_directory_alone(tmp_path: Path) -> None:
    class Pipeline:
        def save(self, path: Path) -> None:
            path.write_bytes(b"learnt")

    a_model().save(tmp_path / "m", pipeline=Pipeline())
    assert (tmp_path / "m" / "pipeline.safetensors").read_bytes() == b"learnt"
    assert isinstance(load_model(tmp_path / "m"), MLP)
    with pytest.raises(InvalidRequest, match="has no place for a pipeline"):
        a_model().save(tmp_path / "m.pth", pipeline=Pipeline())


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no model at"):
        load_model(tmp_path / "nothing.pth")
