"""Models cut by their own plans compute, learn and are saved as they are alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from workers import Workers

from leptonai.training.models import load_model

HERE = Path(__file__).parent
TOLERANCE = 1e-4  # ranks add up in another order


@pytest.fixture(scope="module")
def started() -> Iterator[Workers]:
    with Workers() as those:
        yield those


def run(started: Workers, script: str, *arguments: str, logs: Path, ranks: int = 2) -> None:
    codes = started.run(HERE / script, arguments, workers=ranks, logs=logs)
    assert codes == [0] * ranks, "".join(each.read_text() for each in logs.glob("*.log"))


def test_two_ranks_give_outputs_gradients_and_files_of_the_model_alone(
    started: Workers, tmp_path: Path
) -> None:
    run(started, "spread_models.py", str(tmp_path), logs=tmp_path / "logs")


@pytest.mark.parametrize("strategy", ["fsdp", "tensor", "pipeline"])
def test_two_ranks_learn_what_one_learns(started: Workers, strategy: str, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    run(started, "spread_fit.py", strategy, str(tmp_path / "two.pth"), logs=logs)
    run(started, "spread_fit.py", "auto", str(tmp_path / "one.pth"), logs=logs, ranks=1)
    one, two = (load_model(tmp_path / f"{name}.pth").state_dict() for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=TOLERANCE, rtol=TOLERANCE, msg=name)


def test_a_gan_learns_over_ranks_and_goes_on_as_one_that_was_not_interrupted(
    started: Workers, tmp_path: Path
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder, epochs in ((whole, 2), (torn, 1), (torn, 2)):
        folder.mkdir(exist_ok=True)
        run(started, "spread_gan.py", str(folder), str(epochs), logs=tmp_path / "logs")
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
