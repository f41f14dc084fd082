"""However often workers are killed, the numbers are those of a training that was not."""

import random
from pathlib import Path

import numpy as np
import pytest
from workers import Workers

PROGRAM = Path(__file__).parent / "exact_training.py"


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
    # Each in processes of their own, which put what they hash in another order.
    with Workers() as started:
        codes = started.run(PROGRAM, [str(whole)], workers=workers, logs=whole)
    assert codes == [0] * workers, (whole / "0.log").read_text()
    expected = losses(whole)
    assert {len(each) for each in expected.values()} == {1}

    chance = random.Random(workers)
    deaths = sorted(chance.sample(range(2, max(expected)), 3))
    with Workers() as started:
        for step in deaths:  # when one is killed, the others end by themselves
            death = f"{step}:{chance.randrange(workers)}"
            assert -9 in started.run(PROGRAM, [str(torn), death], workers=workers, logs=torn)
        codes = started.run(PROGRAM, [str(torn)], workers=workers, logs=torn)
    assert codes == [0] * workers, (torn / "0.log").read_text()

    found = losses(torn)
    assert {step: {*each} for step, each in found.items()} == {
        step: {*each} for step, each in expected.items()
    }
    assert max(map(len, found.values())) > 1  # some steps were taken again
    assert (torn / "history").read_text() == (whole / "history").read_text()
    with np.load(whole / "weights.npz") as one, np.load(torn / "weights.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in one.files)
