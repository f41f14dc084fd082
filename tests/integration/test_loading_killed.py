"""`kill -9` of a process that reads images: what it and its successors read is what one would."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

SCRIPT = Path(__file__).with_name("loading_until_killed.py")
SAMPLES = 60
KILLS = 4
PATIENCE_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each image in a class of its own."""
    root = tmp_path_factory.mktemp("images")
    for number in range(SAMPLES):
        (root / f"{number:02}").mkdir()
        image = np.full((20, 20, 3), number, np.uint8)
        (root / f"{number:02}" / "a.jpg").write_bytes(simplejpeg.encode_jpeg(image))
    return root


def run(
    folder: Path, options: dict[str, Any], state: str, *, killed_after: int | None
) -> list[dict[str, Any]]:
    """All whole lines that it wrote, also those that were under way when it was killed."""
    command = [
        sys.executable,
        str(SCRIPT),
        str(folder),
        json.dumps(options),
        *([state] * bool(state)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        lines = []
        while killed_after is None or len(lines) < killed_after:
            if not (line := process.stdout.readline()):
                break
            lines.append(line)
        if killed_after is not None:
            process.kill()
        lines += process.stdout.readlines()
    finally:
        process.kill()
        process.wait()
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def read(lines: list[dict[str, Any]]) -> list[int]:
    return [one for line in lines for one in line["read"]]


def test_a_process_killed_at_any_point_is_followed_by_one_that_reads_on(folder):
    chance = random.Random(0)
    expected = read(run(folder, {"batch_size": 7, "num_workers": 0}, "", killed_after=None))
    assert sorted(expected) == sorted([*range(SAMPLES)] * 3)
    lines: list[dict[str, Any]] = []
    for _ in range(KILLS):
        state = json.dumps(lines[-1]["state"]) if lines else ""
        options = {"batch_size": chance.randint(1, 4), "num_workers": chance.randint(0, 3)}
        lines += run(folder, options, state, killed_after=chance.randint(1, 6))
    lines += run(folder, {"batch_size": 5}, json.dumps(lines[-1]["state"]), killed_after=None)
    assert len({line["pid"] for line in lines}) == KILLS + 1
    assert read(lines) == expected


def test_the_processes_of_a_process_that_is_killed_end_too(folder):
    options = {"batch_size": 1, "num_workers": 2, "processes": True}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), json.dumps(options)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
    finally:
        process.kill()
        process.wait()
    until = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{child}/exe").exists() for child in children):
        assert time.monotonic() < until, "a worker outlives the process that it worked for"
        time.sleep(0.01)
