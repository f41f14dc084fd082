"""However often workers are killed, the numbers are those of a training that was not."""

import random
from pathlib import Path

import numpy as np
import pytest
from workers import run_workers

PROGRAM = Path(__file__).parent / "exact_training.py"


def run(root: Path, workers: int, deaths: list[str]) -> list[int]:
    """When one is killed, the others end by themselves."""
    return run_workers(PROGRAM, [str(root), *deaths], workers=workers, logs=root)


def losses(root: Path) -> dict[int, list[str]]:
    """By step; those of steps that were taken again are there more than once."""
    found: dict[int, list[str]] = {}
    for line in (root / "losses").read_text().splitlines():
        step, loss = line.split()
        found.setdefault(int(step), []).append(loss)
    return found


@pytest.mark.parametrize(
    "workers", [2, 3, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 4))]
)
def test_a_training_that_was_killed_ends_as_one_that_was_not(tmp_path, workers):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert run(whole, workers, []) == [0] * workers, (whole / "0.log").read_text()
    expected = losses(whole)
    assert {len(each) for each in expected.values()} == {1}

    chance = random.Random(workers)
    deaths = sorted(chance.sample(range(2, max(expected)), 3))
    for step in deaths:
        codes = run(torn, workers, [f"{step}:{chance.randrange(workers)}"])
        assert -9 in codes
    codes = run(torn, workers, [])
    assert codes == [0] * workers, (torn / "0.log").read_text()

    found = losses(torn)
    assert {step: {*each} for step, each in found.items()} == {
        step: {*each} for step, each in expected.items()
    }
    assert max(map(len, found.values())) > 1  # some steps were taken again
    assert (torn / "history").read_text() == (whole / "history").read_text()
    with np.load(whole / "weights.npz") as one, np.load(torn / "weights.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in one.files)
