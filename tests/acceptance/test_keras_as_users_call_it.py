"""`model.fit(…, client=client)` against a platform: the same numbers as without a client."""

import os
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
from tests.unit import keras_parts

from leptonai.errors import InvalidRequest
from leptonai.testing.platform import RunningPlatform, eventually
from leptonai.training.keras import following, unwrap

random = np.random.default_rng(0)
# Of 65 samples the last batch of 32 has one: one worker of two has nothing to do.
X = random.random((65, 4), dtype="float32")
Y = (X.sum(axis=1, keepdims=True) * 0.3).astype("float32")


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("keras") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def client(platform):
    with platform.client() as client:
        yield client
    unwrap()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine is no reason to tell why a job has not begun."""
    monkeypatch.setattr(following, "TOLD_AFTER_S", 600.0)


def a_model(name="regression"):
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "tanh"),
            keras_parts.Scaled(1.5),
            keras.layers.Dense(1),
        ],
        name=name,
    )
    model.compile(keras.optimizers.Adam(0.01), keras_parts.doubled_error, metrics=["mae"])
    return model


def assert_close(a, b):
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_allclose(values, b[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_training_in_a_job_is_the_training_one_would_have_had(client, capsys):
    def train(model, **more):
        stopping = keras.callbacks.EarlyStopping(
            "val_loss", min_delta=1e3, patience=2, restore_best_weights=True
        )
        told = []
        mine = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: told.append((epoch, sorted(logs)))
        )
        history = model.fit(
            *(X, Y),
            batch_size=32,
            epochs=9,
            validation_split=0.2,
            shuffle=False,
            callbacks=[stopping, keras.callbacks.ReduceLROnPlateau(patience=1), mine],
            **more,
        )
        return history, stopping, told

    there, here = a_model(), a_model()
    history, stopping, told = train(there, client=client)
    printed = capsys.readouterr().out
    expected, other, also_told = train(here, verbose=0)
    assert_close(history.history, expected.history)
    assert (history.epoch, told) == (expected.epoch, also_told)
    assert there.history is history
    assert (stopping.stopped_epoch, stopping.best_epoch) == (other.stopped_epoch, other.best_epoch)
    pairs = zip(
        [*there.weights, *there.optimizer.variables],
        [*here.weights, *here.optimizer.variables],
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-5)
    lines = printed.splitlines()
    assert lines[0] == "Epoch 1/9"
    assert lines[1].startswith("2/2 ━")
    assert "val_mae" in lines[1]
    assert [line for line in lines if "lepton" in line] == []

    version = client.models.get("regression")
    assert version.spec.format == "keras"
    assert sorted(version.spec.attributes["metrics"]) == sorted(history.history)
    (job,) = client.jobs.list(q=version.spec.lineage["job"])
    assert job.metadata.labels == {"kind": "training"}


def test_two_workers_train_as_one_and_go_on_after_one_was_killed(platform, client, capsys):
    killed = []

    def kill(epoch, logs):
        if epoch >= 2 and not killed:
            killed.extend(processes_of(client, worker=1))
            for each in killed:
                os.kill(each, signal.SIGKILL)

    def train(model, **more):
        how = {"epochs": 60, "batch_size": 32, "shuffle": False, "validation_data": (X[:1], Y[:1])}
        return model.fit(X, Y, **how, **more)

    there, here = a_model("killed"), a_model("killed")
    history = train(
        *(there,),
        client=client,
        num_workers=2,
        verbose=2,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=kill)],
    )
    assert killed
    assert "going on after epoch " in capsys.readouterr().out
    assert_close(history.history, train(here, verbose=0).history)
    assert history.epoch == [*range(60)]
    for a, b in zip(there.get_weights(), here.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)
    (job,) = client.jobs.list(q="killed")
    assert [past.exit_code for past in job.status.job_history] != []


def processes_of(client, worker: int) -> list[int]:
    """The Python of one worker of the newest job."""
    job = max(client.jobs.list(), key=lambda each: each.metadata.created_at)
    (replica,) = [r for r in client.jobs.replicas(job.metadata.id) if f"-{worker}-" in r.id]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"LEPTON_WORKER_ID={replica.id}".encode() in told and b"keras.worker" in command:
            found.append(int(process.name))
    return found


def test_two_workers_evaluate_and_predict_as_one(client, capsys):
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    hidden = keras.layers.Add()([inputs["a"], inputs["b"]])
    outputs = {"sum": keras.layers.Dense(1, name="sum")(hidden), "same": hidden}
    model = keras.Model(inputs, outputs)
    model.compile(
        "sgd",
        {"sum": "mse", "same": "mae"},
        metrics={"sum": ["mae", keras.metrics.R2Score()], "same": ["mse"]},
    )
    x, y = {"a": X, "b": X * X}, {"sum": Y, "same": X}
    more = {"client": client, "num_workers": 2, "verbose": 0}

    found = model.evaluate(x, y, batch_size=32, return_dict=True, **more)
    expected = model.evaluate(x, y, batch_size=32, return_dict=True, verbose=0)
    assert_close(found, expected)

    predicted = model.predict(x, **more)
    assert_close(predicted, model.predict(x, verbose=0))
    assert predicted["sum"].shape == (65, 1)
    assert capsys.readouterr().out == ""


def test_what_keras_refuses_in_the_job_is_told_and_not_tried_again(client):
    model = a_model("wrong")
    with pytest.raises(InvalidRequest) as refused:
        model.evaluate(X[:, :3], Y, client=client, verbose=0)
    assert "ValueError: " in refused.value.message
    (job,) = client.jobs.list(q="wrong")
    assert f"leptonai job log {job.metadata.id}" in refused.value.hint
    ended = client.jobs.wait(job.metadata.id, timeout_s=60)
    assert (ended.status.state in ("Stopped", "Failed"), ended.status.job_history) == (True, [])


def test_ctrl_c_stops_the_job_and_says_so(client, capsys):
    def interrupt(epoch, logs):
        raise KeyboardInterrupt

    model = a_model("endless")
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            *(X, Y),
            epochs=100_000,
            client=client,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=interrupt)],
        )
    (job,) = client.jobs.list(q="endless")
    assert capsys.readouterr().err == (
        f"stopped the job {job.metadata.id}; `leptonai job start {job.metadata.id}` lets it go on\n"
    )
    eventually(lambda: client.jobs.get(job.metadata.id).status.state, lambda s: s == "Stopped")
