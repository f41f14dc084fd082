"""That the benchmark of training still runs; how fast anything is, it does not ask."""

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.training.__main__ import PARTS, rows

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PARTS.parts)
def test_every_part_of_the_training_benchmark_runs(name: str) -> None:
    measured = list(rows(name, quick=True))
    assert measured
    assert all({"what", "goal", "measured"} == {*row} for row in measured)


def test_an_unknown_part_is_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", "loops"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no such part: loops" in done.stderr
