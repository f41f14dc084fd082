"""A photon, and a saved model, served by a process of their own and asked with raw HTTP."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from leptonai.testing.free_ports import a_free_port
from leptonai.training.models import CNN, load_model, save_model

START_S = 180  # a busy machine takes long to import torch and transformers
STOP_S = 30

COUNTER = """
import time
from leptonai.photon import Photon

class Counter(Photon):
    def init(self):
        self.count = 0

    @Photon.handler
    def add(self, amount: int) -> int:
        self.count += amount
        return self.count

    @Photon.handler
    def slow(self) -> str:
        open("entered", "w").close()
        while not __import__("os").path.exists("leave"):
            time.sleep(0.01)
        return "finished"
"""


@contextlib.contextmanager
def serving(
    *arguments: str, cwd: Path, **environ: str
) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """The process of ``python -m arguments`` and its port, from when it is well until it ends."""
    port = a_free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environ, "PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until_well(process, port)
        yield process, port
    finally:
        process.kill()
        process.communicate()


def wait_until_well(process: "subprocess.Popen[str]", port: int) -> None:
    give_up = time.monotonic() + START_S
    while True:
        try:
            if ask(port, "GET", "/healthz") == (200, {"status": "ok"}):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > give_up:
                process.kill()
                pytest.fail(f"it did not start: {process.communicate()[0]}")
        time.sleep(0.02)


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
    with contextlib.closing(connection):
        connection.request(method, path, None if body is None else json.dumps(body).encode())
        answer = connection.getresponse()
        said = json.loads(answer.read() or b"null")
        if isinstance(said, dict):
            said.pop("detail", None)  # what clients of FastAPI read
        return answer.status, said


def wait_for(path: Path) -> None:
    give_up = time.monotonic() + START_S
    while not path.exists():
        assert time.monotonic() < give_up, f"{path} never came"
        time.sleep(0.01)


def test_a_photon_in_a_file_is_served_and_a_stop_lets_its_calls_finish(tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text(COUNTER)
    answers: list[tuple[int, Any]] = []
    with serving("leptonai.serving", "counter.py:Counter", cwd=tmp_path) as (process, port):
        assert ask(port, "POST", "/add", {"amount": 2}) == (200, 2)
        assert ask(port, "POST", "/add", {"amount": 3}) == (200, 5)
        caller = threading.Thread(target=lambda: answers.append(ask(port, "POST", "/slow", {})))
        caller.start()
        wait_for(tmp_path / "entered")
        process.send_signal(signal.SIGTERM)
        (tmp_path / "leave").touch()
        caller.join(timeout=STOP_S)
        process.wait(timeout=STOP_S)
    assert answers == [(200, "finished")]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nothing.py", "there is no file nothing.py"),
        ("counter.py:Kounter", "counter.py holds no photon called Kounter\nhint: it holds Counter"),
        ("empty.py", "empty.py holds no photon\nhint: subclass leptonai.photon.Photon in it"),
    ],
)
def test_a_photon_that_is_not_there_is_said_in_two_lines(
    tmp_path: Path, reference: str, message: str
) -> None:
    (tmp_path / "counter.py").write_text(COUNTER)
    (tmp_path / "empty.py").touch()
    ended = subprocess.run(
        [sys.executable, "-m", "leptonai.serving", reference],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {message}")


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_model(
        CNN((8, 8, 1), 3, widths=(8,), pixel_mean=5.0, pixel_std=6.0, classes=("a", "b", "c")),
        directory,
    )
    return directory


@pytest.fixture(scope="module")
def model_port(model_directory: Path) -> Iterator[int]:
    variables = {"LEPTON_MODEL_DIR": str(model_directory)}
    with serving("leptonai.serving.model", cwd=model_directory, **variables) as (_, port):
        yield port


def test_a_served_model_answers_as_the_model_itself(model_directory: Path, model_port: int) -> None:
    images = torch.randint(0, 17, (4, 8, 8))
    status, answer = ask(model_port, "POST", "/predict", {"inputs": images.tolist()})
    with torch.inference_mode():
        expected = load_model(model_directory)(images[..., None]).softmax(1)
    assert status == 200
    assert answer["labels"] == ["abc"[index] for index in expected.argmax(1).tolist()]
    torch.testing.assert_close(torch.tensor(answer["probabilities"]), expected)


def test_a_served_model_says_what_its_tensors_are(model_port: int) -> None:
    status, told = ask(model_port, "GET", "/v2/models/infer")
    assert status == 200
    assert told["inputs"] == [{"name": "inputs", "datatype": "FP32", "shape": [-1, 8, 8, 1]}]
    assert told["outputs"] == [
        {"name": "labels", "datatype": "BYTES", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
    ]


IMAGE = [[0] * 8] * 8
EXPECTED = "inputs: expected a list of images of shape [8, 8, 1], got "


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"inputs": []}, EXPECTED + "an empty list"),
        ({"inputs": [[1, 2]]}, EXPECTED + "[2]"),
        ({"inputs": IMAGE}, EXPECTED + "[8]"),
        ({"inputs": [IMAGE, [[0] * 8] * 7]}, EXPECTED + "some of differing shapes"),
        ({"inputs": [[["x"] * 8] * 8]}, EXPECTED + "some that are not numbers"),
        ({"inputs": [[[None] * 8] * 8]}, EXPECTED + "some that are not numbers"),
        ({"inputs": [[[1e300] * 8] * 8]}, EXPECTED + "some with numbers too large"),
        ({"inputs": [IMAGE] * 1025}, "inputs: expected at most 1024 in a request, got 1025"),
        ({"inputs": 3}, "inputs: expected `str | object | array`, got `int`"),
        ({}, "Object missing required field `inputs`"),
    ],
)
def test_wrong_inputs_say_what_was_expected_and_got(model_port: int, body: Any, error: str) -> None:
    assert ask(model_port, "POST", "/predict", body) == (422, {"error": error})


def test_a_directory_without_a_model_ends_the_server_with_the_reason(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "leptonai.serving.model"],
        env={**os.environ, "LEPTON_MODEL_DIR": str(tmp_path), "PORT": str(a_free_port())},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode != 0
    assert f"{tmp_path} holds no model: it needs config.json and model.safetensors" in ended.stderr
    assert "Traceback" not in ended.stderr
