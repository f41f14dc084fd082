"""What is refused before anything is sent, and what the log of a job looks like on the screen."""

import io

import keras
import numpy as np
import pytest

from leptonai.client import LeptonClient
from leptonai.errors import InvalidRequest, Unavailable
from leptonai.training.keras import unwrap
from leptonai.training.keras.following import Screen
from leptonai.training.keras.messages import Message, read
from leptonai.training.keras.printing import BarAsLines

X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")


@pytest.fixture
def client():
    """Of a platform that is not there: whatever gets as far as to ask it fails."""
    with LeptonClient(url="http://127.0.0.1:1", token="t", retry_for_s=0.0) as client:
        yield client
    unwrap()


def a_model(compiled=True, **arguments):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="small")
    if compiled:
        model.compile("sgd", "mse", **arguments)
    return model


def refusal(act) -> str:
    with pytest.raises(InvalidRequest) as refused:
        act()
    assert refused.value.hint
    return refused.value.message


def test_what_is_in_order_gets_as_far_as_the_platform(client):
    with pytest.raises(Unavailable):
        a_model().fit(X, Y, client=client)


def test_a_model_that_is_not_compiled_is_told_so(client):
    model = a_model(compiled=False)
    told = "the model 'small' is not compiled"
    assert refusal(lambda: model.fit(X, Y, client=client)) == told
    assert refusal(lambda: model.evaluate(X, Y, client=client)) == told
    with pytest.raises(Unavailable):
        model.predict(X, client=client)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"num_workers": 0}, "num_workers=0 is no number of workers"),
        ({"gpu": 2}, "gpu=2: a worker of Keras uses one GPU"),
        ({"memory": "2"}, "the memory '2' has no unit"),
        ({"shuffle": "batch"}, "shuffle='batch' is not known in a job"),
        ({"validation_split": 0.999}, "validation_split=0.999 of 8 samples leaves none"),
        ({"validation_data": (X[:2], Y)}, "validation_data has 2 and 8 samples"),
        (
            {"validation_data": iter(())},
            "validation_data gives no batch",
        ),
        (
            {"num_workers": 2, "callbacks": [keras.callbacks.TerminateOnNaN()]},
            "the callback TerminateOnNaN would stop one worker and not the others",
        ),
    ],
)
def test_what_means_nothing_in_a_job_is_refused_before_anything_is_sent(client, arguments, told):
    assert refusal(lambda: a_model().fit(X, Y, client=client, **arguments)) == told


def test_an_argument_that_keras_does_not_know_is_keras_own_error(client):
    with pytest.raises(TypeError, match="epoch"):
        a_model().fit(X, Y, epoch=3, client=client)


def test_a_client_that_is_none_is_refused():
    with LeptonClient(url="http://127.0.0.1:1", token="t"):
        assert refusal(lambda: a_model().fit(X, Y, client="t")) == "client is a str"
    unwrap()


# --- the log -------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(out: io.StringIO, lines: list[str], verbose: int = 1) -> str:
    screen = Screen(verbose, out)
    for line in lines:
        screen.show(line)
    screen.end()
    return out.getvalue()


LOG = ["Epoch 1/2", "\r\x1b[1m1/4\x1b[0m loss: 10", "\r\x1b[1m2/4\x1b[0m loss: 9", "4/4 - loss: 1"]


def test_a_bar_moves_on_a_terminal_and_is_shown_once_elsewhere():
    assert drawn(Terminal(), LOG) == (
        "Epoch 1/2\n\r\x1b[1m1/4\x1b[0m loss: 10\r\x1b[1m2/4\x1b[0m loss: 9 \r4/4 - loss: 1      \n"
    )
    assert drawn(io.StringIO(), LOG) == "Epoch 1/2\n4/4 - loss: 1\n"
    assert drawn(io.StringIO(), LOG, verbose=0) == ""


def test_a_bar_becomes_lines_and_no_more_of_them_than_can_be_read():
    now, out = [0.0], io.StringIO()
    bar = BarAsLines(out, lambda: now[0])
    progress = keras.utils.Progbar(4)
    progress.interval = 0
    real, keras.src.utils.io_utils.sys.stdout = keras.src.utils.io_utils.sys.stdout, bar
    try:
        print("Epoch 1/1", file=bar)
        for step in range(1, 5):
            now[0] += 0.3
            progress.update(step, [("loss", 1.0)], finalize=False)
        progress.update(4, [("loss", 1.0)], finalize=True)
    finally:
        keras.src.utils.io_utils.sys.stdout = real
    first, *rest, last = out.getvalue().split("\n")[:-1]
    assert (first, last[0] == "\r", [line[0] for line in rest]) == ("Epoch 1/1", False, ["\r"] * 2)
    assert "4/4" in last
    assert drawn(io.StringIO(), [first, *rest, last]).count("\n") == 2


def test_messages_are_lines_that_nothing_else_is_taken_for():
    message = Message("epoch", {"epoch": 3, "logs": {"loss": 0.5}})
    assert read(message.line()) == message
    for line in ("Epoch 1/2", '{"loss": 1}', '{"lepton": "cut', ""):
        assert read(line) is None
