"""`tf.keras` through the platform: two workers train, evaluate and predict as one."""

import importlib.util
import json
import subprocess
import sys

import pytest

from leptonai.testing.platform import RunningPlatform

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None,
        reason="TensorFlow (2 GB) is not installed: pip install tensorflow-cpu",
    ),
]

# In a process of its own: in one process Keras has one backend.
PROGRAM = """
import json
import numpy as np
from lepton import LeptonClient

client = LeptonClient()
from tensorflow import keras

x = np.random.default_rng(0).integers(0, 50, (65, 4))  # its gradients are rows, not matrices
y = x.sum(axis=1, keepdims=True).astype("float32") / 100

def train(**more):
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(50, 3),
                              keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    history = model.fit(x, y, epochs=3, validation_data=(x[:7], y[:7]), shuffle=False,
                        verbose=0, **more)
    return model, history.history

here, expected = train()
found = []
for workers in (1, 2):
    there, history = train(client=client, num_workers=workers)
    found.append(max(abs(np.array(history[name]) - expected[name]).max() for name in expected))
    found.append(max(abs(a - b).max() for a, b in zip(there.get_weights(), here.get_weights())))
    found.append(int(there.optimizer.iterations.numpy()))
found += np.abs(np.array(there.evaluate(x, y, client=client, num_workers=2, verbose=0))
                - there.evaluate(x, y, verbose=0)).tolist()
found.append(np.abs(there.predict(x, client=client, verbose=0)
                    - there.predict(x, verbose=0)).max())
print("FOUND", json.dumps([float(each) for each in found]))
"""


def test_tf_keras_trains_in_a_job_as_it_does_here(tmp_path):
    with RunningPlatform(tmp_path / "home") as platform:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=platform.environment | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    found = json.loads(line.removeprefix("FOUND"))
    steps = [found.pop(2), found.pop(4)]
    assert steps == [9, 9]
    assert max(found) < 1e-3, found
