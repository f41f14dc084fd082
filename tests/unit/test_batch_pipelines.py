"""Pipelines of images, texts and series: fitted, saved, loaded, and at work in a loader."""

import json
import pickle

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.data import DataLoader
from leptonai.data.chance import Chance
from leptonai.data.dataset import Dataset
from leptonai.data.pipeline import (
    CenterCrop,
    Colour,
    CutOut,
    Flip,
    Greyscale,
    HashTexts,
    NormaliseImages,
    NormaliseText,
    Pipeline,
    RandomCrop,
    Resize,
    Rotate,
    Shift,
    StandardiseSeries,
    Tokenise,
    Zoom,
)
from leptonai.data.pipeline.images.geometry import Moves
from leptonai.data.pipeline.pipeline import from_spec, joined, spec_of
from leptonai.data.pipeline.step import Learnt
from leptonai.data.series.windows import Windowing
from leptonai.errors import InvalidRequest

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (23, 20, 24, 3), np.uint8)
LABELS = np.arange(23)
TEXTS = [f"Das <b>Haus</b> Nummer {n} steht am  Fluß {n % 3}" for n in range(40)]
WINDOWS = Windowing(time="t", length=4, horizon=2, target="x").of(
    pl.DataFrame({"t": range(50), "x": RNG.normal(5, 2, 50), "y": RNG.normal(0, 9, 50)})
)
SERIES = WINDOWS.make(np.arange(len(WINDOWS))).batch[0]

AUGMENTING = (
    Resize(18, 22),
    Flip(),
    Rotate(20),
    Shift(),
    Zoom(),
    RandomCrop(16, 16, 2),
    Colour(hue=0.1),
    CutOut(),
    NormaliseImages(),
)
PIPELINES = {
    "images": ((*AUGMENTING,), IMAGES),
    "grey images": ((CenterCrop(8, 8), Greyscale(), NormaliseImages("range")), IMAGES),
    "tokens": ((NormaliseText(remove_html=True), Tokenise(method="wordpiece")), TEXTS),
    "bytes": ((NormaliseText(lower=True), Tokenise(max_length=8, begin_and_end=True)), TEXTS),
    "hashed texts": ((HashTexts(32),), TEXTS),
    "series": ((StandardiseSeries(),), SERIES),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_that_was_loaded_does_what_the_saved_one_does(name, tmp_path):
    steps, data = PIPELINES[name]
    pipeline = Pipeline(steps).fit(data)
    pipeline.save(tmp_path / "pipeline")
    loaded = Pipeline.load(tmp_path / "pipeline")
    assert (loaded.steps, loaded.digest) == (pipeline.steps, pipeline.digest)
    for other in (loaded, pickle.loads(pickle.dumps(pipeline)), Pipeline(steps).fit(data)):
        for epoch in (None, 0, 1):
            made, again = (
                each.transform(data, None if epoch is None else chance(len(data), epoch))
                for each in (pipeline, other)
            )
            assert made.dtype == again.dtype and np.array_equal(made, again)


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_are_json(name):
    pipeline = Pipeline(PIPELINES[name][0])
    told = json.loads(json.dumps(spec_of(pipeline)))
    assert from_spec(told).steps == pipeline.steps


def chance(count: int, epoch: int) -> Chance:
    return Chance(np.arange(count), seed=5, epoch=epoch)


def test_a_pipeline_moves_pixels_once():
    steps = [type(step) for step, _ in joined(AUGMENTING, [None] * len(AUGMENTING))]
    assert steps == [Resize, Moves, Colour, CutOut, NormaliseImages]


@pytest.mark.parametrize(
    ("step", "learnt", "batch", "message"),
    [
        (NormaliseImages(), {}, IMAGES, "'subtract' of what a step learnt is wrong"),
        (NormaliseImages(), {"subtract": "a"}, IMAGES, "Expected `array`, got `str`"),
        (
            NormaliseImages(),
            {"subtract": [1, 2, 3], "divide": [1]},
            IMAGES,
            "images of 3 channels, where the training data has 1",
        ),
        (StandardiseSeries(), {"mean": [1, None]}, SERIES, "'mean' of what a step learnt is wrong"),
        (Tokenise(), {"tokenizer": 5}, TEXTS, "'tokenizer' of what a step learnt is wrong"),
        (Tokenise(), {"tokenizer": "[]", "padding": 0}, TEXTS, "not a tokenizer"),
    ],
)
def test_what_was_learnt_is_checked_where_a_file_is_wrong(step, learnt, batch, message):
    with pytest.raises(InvalidRequest, match=message):
        step.transform(batch, Learnt(learnt))


def test_a_chance_for_others_is_refused():
    with pytest.raises(InvalidRequest, match="a chance for 3 samples, and a batch of 23"):
        FITTED.transform(IMAGES, chance(3, 0))


def test_forms_that_do_not_fit_are_refused():
    with pytest.raises(InvalidRequest, match="Tokenise takes texts, and Flip before it gives im"):
        Pipeline([Flip(), Tokenise()])


# --- in a loader ---------------------------------------------------------------------------------

FITTED = Pipeline(AUGMENTING).fit(IMAGES)


def by_sample(batches) -> dict[int, bytes]:
    return {
        int(label): image.numpy().tobytes()
        for images, labels in batches
        for image, label in zip(images, labels, strict=True)
    }


@given(
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 3),
    workers=st.integers(0, 2),
    killed_after=st.integers(0, 3),
)
@settings(deadline=None, max_examples=15)
def test_each_image_is_augmented_the_same_whatever_reads_it(
    batch_size, world_size, workers, killed_after
):
    def loader(**arguments):
        return DataLoader((IMAGES, LABELS), shuffle=True, seed=4, pipeline=FITTED, **arguments)

    expected = by_sample(loader(batch_size=23))
    seen = {}
    for rank in range(world_size):
        arguments = {
            "batch_size": batch_size,
            "num_workers": workers,
            "rank": rank,
            "world_size": world_size,
        }
        first, second = loader(**arguments), loader(**arguments)
        running = iter(first)
        seen |= by_sample(batch for _, batch in zip(range(killed_after), running, strict=False))
        second.load_state_dict(first.state_dict())
        if second.epoch == 0:
            seen |= by_sample(second)
    assert seen == expected


def test_processes_augment_the_same():
    here, there = (
        by_sample(DataLoader((IMAGES, LABELS), 8, True, pipeline=FITTED, **where))
        for where in ({}, {"processes": True, "num_workers": 1})
    )
    assert here == there


def test_an_epoch_augments_anew_and_an_evaluation_never():
    loader = DataLoader((IMAGES, LABELS), 8, shuffle=True, pipeline=FITTED)
    first, second = by_sample(loader), by_sample(loader)
    assert all(first[sample] != second[sample] for sample in first)
    for evaluating in (
        DataLoader((IMAGES, LABELS), 8, pipeline=FITTED),
        DataLoader((IMAGES, LABELS), 8, shuffle=True, augment=False, pipeline=FITTED),
    ):
        expected = [image.tobytes() for image in FITTED.transform(IMAGES)]
        assert by_sample(evaluating) == dict(enumerate(expected))


def test_a_folder_of_texts_gives_tokens_and_labels(tmp_path):
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.txt").write_text(f"{name} {name} number {number}")
    dataset = Dataset.from_local(tmp_path)
    pipeline = Pipeline([Tokenise(method="wordlevel", max_length=5, least_count=1)]).fit(dataset)
    ((tokens, labels),) = DataLoader(dataset, 6, pipeline=pipeline)
    assert (tokens.shape, tokens.dtype) == ((6, 5), torch.int32)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(torch.unique(tokens[:, 0])) == 2 and (tokens[:, 4] == 0).all()


def test_a_loader_of_windows_standardises_them():
    pipeline = Pipeline([StandardiseSeries()]).fit(WINDOWS)
    batches = list(DataLoader(WINDOWS, 9, shuffle=True, pipeline=pipeline))
    series = torch.cat([series for series, _ in batches])
    assert series.shape == (45, 4, 2) and batches[0][1].shape == (9, 2)
    assert series.mean((0, 1)).tolist() == pytest.approx([0, 0], abs=1e-5)
