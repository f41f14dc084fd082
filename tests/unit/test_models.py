"""What all ready-made models promise, each of them on the smallest problem that shows it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from simplejpeg import encode_jpeg

from leptonai.data import DataLoader
from leptonai.data.sets import DogsAndCats
from leptonai.errors import InvalidRequest, NotFound
from leptonai.serving.model import ModelServer
from leptonai.training.models import (
    CNN,
    GPT,
    GRU,
    LSTM,
    MLP,
    RNN,
    Autoencoder,
    Model,
    ResNet,
    TransformerEncoder,
    load_model,
)
from leptonai.training.models.tasks import Values

CHANCE = np.random.default_rng(0)
LABELS = CHANCE.integers(0, 2, 128)
ROWS = (CHANCE.normal(size=(128, 4)) + 2 * LABELS[:, None]).astype(np.float32)
IMAGES = (CHANCE.normal(size=(128, 8, 8, 1)) + LABELS[:, None, None, None]).astype(np.float32)
PLAIN_IMAGES = np.zeros_like(IMAGES) + LABELS[:, None, None, None].astype(np.float32)
TOKENS = CHANCE.integers(1, 10, (128, 6))
FIRST_IS_LARGE = (TOKENS[:, 0] > 5).astype(np.int64)
HAS_NINE = (TOKENS == 9).any(1).astype(np.int64)
COUNTING = (np.arange(128)[:, None] + np.arange(8)) % 7 + 1
WAVES = np.sin(np.arange(128)[:, None] * 0.3 + np.arange(12) * 0.5).astype(np.float32)[..., None]


class Case(NamedTuple):
    """A model, a problem, and how many times smaller learning makes its loss at least."""

    make: Callable[[], Model]
    data: Any
    output_shape: tuple[int, ...]
    epochs: int = 8
    factor: float = 3.0


CASES = {
    "MLP": Case(lambda: MLP(4, 2, hidden=(16,)), (ROWS, LABELS), (128, 2)),
    "MLP of values": Case(
        lambda: MLP(4, num_values=1, hidden=(16,), value_mean=2.0, value_std=3.0),
        (ROWS, ROWS[:, :1] * 2 + ROWS[:, 1:2]),
        (128, 1),
    ),
    "CNN": Case(lambda: CNN((8, 8, 1), 2, widths=(8,)), (IMAGES, LABELS), (128, 2), 5),
    "ResNet": Case(lambda: ResNet((8, 8, 1), 2, width=8), (IMAGES, LABELS), (128, 2), 3),
    "ResNet with bottlenecks and batch normalisation": Case(
        lambda: ResNet((8, 8, 1), 2, depth=50, width=8, norm="batch"),
        (IMAGES, LABELS),
        (128, 2),
        4,
        2.0,
    ),
    "RNN": Case(
        lambda: RNN(vocabulary=10, num_classes=2, width=16), (TOKENS, FIRST_IS_LARGE), (128, 2)
    ),
    "LSTM": Case(
        lambda: LSTM(vocabulary=10, num_classes=2, width=16, bidirectional=True),
        (TOKENS, FIRST_IS_LARGE),
        (128, 2),
    ),
    "GRU of numbers ahead": Case(
        lambda: GRU(1, horizon=2, width=16), (WAVES[:, :10], WAVES[:, 10:]), (128, 2, 1)
    ),
    "Autoencoder": Case(lambda: Autoencoder(4, 2, widths=(16,)), (ROWS, LABELS), (128, 4)),
    "Autoencoder of images": Case(
        lambda: Autoencoder((8, 8, 1), 4, kind="conv", widths=(8,)), PLAIN_IMAGES, (128, 8, 8, 1)
    ),
    "TransformerEncoder": Case(
        lambda: TransformerEncoder(10, 2, width=16, layers=1, heads=2, dropout=0.0),
        (TOKENS, HAS_NINE),
        (128, 2),
        20,
    ),
    "TransformerEncoder of hidden tokens": Case(
        lambda: TransformerEncoder(10, width=16, layers=1, heads=2, dropout=0.0),
        COUNTING,
        (128, 8, 10),
        20,
        2.0,
    ),
    "GPT": Case(lambda: GPT(10, width=16, layers=1, heads=2, context=16), COUNTING, (128, 8, 10)),
    "GPT with learned positions and a head of its own": Case(
        lambda: GPT(10, width=16, layers=1, heads=2, context=16, positions="learned", tied=False),
        COUNTING,
        (128, 8, 10),
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def made(case: Case) -> Model:
    torch.manual_seed(0)
    return case.make()


def inputs_of(case: Case) -> NDArray[Any]:
    inputs: NDArray[Any] = case.data[0] if isinstance(case.data, tuple) else case.data
    return inputs


def same_bits(one: Model, other: Model) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        mine[name].dtype == theirs[name].dtype and torch.equal(mine[name], theirs[name])
        for name in mine
    )


@each_case
def test_it_learns_and_then_says_what_it_learnt(case: Case) -> None:
    model = made(case)
    before = model.evaluate(case.data)
    history = model.fit(case.data, case.epochs, 16, learning_rate=1e-2, quiet=True)
    after = model.evaluate(case.data)
    assert len(history["loss"]) == case.epochs
    assert after.loss < before.loss / case.factor
    assert after.accuracy > before.accuracy
    predicted = model.predict(case.data, batch_size=50)
    assert predicted.shape == case.output_shape
    assert np.array_equal(predicted[:50], model.predict(inputs_of(case)[:50]))
    if not isinstance(model.task, Values):
        np.testing.assert_allclose(predicted.sum(-1), 1, rtol=1e-5)


@each_case
@pytest.mark.parametrize("name", ["model.pth", "model"])
def test_what_was_saved_is_the_same_to_the_bit(case: Case, name: str, tmp_path: Path) -> None:
    model = made(case)
    model.save(tmp_path / name)
    drawn_before = torch.get_rng_state()
    again = type(model).load(tmp_path / name)
    assert torch.equal(torch.get_rng_state(), drawn_before)
    assert same_bits(model, again) and again.config() == model.config()
    assert not again.training and all(weight.requires_grad for weight in again.parameters())
    inputs = inputs_of(case)[:5]
    assert np.array_equal(model.predict(inputs), again.predict(inputs))


@each_case
def test_the_same_seed_gives_the_same_weights_and_another_one_others(case: Case) -> None:
    one = made(case)
    assert same_bits(one, made(case))
    torch.manual_seed(1)
    assert not same_bits(one, case.make())


@each_case
def test_training_twice_from_one_seed_gives_the_same_model(case: Case) -> None:
    models = [made(case) for _ in range(2)]
    for model in models:
        model.fit(case.data, 1, 32, seed=3, quiet=True)
    assert same_bits(*models)


@each_case
def test_a_wrong_shape_is_refused_by_the_models_name(case: Case) -> None:
    model = made(case)
    with pytest.raises(InvalidRequest, match=rf"{type(model).__name__} expected .* got \[3\]"):
        model(torch.zeros(3))


@each_case
def test_its_summary_counts_every_parameter_once(case: Case) -> None:
    model = made(case)
    summary = model.summary()
    assert summary.parameters == sum(weight.numel() for weight in model.parameters())
    inside = sum(layer.parameters for layer in summary.layers)
    on_its_own = sum(weight.numel() for name, weight in model.named_parameters() if name == "bias")
    assert inside + on_its_own == summary.parameters
    assert f"{summary.parameters:,} parameters" in str(summary)


@each_case
def test_its_blocks_are_parts_of_it(case: Case) -> None:
    model = made(case)
    parts = {id(part) for part in model.modules()}
    plan = model.plan()
    assert all(id(block) in parts for block in plan.blocks)
    assert {*plan.tensor} <= {name for name, _ in model.named_modules()}


# --- configurations ------------------------------------------------------------------------------

small = st.integers(1, 3)
widths = st.lists(st.sampled_from([8, 16]), min_size=1, max_size=2)
means = st.floats(-10, 10)
spreads = st.floats(0.125, 10)
sizes = st.fixed_dictionaries(
    {
        "vocabulary": st.integers(2, 30),
        "context": st.integers(1, 20),
        "width": st.sampled_from([8, 16]),
        "layers": small,
        "heads": st.sampled_from([1, 2, 4]),
        "feed_width": st.none() | st.integers(1, 20),
        "dropout": st.floats(0, 0.9),
        "positions": st.sampled_from(["learned", "rotary"]),
    }
)
images = {
    "input_shape": st.tuples(st.integers(8, 12), st.integers(8, 12), small),
    "num_classes": small,
    "pixel_mean": means,
    "pixel_std": spreads,
}
outputs = st.sampled_from([{"num_classes": 2, "classes": ("a", "b")}, {"horizon": 2}])
configurations = st.one_of(
    st.tuples(st.just(CNN), st.fixed_dictionaries({**images, "widths": widths})),
    st.tuples(
        st.just(ResNet),
        st.fixed_dictionaries(
            {
                **images,
                "width": st.just(8),
                "depth": st.sampled_from([18, 34, 50]),
                "stem": st.sampled_from([None, "small", "large"]),
                "norm": st.sampled_from(["group", "batch"]),
            }
        ),
    ),
    st.tuples(
        st.just(MLP),
        st.fixed_dictionaries(
            {
                "input_shape": st.just(3) | st.just((3, 1)),
                "num_values": small,
                "hidden": st.lists(small),
                "dropout": st.floats(0, 0.9),
                "input_mean": means | st.tuples(means, means, means),
                "input_std": spreads | st.tuples(spreads, spreads, spreads),
                "value_mean": means,
                "value_std": spreads,
            }
        ),
    ),
    st.tuples(
        st.sampled_from([RNN, LSTM, GRU]),
        st.builds(
            lambda inside, chosen: {**inside, **chosen},
            st.fixed_dictionaries(
                {
                    "num_features": small,
                    "width": small,
                    "layers": small,
                    "bidirectional": st.booleans(),
                    "dropout": st.floats(0, 0.9),
                }
            ),
            outputs,
        ),
    ),
    st.tuples(
        st.just(Autoencoder),
        st.fixed_dictionaries(
            {
                "input_shape": st.just((8, 8, 1)),
                "latent": small,
                "kind": st.sampled_from(["dense", "conv"]),
                "widths": st.none() | widths,
                "input_mean": means,
                "input_std": spreads,
            }
        ),
    ),
    st.tuples(
        st.just(GPT), st.builds(lambda size, tied: {**size, "tied": tied}, sizes, st.booleans())
    ),
    st.tuples(
        st.just(TransformerEncoder),
        st.builds(lambda size, classes: {**size, "num_classes": classes}, sizes, st.none() | small),
    ),
)


@given(configurations)
@settings(deadline=None, max_examples=60)
def test_a_configuration_survives_json_and_builds_the_same_network(
    drawn: tuple[type[Model], dict[str, Any]],
) -> None:
    kind, options = drawn
    with torch.device("meta"):
        model = kind(**options)
        again = kind(**json.loads(json.dumps(model.config())))
    assert again.config() == model.config()
    shapes = [
        [(name, weight.shape, weight.dtype) for name, weight in each.state_dict().items()]
        for each in (model, again)
    ]
    assert shapes[0] == shapes[1]


# --- what it is given ----------------------------------------------------------------------------


def a_model() -> MLP:
    torch.manual_seed(0)
    return MLP(4, 2, hidden=(8,))


@pytest.mark.parametrize("act", ["fit", "evaluate"])
@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (ROWS, LABELS + 1, r"expected the labels from 0 to 1, got 2 at \[\d+\]"),
        (ROWS, LABELS.astype(np.float32), "expected the labels as whole numbers from 0 to 1"),
        (ROWS, np.eye(2, dtype=np.int64)[LABELS], "scores of shape .* the targets are of shape"),
        (np.where(ROWS > 3, np.nan, ROWS), LABELS, r"the rows hold nan at \[\d+, \d\]"),
        (ROWS[:, :3], LABELS, r"MLP expected rows of shape \['B', 4\], got \[\d+, 3\]"),
    ],
)
def test_data_it_cannot_use_is_named(
    act: str, rows: NDArray[Any], labels: NDArray[Any], message: str
) -> None:
    use = a_model().evaluate if act == "evaluate" else lambda data: a_model().fit(data, quiet=True)
    with pytest.raises(InvalidRequest, match=message):
        use((rows, labels))


def test_numbers_that_are_none_are_refused_when_predicting() -> None:
    with pytest.raises(InvalidRequest, match=r"the rows hold inf at \[0, 2\]"):
        a_model().predict(np.array([[0, 0, np.inf, 0]], np.float32))


def test_nothing_is_nothing_to_evaluate_with_or_to_predict_from() -> None:
    for use in (a_model().evaluate, a_model().predict):
        with pytest.raises(InvalidRequest, match="no"):
            use((ROWS[:0], LABELS[:0]))


def test_a_loader_is_taken_as_it_is_and_validation_is_told() -> None:
    model = a_model()
    loader = DataLoader((ROWS, LABELS), 16, shuffle=True, seed=1)
    history = model.fit(loader, 2, validation_data=(ROWS, LABELS), quiet=True)
    assert history.steps == 2 * len(loader)
    assert history.last["val_loss"] == pytest.approx(model.evaluate((ROWS, LABELS)).loss)
    assert history.last["val_accuracy"] == model.evaluate(loader).accuracy


def test_a_pipeline_goes_before_the_model() -> None:
    one, other = a_model(), a_model()
    one.fit((ROWS, LABELS), 1, pipeline=lambda batch: (batch[0] * 2, batch[1]), quiet=True)
    other.fit((ROWS * 2, LABELS), 1, quiet=True)
    assert same_bits(one, other)


def test_it_learns_what_the_classes_are_called_unless_it_was_told() -> None:
    class Pets:
        classes = ("cat", "dog")

        def as_columns(self) -> tuple[NDArray[Any], NDArray[Any]]:
            return ROWS, LABELS

    with pytest.raises(InvalidRequest, match="the data has 2 classes, and the model 1"):
        MLP(4, 1).fit(Pets())
    told = MLP(4, 2, hidden=(8,), classes=("no", "yes"))
    untold = a_model()
    for model in (told, untold):
        model.fit(Pets(), 1, quiet=True)
    assert (told.classes, untold.classes) == (("no", "yes"), ("cat", "dog"))


def test_a_table_may_call_its_columns_anything() -> None:
    one, other = a_model(), a_model()
    one.fit({"rows": ROWS, "label": LABELS}, 1, quiet=True)
    other.fit((ROWS, LABELS), 1, quiet=True)
    assert same_bits(one, other)
    assert one.evaluate({"rows": ROWS, "y": LABELS}) == one.evaluate((ROWS, LABELS))
    for data in ({"rows": ROWS, "y": LABELS}, {"rows": ROWS}, (ROWS, LABELS)):
        assert np.array_equal(one.predict(data), one.predict(ROWS))


@pytest.mark.parametrize("name", ["CNN", "TransformerEncoder of hidden tokens"])
def test_what_goes_on_from_a_checkpoint_ends_as_what_was_not_interrupted(
    name: str, tmp_path: Path
) -> None:
    case = CASES[name]
    whole, part, resumed = (made(case) for _ in range(3))
    whole.fit(case.data, 3, 16, quiet=True)
    part.fit(case.data, 2, 16, checkpoints=tmp_path, quiet=True)
    history = resumed.fit(case.data, 3, 16, checkpoints=tmp_path, quiet=True)
    assert history.resumed_from == 2 * 128 // 16
    assert same_bits(whole, resumed)


def test_a_model_that_is_not_served_without_code_says_so(tmp_path: Path) -> None:
    for name in ("GPT", "Autoencoder"):
        made(CASES[name]).save(tmp_path / name)
        with pytest.raises(InvalidRequest, match="is not served without code"):
            ModelServer(tmp_path / name).init()


def test_models_of_classes_are_served_as_they_are(tmp_path: Path) -> None:
    for name in ("CNN", "ResNet", "MLP"):
        model = made(CASES[name])
        model.save(tmp_path / name)
        server = ModelServer(tmp_path / name)
        server.init()
        inputs = inputs_of(CASES[name])[:3]
        answer = server.predict(inputs.tolist())
        np.testing.assert_allclose(answer.probabilities, model.predict(inputs), rtol=1e-5)


def test_an_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="there is no option lerning_rate"):
        a_model().fit((ROWS, LABELS), lerning_rate=1)


def test_several_workers_need_a_job() -> None:
    with pytest.raises(
        InvalidRequest, match="without a client, fit trains in this process alone"
    ) as refused:
        a_model().fit((ROWS, LABELS), num_workers=2)
    assert "leptonai train --num-workers 2" in refused.value.hint


def test_photographs_in_folders_become_a_classifier_in_one_file(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("cats", "dogs"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(8):
                stripes = np.indices((20, 30))[int(name == "dogs")] // 4 % 2 * 200 + number
                pixels = np.repeat(stripes[..., None].astype(np.uint8), 3, 2)
                (folder / f"{number}.jpg").write_bytes(encode_jpeg(pixels))
    train, test = DogsAndCats.split(tmp_path)
    torch.manual_seed(0)
    model = CNN(input_shape=(16, 24, 3), num_classes=2, widths=(8,), pixel_std=255.0)
    model.fit(train, epochs=15, batch_size=8, learning_rate=1e-2, quiet=True)
    loss, accuracy = model.evaluate(test)
    assert (accuracy, model.classes) == (1.0, ("cats", "dogs")) and loss < 0.3
    model.save(tmp_path / "cat_dog_classifier.pth")
    again = CNN.load(tmp_path / "cat_dog_classifier.pth")
    assert again.classes == model.classes
    assert np.array_equal(again.predict(test), model.predict(test))


def test_evaluating_leaves_a_model_that_trains_training() -> None:
    model = a_model().train()
    model.evaluate((ROWS, LABELS))
    model.predict(ROWS)
    assert model.training


# --- what cannot be built ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(4), "num_classes or num_values, and not both"),
        (lambda: MLP(4, 2, input_mean=(1.0, 2.0)), "input_mean to be one number or 4, got 2"),
        (lambda: MLP(0, 2), "an axis of input_shape from 1"),
        (lambda: MLP(4, 2, dropout=1.0), "dropout to be at least 0 and below 1"),
        (lambda: ResNet((8, 8, 1), 2, depth=19), "one of 18, 34, 50, got 19"),
        (lambda: ResNet((4, 8, 1), 2), "sides of at least 8"),
        (lambda: ResNet((8, 8, 1), 2, norm="layer"), "norm to be one of group, batch"),
        (lambda: LSTM(num_classes=2), "num_features or vocabulary, and not both"),
        (lambda: LSTM(3), "num_classes or horizon, and not both"),
        (lambda: LSTM(vocabulary=5, num_classes=2, padding=5), "padding from 0 to 4, got 5"),
        (lambda: Autoencoder((6, 8, 1), kind="conv"), "multiples of 4 for 2 stages"),
        (lambda: GPT(10, width=10, heads=4), "a width that is a multiple of 4 heads, got 10"),
        (lambda: GPT(10, width=6, heads=2), "heads of an even width to rotate, got 3"),
        (lambda: GPT(10, layers=10**9), "layers from 1 to 1024"),
        (lambda: GPT.preset("gpt5"), "the preset to be one of gpt2, gpt2-medium"),
        (lambda: TransformerEncoder(10, 2, mask=10), "mask from 0 to 9, got 10"),
    ],
)
def test_what_cannot_be_built_is_refused(make: Callable[[], Model], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        make()


# --- classes of one's own ------------------------------------------------------------------------


class Line(Model, format="test-line"):
    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.task = Values()
        self.height = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.slope + self.height


def test_a_class_of_ones_own_is_saved_and_found_again_by_its_format(tmp_path: Path) -> None:
    Line(slope=2.0).save(tmp_path / "line.bin")
    again = load_model(tmp_path / "line.bin")
    assert isinstance(again, Line) and again.config() == {"slope": 2.0}


class Steep(Line):
    """A class without a format, below one that has one."""


def test_a_class_without_a_format_of_its_own_is_not_saved_as_another(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="the class Steep has no format of its own"):
        Steep().save(tmp_path / "m.pth")


def test_a_format_belongs_to_one_class(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"'test-line' is that of .*Line"):
        type("Other", (Model,), {}, format="test-line")


def test_loading_by_the_wrong_class_names_the_right_one(tmp_path: Path) -> None:
    a_model().save(tmp_path / "m.pth")
    with pytest.raises(InvalidRequest, match="holds a MLP, not a CNN"):
        CNN.load(tmp_path / "m.pth")
    with pytest.raises(NotFound, match="there is no model at"):
        MLP.load(tmp_path / "n.pth")
