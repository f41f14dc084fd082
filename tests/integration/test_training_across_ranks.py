"""One training, however it is spread over ranks."""

import json
from pathlib import Path

import numpy as np
import pytest
from workers import Workers

from leptonai.testing.free_ports import a_free_port

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def started():
    with Workers() as those:
        yield those


def trained(started: Workers, root: Path, strategy: str, workers: int, steps: int):
    codes = started.run(
        HERE / "spread_training.py", [str(root), strategy, str(steps)], workers=workers,
        logs=root / "logs",
    )  # fmt: skip
    assert codes == [0] * workers, (root / "logs" / "0.log").read_text()
    return json.loads((root / f"{strategy}-{workers}-{steps}.json").read_text())


@pytest.fixture(scope="module")
def alone(started, tmp_path_factory):
    return trained(started, tmp_path_factory.mktemp("alone"), "auto", 1, 16)


@pytest.mark.parametrize(
    ("strategy", "workers"),
    [("ddp", 2), ("ddp", 3), ("fsdp", 2), ("tensor", 2), ("pipeline", 2), ("pipeline", 3)],
)
def test_it_learns_the_same_as_alone(started, tmp_path, alone, strategy, workers):
    found = trained(started, tmp_path, strategy, workers, 16)
    assert found["losses"] == pytest.approx(alone["losses"], rel=2e-4)
    assert found["last"] == pytest.approx(alone["last"], rel=1e-3)
    for name, weight in alone["weights"].items():
        np.testing.assert_allclose(found["weights"][name], weight, rtol=1e-2, atol=1e-4)


def test_what_two_saved_three_and_one_go_on_from(started, tmp_path, alone):
    trained(started, tmp_path, "fsdp", 2, 4)
    middle = trained(started, tmp_path, "fsdp", 3, 8)
    assert middle["losses"] == pytest.approx(alone["losses"][4:8], rel=1e-3)
    end = trained(started, tmp_path, "ddp", 2, 12)
    assert end["losses"] == pytest.approx(alone["losses"][8:12], rel=1e-3)
    last = trained(started, tmp_path, "auto", 1, 16)
    assert last["losses"] == pytest.approx(alone["losses"][12:], rel=1e-3)


def pipelined(started: Workers, root: Path, strategy: str, workers: int, steps: int):
    """What each rank told."""
    codes = started.run(
        HERE / "spread_pipeline.py", [str(root), strategy, str(steps)], workers=workers,
        logs=root / "logs",
    )  # fmt: skip
    assert codes == [0] * workers, "".join(each.read_text() for each in root.glob("logs/*"))
    return [json.loads((root / f"{steps}-{rank}.json").read_text()) for rank in range(workers)]


def test_a_pipeline_goes_on_exactly_and_all_its_ranks_have_the_model_in_the_end(started, tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    expected = pipelined(started, whole, "pipeline", 2, 8)
    assert expected[0] == expected[1]
    arguments = [str(torn), "pipeline", "8", "7"]
    codes = started.run(HERE / "spread_pipeline.py", arguments, workers=2, logs=torn / "logs")
    assert -9 in codes
    found = pipelined(started, torn, "pipeline", 2, 8)
    assert found[0] == expected[0] | {"losses": expected[0]["losses"][6:]}
    # In bfloat16, and cut otherwise.
    assert found[0]["again"]["loss"] == pytest.approx(found[0]["last"]["val_loss"], rel=1e-2)


def test_what_a_pipeline_saved_another_number_of_ranks_goes_on_from(started, tmp_path):
    pipelined(started, tmp_path, "pipeline", 2, 3)
    pipelined(started, tmp_path, "pipeline", 3, 6)
    assert len(pipelined(started, tmp_path, "auto", 1, 9)[0]["losses"]) == 3


PROGRAM = """
import sys
from leptonai.errors import LeptonError
from leptonai.training.world import enter_world
try:
    enter_world(arrival_s=float(sys.argv[1]))
except LeptonError as error:
    print(type(error).__name__, error.message)
    sys.exit(3)
"""


def test_a_worker_that_does_not_come_is_named(started, tmp_path):
    program = tmp_path / "meet.py"
    program.write_text(PROGRAM)
    codes = started.run(program, ["4"], workers=4, only=[0, 1, 3], logs=tmp_path)
    assert codes == [3, 3, 3]
    told = (tmp_path / "0.log").read_text()
    assert "Unavailable of 4 workers worker 2 did not come within 4 s" in told


def test_who_waits_for_a_first_worker_that_does_not_come_is_told(started, tmp_path):
    program = tmp_path / "meet.py"
    program.write_text(PROGRAM)
    assert started.run(program, ["2"], workers=2, only=[1], logs=tmp_path) == [3]
    assert "worker 1 waited 2 s for worker 0" in (tmp_path / "1.log").read_text()


def test_a_port_that_another_program_holds_is_told(started, tmp_path):
    import socket

    program = tmp_path / "meet.py"
    program.write_text(PROGRAM)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", port := a_free_port()))
        taken.listen()
        environment = {"MASTER_PORT": str(port)}
        codes = started.run(
            program, ["4"], workers=2, only=[0], logs=tmp_path, environment=environment
        )
    assert codes == [3]
    assert "Conflict the workers were to meet at" in (tmp_path / "0.log").read_text()
