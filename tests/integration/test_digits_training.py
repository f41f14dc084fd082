"""The digits example, run as a user would, on a directory."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leptonai.data.digits import Digits

SCRIPT = Path(__file__).parents[2] / "examples" / "digits" / "train.py"
TIME_LIMIT_S = 150


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("digits")
    Digits.load().write(directory)
    return directory


def train(dataset: Path, output: Path, *, workers: int) -> list[str]:
    """What each worker printed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environ = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(workers),
    }
    arguments = ["--dataset", str(dataset), "--output", str(output)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            env={**environ, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(workers)
    ]
    try:
        printed = [process.communicate(timeout=TIME_LIMIT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * workers, "\n".join(printed)
    return printed


def test_two_workers_train_a_model_that_reads_digits_it_has_not_seen(
    dataset: Path, tmp_path: Path
) -> None:
    log, other_log = train(dataset, tmp_path / "model", workers=2)
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_bytes())

    assert manifest["metrics"]["held_out_accuracy"] >= 0.97
    assert (manifest["world_size"], manifest["seed"], manifest["dataset"]) == (2, 0, {})
    train_ids, held_out_ids = manifest["train_ids"], manifest["held_out_ids"]
    assert sorted(train_ids + held_out_ids) == Digits.read(dataset).ids.tolist()
    assert len(held_out_ids) == pytest.approx(0.2 * 1797, abs=10)

    points = [json.loads(line[7:]) for line in log.splitlines() if line.startswith("metric ")]
    accuracy = [p["value"] for p in points if p["key"] == "held_out_accuracy"]
    assert len(accuracy) == manifest["epochs"]
    assert accuracy[-1] == manifest["metrics"]["held_out_accuracy"]
    assert sorted(points[0]) == ["key", "step", "timestamp_ms", "value"]
    assert other_log == ""

    from leptonai.training.models import load_model

    assert accuracy[-1] == accuracy_of(load_model(tmp_path / "model"), dataset, held_out_ids)


def accuracy_of(model: Any, dataset: Path, ids: list[int]) -> float:
    import torch

    digits = Digits.read(dataset).only(tuple(ids))
    with torch.inference_mode():
        predicted = model(torch.from_numpy(digits.images[..., None])).argmax(1).numpy()
    return float((predicted == digits.labels).mean())


def test_it_trains_alone_too_and_the_same_seed_gives_the_same_model(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Digits.read(dataset).only(tuple(range(200))).write(tmp_path / "few")
    arguments = ["train.py", "--dataset", str(tmp_path / "few"), "--epochs", "1", "--output"]
    for name in ("one", "two"):
        monkeypatch.setattr(sys, "argv", [*arguments, str(tmp_path / name)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_sample_is_learnt_from_once_an_epoch_whatever_the_number_of_workers(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    digits = Digits.read(dataset).only(tuple(range(101)))
    numbered = Digits(digits.images, np.arange(101), digits.ids)  # labels that tell samples apart
    seen: list[int] = []
    shares: list[list[int]] = []
    for rank in range(workers):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(workers))
        script = runpy.run_path(str(SCRIPT))
        taken = [*script["batches"](numbered, 0, 1)]
        shares.append([len(labels) for _, labels, _ in taken])
        seen += [int(label) for _, labels, _ in taken for label in labels]
    assert sorted(seen) == list(range(101))
    for in_one_batch in zip(*shares, strict=True):
        assert max(in_one_batch) - min(in_one_batch) <= 1
        assert min(in_one_batch) >= 1


def test_a_directory_that_is_no_dataset_is_said_in_two_lines(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--dataset", str(tmp_path), "--output", str(tmp_path / "m")],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[0].endswith("there is no dataset.json")
    assert ended.stderr.splitlines()[1].startswith("hint: ")
