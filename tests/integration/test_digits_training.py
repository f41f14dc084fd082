"""The digits example, run as a user would, on a directory of images."""

import json
from pathlib import Path

import pytest
from PIL import Image
from workers import Workers

from leptonai import Dataset, Pipeline
from leptonai.data.digits import MAX_PIXEL, Digits
from leptonai.serving.model import ModelServer
from leptonai.serving.predictions import Prediction

SCRIPT = Path(__file__).parents[2] / "examples" / "digits" / "train.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    digits = Digits.load()
    for image, label, number in zip(digits.images, digits.labels, digits.ids, strict=True):
        (folder / str(label)).mkdir(exist_ok=True)
        pixels = image * (255 // MAX_PIXEL)
        Image.fromarray(pixels).save(folder / str(label) / f"{number:04}.png")
    return folder


def test_two_workers_train_a_model_that_reads_images_it_has_not_seen(
    images: Path, tmp_path: Path
) -> None:
    arguments = ["--dataset", str(images), "--output", str(tmp_path / "model"), "--epochs", "6"]
    with Workers() as started:
        assert started.run(SCRIPT, arguments, workers=2, logs=tmp_path) == [0, 0]
    log = (tmp_path / "0.log").read_text()
    assert (tmp_path / "1.log").read_text() == ""

    held_out = Dataset.from_local(images).split(train=0.8, test=0.2, stratify=True)["test"]
    Pipeline.load(tmp_path / "model" / "pipeline.safetensors").check_unseen(held_out)
    server = ModelServer(tmp_path / "model")
    server.init()
    labels = held_out.labels
    assert labels is not None
    answers = [
        answer.labels
        for answer in server.predict_files([bytes(each) for each in held_out.read(range(300))])
        if isinstance(answer, Prediction)
    ]
    right = [
        answer == [held_out.classes[label]] for answer, label in zip(answers, labels, strict=False)
    ]
    assert sum(right) / len(right) >= 0.95
    assert f"epoch 6/6  loss {json.loads(log.split('epoch 6/6  loss ')[1].split()[0]):.4f}" in log


def test_the_same_seed_gives_the_same_model(images: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        arguments = ["--dataset", str(images), "--output", str(tmp_path / name), "--epochs", "1"]
        with Workers() as started:
            assert started.run(SCRIPT, arguments, workers=1, logs=tmp_path) == [0]
    one, two = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert one == two
    assert {*one} == {"config.json", "model.safetensors", "pipeline.safetensors"}
