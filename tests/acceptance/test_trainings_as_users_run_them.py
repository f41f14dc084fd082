"""`leptonai train`: a script with a Trainer, whose workers may die."""

from pathlib import Path

import pytest

import leptonai
from leptonai.testing.platform import RunningPlatform, eventually

SCRIPT = """
import os, signal
import numpy as np
import torch
from leptonai.training import Callback, Trainer

inputs = np.random.default_rng(0).normal(size=(96, 8)).astype(np.float32)
targets = (inputs[:, 0] > 0).astype(np.int64)

class Dies(Callback):
    def on_step(self, trainer, step, loss):
        if step == 8 and trainer.world.rank == 1 and os.environ["LEPTON_JOB_FAILURE_COUNT"] == "0":
            trainer._fit._saver.wait()
            os.kill(os.getpid(), signal.SIGKILL)

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
history = Trainer(
    model, (inputs, targets), epochs=3, batch_size=16, save_every=5, callbacks=[Dies()],
    validation=(inputs, targets), metrics=["accuracy"],
).fit()
print("resumed from", history.resumed_from)
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("training") / "home") as running:
        yield running


def test_a_worker_that_dies_takes_its_gang_back_to_the_last_checkpoint(platform, tmp_path):
    (tmp_path / "learn.py").write_text(SCRIPT)
    source = str(Path(leptonai.__file__).parents[1])
    options = ("--num-workers", "2", "--cpu", "0.5", "--wait", "-e", f"PYTHONPATH={source}")
    name = platform.cli("train", *options, str(tmp_path / "learn.py")).stdout.strip()

    log = platform.cli("job", "log", name, "--worker", "0").stdout
    assert "going on from step-000000005" in log
    assert "resumed from 5" in log
    with platform.client() as client:
        assert client.jobs.get(name).metadata.labels == {"kind": "training"}
        (found,) = client.runs.list()
        curves = client.runs.metrics(found.metadata.id, "loss").curves
        (validated,) = client.runs.metrics(found.metadata.id, "val_accuracy").curves
    assert curves[0].steps == list(range(1, 19))
    assert validated.steps == [6, 12, 18]
    assert found.spec.params["batch_size"] == 16
    assert found.spec.params["model"] == "Sequential"
    kept = platform.home.path / "attempts" / "kept" / name
    assert "step-000000018" in {each.name for each in kept.iterdir()}
    platform.cli("job", "remove", name)
    eventually(lambda: not kept.exists())


def test_a_script_that_is_not_there_is_told(platform):
    refused = platform.cli("train", "nowhere.py", check=False)
    assert refused.returncode == 1
    assert "there is no script nowhere.py" in refused.stderr
