"""Images: moved, coloured and normalised; by chance while training, and never else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from leptonai.data.chance import Chance
from leptonai.data.pipeline.images.colour import Colour, CutOut, Greyscale, NormaliseImages
from leptonai.data.pipeline.images.geometry import (
    CenterCrop,
    Flip,
    Moves,
    RandomCrop,
    Rotate,
    Shift,
    Zoom,
)
from leptonai.data.pipeline.images.resize import Resize
from leptonai.data.pipeline.step import Learnt
from leptonai.errors import InvalidRequest

NOTHING = Learnt()
AUGMENTING = [
    Flip(0.5, 0.5),
    RandomCrop(10, 12, 3),
    Rotate(40),
    Shift(0.3, 0.3),
    Zoom(0.5, 2),
    Colour(0.4, 0.4, 0.4, 0.2),
    CutOut(0.5, 2),
]


def chance(samples, *, seed=0, epoch=0) -> Chance:
    return Chance(np.asarray(samples, np.int64), seed=seed, epoch=epoch)


def pictures(count=4, height=12, width=16, channels=3) -> np.ndarray:
    """Smooth ones, no two alike."""
    y, x = np.mgrid[:height, :width]
    planes = [
        120 + 100 * np.sin((row + 1) * y / 9 + channel) * np.cos(x / 7 + row)
        for row in range(count)
        for channel in range(channels)
    ]
    shape = (count, channels, height, width)
    return np.ascontiguousarray(
        np.array(planes).reshape(shape).transpose(0, 2, 3, 1).astype(np.uint8)
    )


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


batches = arrays(
    np.uint8,
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
)

# --- what all of them keep -----------------------------------------------------------------------


@pytest.mark.parametrize("step", AUGMENTING, ids=lambda step: type(step).__name__)
def test_without_chance_nothing_is_drawn(step):
    images = pictures()
    once, again = (step.transform(images, NOTHING) for _ in range(2))
    middle = images[:, 1:11, 2:14] if isinstance(step, RandomCrop) else images
    assert same(once, middle) and same(again, middle)


@pytest.mark.parametrize("step", AUGMENTING, ids=lambda step: type(step).__name__)
def test_what_becomes_of_an_image_does_not_depend_on_its_batch(step):
    images = pictures()
    together = step.transform(images, NOTHING, chance([5, 6, 7, 8]))
    alone = [
        step.transform(images[row : row + 1], NOTHING, chance([5 + row]))[0] for row in range(4)
    ]
    assert same(together, np.stack(alone))
    assert not same(together, step.transform(images, NOTHING, chance([5, 6, 7, 8], epoch=1)))


@pytest.mark.parametrize("step", AUGMENTING, ids=lambda step: type(step).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_batch_that_comes_in_is_not_changed(step, channels):
    images = pictures(channels=channels)
    before = images.copy()
    made = step.transform(images, NOTHING, chance(range(4)))
    assert same(images, before) and made.shape[3] == channels and made.dtype == np.uint8


@pytest.mark.parametrize("step", AUGMENTING, ids=lambda step: type(step).__name__)
def test_a_batch_whose_images_were_all_skipped_stays_one_of_no_images(step):
    assert len(step.transform(pictures()[:0], NOTHING, chance([]))) == 0


# --- moving pixels -------------------------------------------------------------------------------


@given(images=batches, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_flips_are_exact(images, seed):
    samples = range(len(images))
    made = Flip(0.5, 0.5).transform(images, NOTHING, chance(samples, seed=seed))
    drawn = chance(samples, seed=seed)
    horizontal, vertical = drawn.happens(0.5), drawn.happens(0.5)
    expected = [
        image[:: -1 if down else 1, :: -1 if across else 1]
        for image, across, down in zip(images, horizontal, vertical, strict=True)
    ]
    assert same(made, np.stack(expected))


@given(images=batches, pad=st.integers(0, 12), fill=st.sampled_from(["reflect", "edge", "black"]))
@settings(deadline=None, max_examples=60)
def test_a_random_crop_is_a_part_of_the_padded_picture(images, pad, fill):
    _, height, width, _ = images.shape
    made = RandomCrop(height, width, pad, fill=fill).transform(
        images, NOTHING, chance(range(len(images)))
    )
    kinds = {"reflect": "reflect", "edge": "edge", "black": "constant"}
    around = [(0, 0), (pad, pad), (pad, pad), (0, 0)]
    padded = np.pad(images, around, kinds[fill])
    parts = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (1, 2))
    for row, image in enumerate(made):
        places = parts[row].reshape(-1, image.shape[2], height, width)
        assert (places == image.transpose(2, 0, 1)).all((1, 2, 3)).any()


def test_every_corner_of_the_padding_is_reached_alike():
    image = np.zeros((1, 2, 2, 1), np.uint8)
    image[0, 0, 0] = 1
    made = RandomCrop(2, 2, 1, fill="black").transform(
        np.repeat(image, 9_000, 0), NOTHING, chance(range(9_000))
    )
    seen = np.unique(made.reshape(-1, 4), axis=0, return_counts=True)[1]
    # The one lies at each of four places in one crop of nine; in five it is cut off.
    assert sorted(seen.tolist())[:4] == pytest.approx([1_000] * 4, rel=0.15)


def test_steps_that_move_pixels_and_follow_each_other_move_them_once():
    """So turning one way and back again is nothing, where one by one it would blur."""

    class Always:
        def __init__(self, degrees):
            self.degrees = degrees

        def uniform(self, low, high):
            return np.full((4, 1), self.degrees)

        def __len__(self):
            return 4

    class There(Rotate, frozen=True):
        def maps(self, size, chance):
            return super().maps(size, Always(self.degrees))

    class Back(Rotate, frozen=True):
        def maps(self, size, chance):
            return super().maps(size, Always(-self.degrees))

    images = np.random.default_rng(0).integers(0, 256, (4, 12, 16, 3), dtype=np.uint8)
    joint = There(37).absorb(Back(37))
    assert isinstance(joint, Moves)
    assert same(joint.transform(images, NOTHING, chance(range(4))), images)


def test_what_is_done_at_once_draws_what_one_after_the_other_draws():
    images = np.concatenate([pictures(4, 64, 64)] * 8)
    steps = (Flip(), Rotate(20), Zoom(1.2, 1.5), CenterCrop(48, 40))
    drawn = chance(range(32))
    one_by_one = images
    joint = Moves(steps=())
    for step in steps:
        one_by_one = step.transform(one_by_one, NOTHING, drawn)
        joint = joint.absorb(step)
    at_once = joint.transform(images, NOTHING, chance(range(32)))
    assert at_once.shape == (32, 48, 40, 3)
    # Alike but for the blur, where neither looks outside of the picture.
    inner = np.s_[:, 12:-12, 10:-10]
    assert np.abs(at_once[inner].astype(int) - one_by_one[inner]).mean() < 1.5


def test_steps_that_fill_with_different_things_are_not_joined():
    assert Rotate(fill="black").absorb(Shift(fill="edge")) is None
    assert Rotate().absorb(Colour()) is None
    joint = Flip().absorb(Rotate(fill="black"))
    assert joint.absorb(CenterCrop(1, 1)).outside == "black"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flip(1.5), "horizontal is from 0 to 1, not 1.5"),
        (lambda: Rotate(float("nan")), "degrees is from 0 to 180, not nan"),
        (lambda: Zoom(0, 1), "a zoom from 0 to 1"),
        (lambda: Zoom(2, 1), "a zoom from 2 to 1"),
        (lambda: RandomCrop(0, 1), "height is a number from 1 to 16384, not 0"),
        (lambda: CutOut(count=0), "count is a number from 1 to 64, not 0"),
        (lambda: Colour(hue=0.6), "hue is from 0 to 0.5, not 0.6"),
        (lambda: NormaliseImages(mean=(0.5,)), "mean and deviation are given together"),
        (lambda: NormaliseImages(mean=(0.5,), deviation=(0.0,)), "deviations positive"),
        (
            lambda: CenterCrop(13, 4).transform(pictures(), NOTHING),
            "CenterCrop to 13 x 4 of images of 12 x 16",
        ),
        (
            lambda: RandomCrop(20, 4, 3).transform(pictures(), NOTHING, chance(range(4))),
            "RandomCrop to 20 x 4 of images of 12 x 16, padded by 3 on each side",
        ),
        (
            lambda: Flip().transform([pictures()[0], pictures(1, 5, 5)[0]], NOTHING),
            r"image 1 is \[5, 5, 3\] of uint8, but image 0 is \[12, 16, 3\] of uint8",
        ),
        (
            lambda: Resize(4, 4).transform([pictures()[0], pictures(channels=1)[0]], NOTHING),
            "image 1 has 1 channels of uint8, but image 0 has 3 of uint8",
        ),
        (lambda: Flip().transform(pictures()[0], NOTHING), r"not \[12, 16, 3\]"),
        (lambda: Flip().transform(pictures() / 255.0, NOTHING), "are float64, not uint8"),
        (lambda: Flip().transform(pictures(channels=5), NOTHING), "images of 5 channels"),
        (lambda: Flip().transform(pictures(height=0), NOTHING), "images of 0 x 16 pixels"),
        (lambda: Flip().transform([], NOTHING), "a batch of no images has no size"),
        (lambda: Flip().transform(["x"], NOTHING), "image 0 is str, not an array"),
        (lambda: Greyscale().transform(pictures(channels=2), NOTHING), "of 2 channels, not 1 or"),
        (lambda: NormaliseImages().fit(lambda: iter([])), "there is no image to learn from"),
    ],
)
def test_what_cannot_be_done_is_said(make, message):
    with pytest.raises(InvalidRequest, match=message):
        make()


# --- size ----------------------------------------------------------------------------------------


def test_images_of_any_size_become_one_array():
    images = [pictures(1, 12, 16)[0], pictures(1, 40, 30)[0], pictures(1, 3, 3)[0]]
    made = Resize(8, 10).transform(images, NOTHING)
    assert (made.shape, made.dtype) == ((3, 8, 10, 3), np.uint8)
    assert made.mean((1, 2)) == pytest.approx(np.stack([one.mean((0, 1)) for one in images]), abs=9)


def test_shrinking_averages():
    stripes = np.zeros((1, 8, 64, 1), np.uint8)
    stripes[:, :, ::2] = 255
    assert np.unique(Resize(4, 8).transform(stripes, NOTHING)).tolist() == [128]


# --- colour --------------------------------------------------------------------------------------


def test_greys_stay_grey_in_whatever_hue():
    grey = np.repeat(pictures(channels=1), 3, axis=3)
    made = Colour(0, 0, 0.5, 0.5).transform(grey, NOTHING, chance(range(4))).astype(int)
    assert np.abs(made - grey).max() <= 1


def test_brightness_is_a_factor_of_all_pixels():
    images = np.full((100, 2, 2, 3), 100, np.uint8)
    made = Colour(0.5, 0, 0, 0).transform(images, NOTHING, chance(range(100)))
    assert (made == made[:, :1, :1, :1]).all()
    assert 50 <= made.min() < 60 and 140 < made.max() <= 150


def test_contrast_keeps_the_mean_grey():
    images = np.clip(pictures(20, 32, 32, 1), 60, 190)
    made = Colour(0, 0.3, 0, 0).transform(images, NOTHING, chance(range(20)))
    assert made.mean((1, 2, 3)) == pytest.approx(images.mean((1, 2, 3)), abs=0.5)
    spread = made.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.69 < spread.min() < 0.9 and 1.1 < spread.max() < 1.31


def test_what_is_cut_out_is_grey():
    images = np.zeros((200, 16, 16, 3), np.uint8)
    made = CutOut(0.5).transform(images, NOTHING, chance(range(200)))
    assert np.unique(made).tolist() == [0, 128]
    cut = (made == 128).sum((1, 2, 3)) / 3
    assert cut.max() == 64 and cut.min() >= 16


def test_grey_is_as_bright_as_the_colours():
    colours = np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]]], np.uint8)
    assert Greyscale().transform(colours, NOTHING).ravel().tolist() == [76, 150, 29, 9]


# --- normalising ---------------------------------------------------------------------------------


@given(images=batches, cut=st.integers(1, 3), by=st.sampled_from(["standard", "range"]))
@settings(deadline=None, max_examples=60)
def test_normalised_training_data_has_the_statistics_asked_for(images, cut, by):
    step = NormaliseImages(by)
    learnt = step.fit(lambda: iter([images[:cut], images[cut:]] if cut < len(images) else [images]))
    assert learnt == step.fit(lambda: iter(images[at : at + 1] for at in range(len(images))))
    made = step.transform(images, learnt)
    assert made.dtype == np.float32
    values = images.reshape(-1, images.shape[3]) / 255
    if by == "standard":
        low, spread = values.mean(0), values.std(0)
    else:
        low, spread = values.min(0), np.ptp(values, 0)
    expected = (values - low) / np.where(spread < 1e-6, 1, spread)
    assert made.reshape(values.shape) == pytest.approx(expected, abs=2e-4)


def test_published_statistics_need_no_training_data():
    step = NormaliseImages(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
    images = pictures()
    expected = (images / 255 - step.mean) / step.deviation
    assert step.transform(images, step.fit(list)) == pytest.approx(expected, abs=1e-5)


def test_pixels_from_0_to_1_are_normalised_like_bytes():
    images = pictures()
    learnt = NormaliseImages().fit(lambda: iter([images]))
    bytes_, floats = (
        NormaliseImages().transform(each, learnt)
        for each in (images, (images / 255).astype(np.float32))
    )
    assert floats == pytest.approx(bytes_, abs=1e-5)


def test_images_of_other_channels_than_the_training_data_are_refused():
    learnt = NormaliseImages().fit(lambda: iter([pictures()]))
    with pytest.raises(InvalidRequest, match="images of 1 channels, where the training data has 3"):
        NormaliseImages().transform(pictures(channels=1), learnt)
    nan = np.full((1, 2, 2, 1), np.nan, np.float32)
    with pytest.raises(InvalidRequest, match="infinite or missing pixels"):
        NormaliseImages().fit(lambda: iter([nan]))
