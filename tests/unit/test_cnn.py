import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from leptonai.errors import InvalidRequest, NotFound
from leptonai.training.models import CNN, load_model, save_model


def a_cnn() -> CNN:
    torch.manual_seed(0)
    return CNN((8, 8, 1), 3, widths=(8,), pixel_mean=4.0, pixel_std=2.0, classes=("a", "b", "c"))


@pytest.mark.parametrize("input_shape", [(8, 8, 1), (128, 96, 3)])
def test_it_scores_images_of_its_shape(input_shape: tuple[int, int, int]) -> None:
    model = CNN(input_shape=input_shape, num_classes=2)
    assert model(torch.zeros((4, *input_shape))).shape == (4, 2)


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    model = a_cnn().eval()
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    images = torch.randint(0, 16, (5, 8, 8, 1), dtype=torch.uint8)
    assert again.config() == model.config()
    assert torch.equal(again(images), model(images))


def test_a_saved_model_holds_nothing_that_could_run(tmp_path: Path) -> None:
    save_model(a_cnn(), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["format"], config["model"]["pixel_mean"]) == ("torch-cnn", 4.0)
    header_bytes = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert json.loads((tmp_path / "model.safetensors").read_bytes()[8 : 8 + header_bytes])


def test_it_normalises_raw_pixels_itself() -> None:
    model = a_cnn().eval()
    raw = torch.randint(0, 16, (5, 8, 8, 1))
    plain = CNN(**{**model.config(), "pixel_mean": 0.0, "pixel_std": 1.0}).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(raw), plain((raw - 4.0) / 2.0))


def test_an_image_scores_the_same_alone_and_in_a_batch_while_training_too() -> None:
    model = CNN((8, 8, 1), 3, widths=(8,), dropout=0.0).train()
    images = torch.rand((5, 8, 8, 1))
    torch.testing.assert_close(model(images)[:1], model(images[:1]))


def test_a_wrong_shape_says_what_was_expected_and_got() -> None:
    with pytest.raises(
        InvalidRequest, match=r"CNN expected images of .*\['B', 8, 8, 1\], got \[2, 1, 8, 8\]"
    ):
        a_cnn()(torch.zeros((2, 1, 8, 8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_shape": (8, 8)}, "expected input_shape"),
        ({"input_shape": (4, 8, 1)}, "sides of at least 8"),
        ({"widths": (12,)}, "multiples of 8"),
        ({"classes": ("a",)}, "expected 10 names of classes, got 1"),
        ({"pixel_std": 0.0}, "pixel_std above 0"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        CNN(**{"input_shape": (8, 8, 1), "num_classes": 10, **change})  # type: ignore[arg-type]


def test_a_directory_without_a_model_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"it needs config.json and model.safetensors"):
        load_model(tmp_path)


def test_torn_weights_are_refused(tmp_path: Path) -> None:
    save_model(a_cnn(), tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InvalidRequest, match="cannot be loaded"):
        load_model(tmp_path)


def without_metadata(directory: Path) -> None:
    """As models were saved before there was one."""
    save_file(load_file(directory / "model.safetensors"), directory / "model.safetensors")


def test_a_model_of_before_metadata_still_loads(tmp_path: Path) -> None:
    model = a_cnn().eval()
    save_model(model, tmp_path)
    without_metadata(tmp_path)
    images = torch.rand((2, 8, 8, 1))
    assert torch.equal(load_model(tmp_path)(images), model(images))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_model(a_cnn(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["widths"] = [16]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidRequest, match=r"is not that of the model\.safetensors"):
        load_model(tmp_path)
    without_metadata(tmp_path)
    with pytest.raises(InvalidRequest, match="size mismatch"):
        load_model(tmp_path)


def test_a_later_format_is_refused_by_name(tmp_path: Path) -> None:
    save_model(a_cnn(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format_version": 9}))
    with pytest.raises(InvalidRequest, match="format torch-cnn 9; this reads torch-cnn 1"):
        load_model(tmp_path)
