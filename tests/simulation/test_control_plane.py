"""The whole control plane against everything that goes wrong, world after world."""

import os
import subprocess
import sys

import pytest

from leptonai.testing.simulation.faults import CALM, Odds
from leptonai.testing.simulation.simulator import SimulationFailed, simulate

SEEDS = int(os.environ.get("LEPTON_SIM_SEEDS", "100"))
FIRST_SEED = int(os.environ.get("LEPTON_SIM_FIRST_SEED", "0"))
SEEDS_A_TEST = 10


@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + SEEDS, SEEDS_A_TEST))
def test_nothing_runs_twice_nothing_is_lost_and_everything_ends(first: int) -> None:
    outcomes = [simulate(seed) for seed in range(first, first + SEEDS_A_TEST)]
    assert sum(outcome.jobs for outcome in outcomes) > 50
    assert sum(outcome.deaths for outcome in outcomes) > 10


PEACEFUL_SEEDS = max(20, SEEDS // 5)


@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + PEACEFUL_SEEDS, SEEDS_A_TEST))
def test_where_nothing_goes_wrong_whoever_others_give_way_to_starts_as_soon_as_they_have_ended(
    first: int,
) -> None:
    outcomes = [simulate(seed, odds=CALM) for seed in range(first, first + SEEDS_A_TEST)]
    assert sum(outcome.gave_way for outcome in outcomes) > 10
    assert sum(outcome.deaths for outcome in outcomes) == 0


def test_a_seed_replays_exactly_also_in_another_process() -> None:
    here = simulate(7)
    assert simulate(7) == here
    code = "from leptonai.testing.simulation.simulator import simulate; print(simulate(7).digest)"
    there = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here.digest


def test_a_failure_prints_the_command_that_replays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a control plane that breaks its promise: it never sees a stop through."""
    monkeypatch.setattr("leptonai.control.loops.replicas.STOP_GRACE_MS", 10_000_000)
    monkeypatch.setattr("leptonai.testing.simulation.simulator.SETTLE_S", 60.0)

    def first_failure() -> SimulationFailed:
        for seed in range(20):
            try:
                simulate(seed, odds=Odds(death=0))
            except SimulationFailed as failure:
                return failure
        raise AssertionError("a broken control plane was not noticed")

    failure = first_failure()
    assert f"python -m leptonai.testing.simulation --seed {failure.seed}" in str(failure)
    assert "not settled" in str(failure)
    assert failure.trace
