"""A model answers from raw inputs, through the pipeline that it learnt with."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from leptonai import Dataset, Pipeline
from leptonai.data.pipeline import (
    Clean,
    DropMissing,
    Greyscale,
    Impute,
    NormaliseImages,
    OneHot,
    Scale,
    Tokenise,
    ToMatrix,
)
from leptonai.errors import InvalidRequest
from leptonai.serving.app import App
from leptonai.serving.model import ModelServer
from leptonai.training.models import CNN, GRU, MLP, Model, TransformerEncoder
from leptonai.training.models.signature import Signature, signature_of, write_signature

CHANCE = np.random.default_rng(0)
AGES = CHANCE.integers(0, 99, 300)
TOWNS = CHANCE.choice(["Ulm", "Bonn"], 300)


def table(folder: Path, **target: Any) -> Dataset:
    pl.DataFrame({"age": AGES, "town": TOWNS, **target}).write_csv(folder / "people.csv")
    return Dataset.from_local(folder / "people.csv")


def served(folder: Path, model: Model, pipeline: Pipeline | None = None) -> ModelServer:
    model.save(folder / "model", pipeline=pipeline)
    server = ModelServer(folder / "model")
    server.init()
    return server


def post(server: ModelServer, path: str, body: bytes) -> tuple[int, Any]:
    """Through the whole application."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    asyncio.run(App(server)(scope, receive, send))
    answer = json.loads(sent[1]["body"])
    answer.pop("detail", None)  # what clients of FastAPI read
    return sent[0]["status"], answer


@pytest.fixture
def rows(tmp_path: Path) -> ModelServer:
    data = table(tmp_path, rich=np.where(AGES > 50, "yes", "no"))
    steps = [Clean(), Impute(), Scale(), OneHot(), ToMatrix()]
    pipeline = Pipeline(steps, target="rich").fit(data)
    torch.manual_seed(0)
    model = MLP(len(pipeline.columns), 2, hidden=(16,))
    model.fit(data, 15, 32, pipeline=pipeline, learning_rate=1e-2, quiet=True)
    return served(tmp_path, model, pipeline)


def test_a_row_is_an_object_and_the_labels_are_the_targets_own(rows: ModelServer) -> None:
    one = rows.predict({"age": 90, "town": "Ulm"})
    assert one.labels == ["yes"]
    several = rows.predict([{"age": 90, "town": "Ulm"}, {"town": None, "age": 3, "rich": "?"}])
    assert several.labels == ["yes", "no"]
    assert several.probabilities[0] == pytest.approx(one.probabilities[0])
    assert rows.what_it_takes() == {
        "inputs": "rows",
        "columns": {"age": "integer", "town": "text"},
        "outputs": "labels",
        "classes": ("no", "yes"),
    }


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({"age": "x", "town": "Ulm"}, "row 0: 'age' is 'x', and not an integer"),
        ([{"age": 1, "town": "Ulm"}, {"age": 1}], "row 1: the column 'town' is not there"),
        ([3], "inputs: row 0 is the number 3, not an object of its columns"),
        ([], "inputs: expected a list of rows: {column: value}, got an empty list"),
        ("Ulm", "inputs: expected a list of rows: {column: value}, got a text"),
        ([{}] * 1025, "inputs: expected at most 1024 in a request, got 1025"),
    ],
)
def test_wrong_rows_name_row_and_column(rows: ModelServer, inputs: Any, error: str) -> None:
    body = json.dumps({"inputs": inputs}).encode()
    assert post(rows, "/predict", body) == (422, {"error": error})


def test_as_many_rows_come_out_as_go_in_or_it_is_said_which_would_not(tmp_path: Path) -> None:
    data = table(tmp_path, rich=np.where(AGES > 50, "yes", "no"))
    steps = [DropMissing(columns=("age",)), Scale(), OneHot(), ToMatrix()]
    pipeline = Pipeline(steps, target="rich").fit(data)
    server = served(tmp_path, MLP(len(pipeline.columns), 2), pipeline)
    many = [{"age": 3, "town": "Ulm"}] * 100
    assert len(server.predict(many).labels) == 100
    with pytest.raises(InvalidRequest, match="row 70: 'age' is missing"):
        server.predict([*many[:70], {"age": None, "town": "Ulm"}, *many[:29]])


def test_a_model_of_values_answers_values(tmp_path: Path) -> None:
    data = table(tmp_path, price=AGES * 2.0 + (TOWNS == "Ulm"))
    pipeline = Pipeline([Scale(), OneHot(), ToMatrix()], target="price").fit(data)
    torch.manual_seed(0)
    model = MLP(len(pipeline.columns), num_values=1, value_mean=100, value_std=60)
    model.fit(data, 30, 32, pipeline=pipeline, learning_rate=1e-2, quiet=True)
    answer = served(tmp_path, model, pipeline).predict({"age": 50, "town": "Ulm"})
    assert answer.values[0][0] == pytest.approx(101, abs=3)
    assert (answer.labels, answer.probabilities) == ([], [])


def test_texts_are_answered_as_they_are_written(tmp_path: Path) -> None:
    good, bad = ("what a fine day", "a fine thing"), ("how dull a day", "a dull thing")
    for name, texts in (("good", good), ("bad", bad)):
        (tmp_path / "texts" / name).mkdir(parents=True)
        for at in range(20):
            (tmp_path / "texts" / name / f"{at}.txt").write_text(f"{texts[at % 2]} {at}")
    data = Dataset.from_local(tmp_path / "texts")
    pipeline = Pipeline([Tokenise(method="wordlevel", vocabulary=512, max_length=8)]).fit(data)
    torch.manual_seed(0)
    model = TransformerEncoder(512, 2, context=8, width=16, layers=1, heads=2, dropout=0.0)
    model.fit(data, 15, 8, pipeline=pipeline, learning_rate=1e-2, quiet=True)
    server = served(tmp_path, model, pipeline)
    assert server.predict("a fine day").labels == ["good"]
    assert server.predict(["a dull day", "a fine day"]).labels == ["bad", "good"]
    assert post(server, "/predict/file", b"a dull day")[1]["labels"] == ["bad"]
    assert post(server, "/predict/file", b"\xff")[0] == 422
    assert post(server, "/predict", b'{"inputs": [1]}') == (
        422, {"error": "inputs: text 0 is the number 1"},
    )  # fmt: skip


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ModelServer:
    folder = tmp_path_factory.mktemp("images")
    for name, level in (("dark", 40), ("light", 200)):
        (folder / "data" / name).mkdir(parents=True)
        for at in range(16):
            image = CHANCE.integers(level - 30, level + 30, (8, 8, 3)).astype(np.uint8)
            (folder / "data" / name / f"{at}.png").write_bytes(png(image))
    data = Dataset.from_local(folder / "data")
    pipeline = Pipeline([Greyscale(), NormaliseImages()]).fit(data, image_size=(8, 8))
    torch.manual_seed(0)
    model = CNN((8, 8, 1), 2, widths=(8,))
    model.fit(data, 5, 8, pipeline=pipeline, quiet=True)
    model.save(folder / "model", pipeline=pipeline)
    write_signature(folder / "model", signature_of(model, pipeline, image_size=(8, 8)))
    server = ModelServer(folder / "model")
    server.init()
    return server


def test_an_image_is_a_file_or_base64_or_pixels_and_the_answer_is_the_same(
    images: ModelServer,
) -> None:
    light = np.full((8, 8, 3), 210, np.uint8)
    file = png(light)
    text = base64.b64encode(file).decode()
    answers = [
        post(images, "/predict/file", file),
        post(images, "/predict", json.dumps({"inputs": text}).encode()),
        post(
            images, "/predict", json.dumps({"inputs": [f"data:image/png;base64,{text}"]}).encode()
        ),
        post(images, "/predict", json.dumps({"inputs": [light.tolist()]}).encode()),
    ]
    assert [status for status, _ in answers] == [200] * 4
    assert answers[0][1]["labels"] == ["light"]
    assert all(answer == answers[0] for answer in answers)


PIXELS = "inputs: expected a list of images of shape [8, 8, 3] "


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        (["§"], "inputs: image 0 is a text, and no base64"),
        (["aaaa"], "inputs: image 0 is not an image that can be read: of no known format"),
        ([[[1, 2]]], "inputs: expected a list of images of shape [8, 8, 3], got [1, 2]"),
        ([[[[256] * 3] * 8] * 8], PIXELS + "of numbers from 0 to 255, got others"),
        ([[[[0.5] * 3] * 8] * 8], PIXELS + "of whole numbers, got some with a fraction"),
        (["aaaa", [1]], "inputs: image 1 is a list, and others are files in base64"),
    ],
)
def test_wrong_images_are_named(images: ModelServer, inputs: Any, error: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        images.predict(inputs)
    assert refused.value.message == error


def test_arrays_are_nested_lists_of_any_length_that_the_model_takes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GRU(vocabulary=10, num_classes=2, width=8)
    server = served(tmp_path, model)
    tokens = [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_allclose(
        server.predict(tokens).probabilities, model.predict(np.array(tokens)), rtol=1e-5
    )
    for wrong in ([[1.5]], [[99]], [3]):
        with pytest.raises(InvalidRequest):
            server.predict(wrong)


def test_a_damaged_signature_ends_the_server_with_the_reason(tmp_path: Path) -> None:
    MLP(4, 2).save(tmp_path / "model")
    write_signature(tmp_path / "model", Signature(inputs="arrays", outputs="labels"))
    (tmp_path / "model" / "signature.json").write_text('{"inputs": "dreams"}')
    with pytest.raises(InvalidRequest, match=r"signature\.json is damaged"):
        ModelServer(tmp_path / "model").init()
