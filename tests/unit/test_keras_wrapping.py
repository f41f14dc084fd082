"""`LeptonClient` teaches Keras the argument `client`, whenever it comes; it can be undone."""

import json
import os
import subprocess
import sys

import pytest

KERAS = """
class Trainer:
    def fit(self, x, epochs=1): return ["fit", x, epochs]
    def evaluate(self, x): return ["evaluate", x]
    def predict(self, x): return ["predict", x]

class Model(Trainer): pass
"""
BEGIN = """
import json, sys
from leptonai.client import LeptonClient
from leptonai.training.keras import unwrap

def client():
    return LeptonClient(url="http://127.0.0.1:1", token="t")

def taught():
    import keras
    return [hasattr(getattr(keras.Model, name), "__lepton_wraps__")
            for name in ("fit", "evaluate", "predict")]

def waiting():
    return any(type(each).__module__.startswith("leptonai") for each in sys.meta_path)
"""


@pytest.fixture
def said(tmp_path):
    """What a fresh interpreter prints as JSON, with a Keras that takes no time to import."""

    def run(program: str, keras: str = f"import types; ops = types\n{KERAS}"):
        (tmp_path / "keras.py").write_text(keras)
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-c", BEGIN + program],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_client_imports_no_keras_and_keras_is_taught_when_it_comes(said):
    assert said("""
client()
early = ["keras" in sys.modules, waiting()]
import keras
loaders = [type(keras.__loader__).__name__, type(keras.__spec__.loader).__name__]
print(json.dumps([early, taught(), loaders, waiting()]))
""") == [[False, True], [True] * 3, ["SourceFileLoader"] * 2, False]


def test_keras_that_was_there_first_is_taught_and_forgets_again(said):
    assert said("""
import keras
untouched = keras.Model.fit
seen = [taught()[0]]
client(); client()
seen.append(taught()[0])
unwrap(); unwrap()
seen += [taught()[0], keras.Model.fit is untouched]
client()
print(json.dumps([*seen, taught()[0]]))
""") == [False, True, False, True, True]


def test_what_is_undone_before_keras_comes_is_not_done_then(said):
    assert said("client(); unwrap(); print(json.dumps([waiting(), taught()]))") == [
        False,
        [False] * 3,
    ]


def test_without_a_client_keras_does_what_it_always_did(said):
    assert said("""
import inspect, keras
before = inspect.signature(keras.Model.fit)
client()
model = keras.Model()
try:
    model.fit(1, num_workers=2)
except TypeError as error:
    told = "num_workers" in str(error)
print(json.dumps([model.fit(1, epochs=2), model.evaluate(3), model.predict(4, client=None), told,
                  inspect.signature(keras.Model.fit) == before]))
""") == [["fit", 1, 2], ["evaluate", 3], ["predict", 4], True, True]


def test_a_keras_2_is_left_alone(said):
    assert said("client(); print(json.dumps([taught(), waiting()]))", KERAS) == [[False] * 3, False]


def test_that_keras_is_not_there_is_said_as_always(said):
    assert said("""
client()
import pathlib
sys.path[:] = [
    each
    for each in sys.path
    if "site-packages" not in each and not (pathlib.Path(each) / "keras.py").exists()
]
try:
    import keras
except ModuleNotFoundError as error:
    print(json.dumps([str(error), waiting()]))
""") == ["No module named 'keras'", True]
