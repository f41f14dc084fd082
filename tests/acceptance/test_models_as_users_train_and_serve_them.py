"""From data to a served model: a fit that runs as a job, a version, an endpoint, answers."""

import json
import os
import signal
import threading
import urllib.error
import urllib.request

import numpy as np
import polars as pl
import pytest
import torch

import leptonai as l
from leptonai.client.following import JobFailed
from leptonai.data.pipeline import Clean, Impute, OneHot, Scale, ToMatrix
from leptonai.testing.platform import RunningPlatform, eventually
from leptonai.training.models import GAN, MLP

ROWS = np.random.default_rng(0).normal(size=(96, 4)).astype(np.float32)
LABELS = (ROWS.sum(1) > 0).astype(np.int64)
RESOURCES = {"memory": 1024}


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("models") / "home") as running:
        yield running


@pytest.fixture
def client(platform, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(platform.home.path))
    with platform.client() as client:
        yield client


@pytest.fixture(autouse=True)
def one_thread():
    """As the workers have: more of them may add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_model(**options):
    torch.manual_seed(0)
    return MLP(4, 2, hidden=(8,), **options)


def test_a_fit_as_a_job_gives_what_it_gives_here_to_the_bit(client, capsys):
    here, there = a_model(dropout=0.1), a_model(dropout=0.1)
    options = {"validation_data": (ROWS[:20], LABELS[:20]), "schedule": "cosine", "seed": 3}
    expected = here.fit((ROWS, LABELS), 3, 16, quiet=True, **options)
    history = there.fit((ROWS, LABELS), 3, 16, client=client, resources=RESOURCES, **options)
    assert (history.epochs, history.steps) == (expected.epochs, expected.steps)
    for name, weight in here.state_dict().items():
        assert torch.equal(weight, there.state_dict()[name]), name
    assert not there.training
    assert "epoch 3/3" in capsys.readouterr().out


def test_a_table_becomes_a_version_that_two_workers_trained_and_an_endpoint_that_takes_rows(
    client, platform, tmp_path
):
    rng = np.random.default_rng(0)
    age, town = rng.integers(0, 99, 400), rng.choice(["Ulm", "Bonn"], 400)
    rich = np.where((age > 50) == (town == "Ulm"), "yes", "no")
    pl.DataFrame({"age": age, "town": town, "rich": rich}).write_csv(tmp_path / "people.csv")
    folder = l.Dataset.from_local(tmp_path / "people.csv")
    train, test = folder.split(train=0.8, test=0.2).values()
    steps = [Clean(), Impute(), Scale(), OneHot(), ToMatrix()]
    pipeline = l.Pipeline(steps, target="rich").fit(train)

    torch.manual_seed(0)
    model = MLP(len(pipeline.columns), 2, hidden=(16,))
    alone = MLP(len(pipeline.columns), 2, hidden=(16,))
    alone.load_state_dict(model.state_dict())
    options = {"validation_data": test, "pipeline": pipeline, "learning_rate": 1e-2}
    alone.fit(train, 20, 32, quiet=True, **options)
    history = model.fit(
        train, 20, 32, num_workers=2, client=client, resources=RESOURCES, register="rich", **options
    )
    for name, weight in alone.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=1e-3, atol=1e-4)
    assert history.last["val_accuracy"] >= 0.95
    assert model.classes == ("no", "yes")

    assert history.registered == "rich@1"
    version = platform.answer("model", "get", "rich", "-o", "json")["spec"]
    assert version["format"] == "torch-mlp"
    assert version["lineage"]["dataset"] == "people-csv@1"
    assert version["lineage"]["job"].startswith("fit-mlp-")
    assert version["lineage"]["run"] == client.runs.find(version["lineage"]["job"]).metadata.id
    assert version["attributes"]["metrics"] == history.last
    assert version["attributes"]["workers"] == 2
    assert version["attributes"]["signature"] == {
        "inputs": "rows",
        "columns": {"age": "integer", "town": "text"},
        "outputs": "labels",
        "classes": ["no", "yes"],
    }
    assert platform.cli("model", "alias", "rich@1", "production").stdout == "rich@1\n"
    listed = platform.cli("model", "list").stdout
    assert "people-csv@1" in listed
    assert "production" in listed

    created = ("endpoint", "create", "-n", "rich", "--model", "rich@production")
    url = platform.cli(*created, "--memory", "1GiB", "--wait").stdout.strip()
    rows = test.frame().collect()
    asked = rows.drop("rich").to_dicts()
    status, answer = ask(f"{url}/predict", {"inputs": asked}, platform.token)
    assert status == 200
    assert np.mean([a == b for a, b in zip(answer["labels"], rows["rich"], strict=True)]) >= 0.95
    np.testing.assert_allclose(
        answer["probabilities"],
        model.predict(l.DataLoader(test, 32, pipeline=pipeline)),
        atol=1e-6,
    )
    status, one = ask(f"{url}/predict", {"inputs": asked[0]}, platform.token)
    assert one["labels"] == answer["labels"][:1]
    wrong = {"inputs": [asked[0], {"age": "old", "town": "Ulm"}]}
    status, refused = ask(f"{url}/predict", wrong, platform.token)
    assert (status, refused["error"]) == (422, "row 1: 'age' is 'old', and not an integer")


def test_an_estimator_of_scikit_learn_is_registered_and_served_without_code(platform, tmp_path):
    skops = pytest.importorskip("skops.io", reason="needs the extra serve-models: skops")
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    people = pl.DataFrame({"age": rng.integers(0, 99, 200), "income": rng.normal(size=200)})
    estimator = LogisticRegression().fit(people, np.where(people["age"] > 50, "old", "young"))
    (tmp_path / "model").mkdir()
    skops.dump(estimator, tmp_path / "model" / "age.skops")
    made = platform.cli("model", "create", "-n", "age", str(tmp_path / "model")).stdout
    assert made == "age@1\n"
    assert platform.answer("model", "get", "age", "-o", "json")["spec"]["format"] == "scikit-learn"
    created = ("endpoint", "create", "-n", "age", "--model", "age", "--memory", "1GiB", "--wait")
    url = platform.cli(*created).stdout.strip()
    rows = [{"age": 90, "income": 0.5}, {"income": -1.0, "age": 3}]
    status, answer = ask(f"{url}/predict", {"inputs": rows}, platform.token)
    assert (status, answer["labels"]) == (200, ["old", "young"])
    platform.cli("endpoint", "remove", "age")


def test_a_job_that_fails_says_its_last_lines(client):
    poison = ROWS.copy()
    poison[50, 1] = np.nan  # not in the first batch that is looked at
    with pytest.raises(JobFailed, match="nan") as failed:
        a_model().fit((poison, LABELS), 2, 16, client=client, resources=RESOURCES, quiet=True)
    assert "leptonai job log fit-mlp-" in failed.value.hint
    assert "exited with code 78: another try would end the same" in failed.value.message


def test_a_gan_learns_as_a_job_of_two_workers(client):
    torch.manual_seed(0)
    model, before = GAN((8, 8, 1), 4, width=8), GAN((8, 8, 1), 4, width=8)
    before.load_state_dict(model.state_dict())
    images = np.random.default_rng(0).integers(0, 255, (16, 8, 8, 1)).astype(np.float32)
    history = model.fit(images, 2, 8, num_workers=2, client=client, resources=RESOURCES, quiet=True)
    assert (len(history.epochs), history.steps) == (2, 4)
    assert not torch.equal(model.sample(1), before.sample(1))


def ask(url, body, token):
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def test_an_interrupt_here_stops_the_job(client):
    def interrupt():
        eventually(lambda: client.jobs.list(status=["Running"]))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        a_model().fit((ROWS, LABELS), 1_000_000, 16, client=client, resources=RESOURCES, quiet=True)
    thread.join()
    eventually(
        lambda: [each.status.state for each in client.jobs.list()],
        lambda states: "Stopped" in states and "Running" not in states,
    )
