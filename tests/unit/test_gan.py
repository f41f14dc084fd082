"""Two networks that learn from each other: what is drawn is drawn again after an interruption."""

from pathlib import Path

import numpy as np
import pytest
import torch

from leptonai.errors import InvalidRequest
from leptonai.training.models import GAN, load_model

CHANCE = np.random.default_rng(0)
HALF_WHITE = np.zeros((64, 8, 8, 1), np.float32)
HALF_WHITE[:, :4] = 1
HALF_WHITE = np.clip(HALF_WHITE + CHANCE.normal(size=HALF_WHITE.shape) * 0.05, 0, 1).astype(
    np.float32
)


def a_gan() -> GAN:
    torch.manual_seed(0)
    return GAN((8, 8, 1), 8, width=8, pixel_high=1.0)


def distance(model: GAN) -> float:
    """Between the mean of what it makes and the mean of what it saw."""
    return float((model.sample(64).mean(0) - torch.tensor(HALF_WHITE).mean(0)).abs().mean())


def test_it_learns_to_make_images_like_those_it_saw() -> None:
    model = a_gan()
    before = distance(model)
    history = model.fit(HALF_WHITE, 25, 16, learning_rate=2e-3)
    assert distance(model) < before / 2
    assert len(history["generator_loss"]) == len(history["discriminator_loss"]) == 25
    assert history.steps == 25 * 4
    images = model.sample(3)
    assert images.shape == (3, 8, 8, 1) and images.min() >= 0 and images.max() <= 1
    assert 0 <= model.evaluate(HALF_WHITE).accuracy <= 1


def test_a_seed_draws_the_same_images_and_another_one_others() -> None:
    model = a_gan()
    assert torch.equal(model.sample(4, seed=1), model.sample(4, seed=1))
    assert not torch.equal(model.sample(4, seed=1), model.sample(4, seed=2))
    assert np.array_equal(model.predict(np.zeros((2, 8), np.float32)).shape, (2, 8, 8, 1))


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = a_gan()
    history = whole.fit(HALF_WHITE, 3, 16, seed=5)

    interrupted = a_gan()
    interrupted.fit(HALF_WHITE, 2, 16, seed=5, checkpoint=tmp_path / "c")
    torch.manual_seed(99)
    resumed = GAN(**interrupted.config())
    again = resumed.fit(HALF_WHITE, 3, 16, seed=5, checkpoint=tmp_path / "c")

    assert again.epochs == history.epochs and again.resumed_from == 8
    for name, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    a_gan().fit(HALF_WHITE, 1, 16, checkpoint=path)
    with pytest.raises(InvalidRequest, match="of a run with another seed"):
        a_gan().fit(HALF_WHITE, 2, 16, seed=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidRequest, match="cannot be read"):
        a_gan().fit(HALF_WHITE, 2, 16, checkpoint=path)


def test_it_is_saved_with_both_networks(tmp_path: Path) -> None:
    model = a_gan()
    model.save(tmp_path / "gan.pth")
    again = load_model(tmp_path / "gan.pth")
    assert isinstance(again, GAN)
    assert torch.equal(again.sample(2), model.sample(2))
    images = torch.tensor(HALF_WHITE[:2])
    assert torch.equal(again.discriminate(images), model.discriminate(images))


@pytest.mark.parametrize("side", [7, 9, 4])
def test_sides_that_cannot_be_halved_are_refused(side: int) -> None:
    with pytest.raises(InvalidRequest, match="sides of at least 8"):
        GAN((side, side, 1))


def test_images_it_cannot_use_are_named() -> None:
    with pytest.raises(InvalidRequest, match=r"GAN expected images of shape .* got \[16, 8, 9, 1"):
        a_gan().fit(np.zeros((16, 8, 9, 1), np.float32), 1, 16)
    broken = HALF_WHITE.copy()
    broken[3] = np.nan
    with pytest.raises(InvalidRequest, match="the images hold nan"):
        a_gan().fit(broken, 1, 64)


def test_workers_that_nobody_would_start_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="fit trains in this process alone"):
        a_gan().fit(HALF_WHITE, num_workers=2)
