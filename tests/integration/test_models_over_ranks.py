"""Models cut by their own plans compute, learn and are saved as they are alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from leptonai.training.models import load_model

TIME_LIMIT_S = 150
HERE = Path(__file__).parent
TOLERANCE = 1e-4  # ranks add up in another order


def run_two_ranks(script: str, *arguments: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            env={
                **os.environ,
                **world,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=TIME_LIMIT_S)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)


def test_two_ranks_give_outputs_gradients_and_files_of_the_model_alone(tmp_path: Path) -> None:
    run_two_ranks("spread_models.py", str(tmp_path))


@pytest.mark.parametrize("strategy", ["fsdp", "tensor", "pipeline"])
def test_two_ranks_learn_what_one_learns(strategy: str, tmp_path: Path) -> None:
    run_two_ranks("spread_fit.py", strategy, str(tmp_path / "two.pth"))
    alone = [sys.executable, str(HERE / "spread_fit.py"), "auto", str(tmp_path / "one.pth")]
    subprocess.run(alone, check=True, timeout=TIME_LIMIT_S)
    one, two = (load_model(tmp_path / f"{name}.pth").state_dict() for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=TOLERANCE, rtol=TOLERANCE, msg=name)


def test_a_gan_learns_over_ranks_and_goes_on_as_one_that_was_not_interrupted(
    tmp_path: Path,
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder, epochs in ((whole, 2), (torn, 1), (torn, 2)):
        folder.mkdir(exist_ok=True)
        run_two_ranks("spread_gan.py", str(folder), str(epochs))
    expected = load_file(whole / "2-0.safetensors")
    for other in (whole / "2-1.safetensors", torn / "2-0.safetensors", torn / "2-1.safetensors"):
        found = load_file(other)
        assert all(torch.equal(found[name], weight) for name, weight in expected.items()), other
    before = load_file(torn / "1-0.safetensors")
    assert not any(
        torch.equal(before[name], weight)
        for name, weight in expected.items()
        if weight.is_floating_point()
    )
