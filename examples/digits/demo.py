"""The platform's main job, on real data: a dataset, a training job, a model, an endpoint, answers.

Needs a running platform: `make demo` starts one first. By hand::

    leptonai up -d
    python examples/digits/demo.py

All but the questions at the end is done by the commands that it shows.
"""

import base64
import http.client
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import leptonai as l
from leptonai.client import LeptonClient
from leptonai.data.digits import MAX_PIXEL, Digits
from leptonai.data.pipeline.pipeline import Pipeline
from leptonai.errors import LeptonError, NotFound

NAME = "digits"  # of the dataset, the job, the model and the endpoint
SCRIPT = Path(__file__).with_name("train.py")
WORKERS = 2
# All of it fits a machine of two cores, also when the endpoint of an earlier demo still runs there.
WORKER_CORES = "0.75"
ENDPOINT_CORES = "0.4"
MEMORY = "1GiB"

READY_TIMEOUT_S = 60
ROUTE_TIMEOUT_S = 15  # for the gateway to hear of the endpoint
REQUEST_TIMEOUT_S = 30
POLL_S = 0.1
BATCH = 64
GOOD_ACCURACY = 0.97


class DemoError(Exception):
    """What went wrong, with what to do next in its last line."""


def main() -> int:
    try:
        with tempfile.TemporaryDirectory() as scratch, LeptonClient() as client:
            dataset = register_dataset(client, Path(scratch) / NAME)
            train(dataset)
            model = choose_model(client, dataset)
            url = deploy(client)
            results = examine(Caller(client, url), held_out(client, model, dataset, Path(scratch)))
        report(results, url)
    except (LeptonError, DemoError) as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, LeptonError) and error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the platform and what it was asked to do go on", file=sys.stderr)
        return 130
    if results.accuracy < GOOD_ACCURACY:
        print(f"error: that is less than the expected {GOOD_ACCURACY}", file=sys.stderr)
        return 1
    return 0


# --- from data to an endpoint ---------------------------------------------------------------------


def register_dataset(client: LeptonClient, folder: Path) -> str:
    """The handwritten digits as image files, a folder for each class; NAME@VERSION."""
    from PIL import Image

    with step("Register the handwritten digits, image files in a folder for each class"):
        digits = Digits.load()
        for image, label, number in zip(digits.images, digits.labels, digits.ids, strict=True):
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            pixels = image * (255 // MAX_PIXEL)
            Image.fromarray(pixels).save(folder / str(label) / f"{number:04}.png")
        leptonai("dataset", "create", "--name", NAME, "--type", "image classification", str(folder))
        return client.datasets.get(NAME).reference


def train(dataset: str) -> None:
    with step(f"Train a CNN on {WORKERS} workers"):
        workers = ["-n", NAME, "--num-workers", str(WORKERS), "--cpu", WORKER_CORES]
        workers += ["--memory", MEMORY, "--dataset", dataset, "--follow"]
        leptonai("train", *workers, str(SCRIPT), "--", "--register", NAME)


def choose_model(client: LeptonClient, dataset: str) -> str:
    """What the job registered becomes the one in production."""
    with step("Put the model into production"):
        model = client.models.get(NAME)
        if model.spec.lineage.get("dataset") != dataset:
            raise DemoError(
                f"{model.reference} is not of {dataset}\nsee {command()} model get {NAME}"
            )
        leptonai("model", "alias", model.reference, "production")
        return model.reference


def deploy(client: LeptonClient) -> str:
    """Serve it behind the gateway; the URL, without a slash at its end."""
    with step("Deploy it as an endpoint"):
        model = ["--model", f"{NAME}@production"]
        try:
            client.endpoints.get(NAME)
        except NotFound:
            resources = ["--cpu", ENDPOINT_CORES, "--memory", MEMORY]
            leptonai("endpoint", "create", "-n", NAME, *model, *resources, "--wait")
        else:
            leptonai("endpoint", "update", NAME, *model)
        status = client.endpoints.wait_ready(NAME, timeout_s=READY_TIMEOUT_S).status
        if status is None:
            raise DemoError(f"the platform does not say where the endpoint {NAME} is")
        return status.endpoint.external_endpoint.rstrip("/")


# --- the examination ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    accuracy: float
    latencies_ms: list[float]  # of each single request, ascending


class Caller:
    """A connection to the endpoint, kept open from request to request."""

    def __init__(self, client: LeptonClient, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=REQUEST_TIMEOUT_S)
        self._prefix = parts.path
        self._headers = {"Authorization": f"Bearer {client.connection.token}"}

    def predict(self, path: str, body: bytes) -> list[str]:
        """The control plane says ready, and the gateway hears of it a moment later."""
        give_up = time.monotonic() + ROUTE_TIMEOUT_S
        while True:
            try:
                self._connection.request("POST", self._prefix + path, body, self._headers)
                answer = self._connection.getresponse()
                told = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise DemoError(
                    f"the gateway does not answer: {error!r}\nsee {command()} status"
                ) from error
            if answer.status == 200:
                labels: list[str] = json.loads(told)["labels"]
                return labels
            if answer.status not in (401, 404, 503) or time.monotonic() > give_up:
                raise DemoError(
                    f"the endpoint answered {answer.status}: {told.decode()}\n"
                    f"see {command()} endpoint log {NAME}"
                )
            time.sleep(POLL_S)


def held_out(client: LeptonClient, model: str, dataset: str, scratch: Path) -> l.Dataset:
    """The images that the model has not learnt from, as its pipeline remembers."""
    client.models.download(model, scratch / "model")
    samples = l.Dataset.get(dataset, client=client)
    unseen = samples.split(train=0.8, test=0.2, stratify=True)["test"]
    Pipeline.load(scratch / "model" / "pipeline.safetensors").check_unseen(unseen)
    return unseen


def examine(caller: Caller, unseen: l.Dataset) -> Results:
    """Send each image file alone, then all in batches; both must give the same answers, but for
    the rounding of a score or two."""
    with step(f"Send the {len(unseen)} held-out images over HTTP"):
        files = [bytes(data) for data in unseen.read(range(len(unseen)))]
        single: list[str] = []
        latencies_ms: list[float] = []
        for file in files:
            began = time.perf_counter()
            single += caller.predict("/predict/file", file)
            latencies_ms.append(1e3 * (time.perf_counter() - began))
        batched: list[str] = []
        for start in range(0, len(files), BATCH):
            inputs = [base64.b64encode(file).decode() for file in files[start : start + BATCH]]
            batched += caller.predict("/predict", json.dumps({"inputs": inputs}).encode())
        differing = sum(alone != among for alone, among in zip(single, batched, strict=True))
        if differing > len(files) // 100:
            raise DemoError(f"{differing} of {len(files)} images are answered otherwise in a batch")
    labels = unseen.labels
    assert labels is not None
    right = sum(
        said == unseen.classes[label] for said, label in zip(single, labels.tolist(), strict=True)
    )
    return Results(accuracy=right / len(files), latencies_ms=sorted(latencies_ms))


def report(results: Results, url: str) -> None:
    p50 = statistics.median(results.latencies_ms)
    p99 = results.latencies_ms[int(0.99 * (len(results.latencies_ms) - 1))]
    leptonai("run", "plot", NAME, "-k", "loss")
    print(
        f"""
held-out accuracy: {results.accuracy:.4f}
latency seen by the client: p50 {p50:.2f} ms, p99 {p99:.2f} ms

endpoint: {url}

Try next:
  {command()} dataset download {NAME} /tmp/{NAME}
  curl -H "Authorization: Bearer $({command()} token show)" \\
      --data-binary @/tmp/{NAME}/7/0007.png {url}/predict/file
  {command()} model get {NAME}@production
  {command()} run get {NAME}

The platform goes on running. Stop it, and all that runs on it:
  {command()} down"""
    )


# --- what is printed ------------------------------------------------------------------------------


@contextmanager
def step(title: str) -> Iterator[None]:
    print(f"{title} …", flush=True)
    began = time.monotonic()
    yield
    print(f"  done in {time.monotonic() - began:.1f} s", flush=True)


def leptonai(*arguments: str) -> None:
    """Show a command and run it."""
    print(f"  $ leptonai {shlex.join(arguments)}", flush=True)
    running = subprocess.Popen(
        [sys.executable, "-m", "leptonai.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert running.stdout is not None
    for line in running.stdout:
        print(f"  {line}", end="", flush=True)
    if running.wait():
        raise DemoError(f"this command failed: {command()} {shlex.join(arguments)}")


def command() -> str:
    """How this user calls the command that reaches this platform."""
    beside = Path(sys.executable).with_name("leptonai")
    program = "leptonai" if shutil.which("leptonai") or not beside.exists() else str(beside)
    home = os.environ.get("LEPTON_HOME")
    return (f"LEPTON_HOME={shlex.quote(home)} " if home else "") + shlex.quote(program)


if __name__ == "__main__":
    sys.exit(main())
