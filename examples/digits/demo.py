"""The platform's main job, on real data: a dataset, a training job, a model, an endpoint, answers.

Needs a running platform: `make demo` starts one first. By hand::

    leptonai up -d
    python examples/digits/demo.py
"""

import http.client
import json
import os
import secrets
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from leptonai.client import LeptonClient
from leptonai.data.digits import FORMAT, Digits
from leptonai.errors import LeptonError, NotFound
from leptonai.spec.artifacts import Artifact
from leptonai.spec.containers import Container, EnvVar
from leptonai.spec.endpoints import (
    ApiToken,
    EndpointSpec,
    Health,
    HttpProbe,
    LeptonDeployment,
    Readiness,
    ResourceRequirement,
)
from leptonai.spec.jobs import JobSpec, JobState, LeptonJob
from leptonai.spec.metadata import Metadata

sys.path.insert(0, str(Path(__file__).parent))
from display import Display, Step, best_display

NAME = "digits"  # of the dataset, the job, the model and the endpoint
WORKERS = 2
EPOCHS = 16
# All of it fits a machine of two cores, also when the endpoint of an earlier demo still runs there.
WORKER_CORES = 0.75
ENDPOINT_CORES = 0.4
MEMORY_MIB = 1024

START_TIMEOUT_S = 60
TRAIN_TIMEOUT_S = 180
READY_TIMEOUT_S = 60
ROUTE_TIMEOUT_S = 15  # for the gateway to hear of the endpoint
REQUEST_TIMEOUT_S = 30
POLL_S = 0.1
BATCH = 64
GOOD_ACCURACY = 0.97
SHOWN_LOG_LINES = 15


class DemoError(Exception):
    """What went wrong, with what to do next in its last line."""


def main() -> int:
    display = best_display()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            client = LeptonClient()
            dataset_directory = Path(scratch) / "dataset"
            dataset = register_dataset(client, dataset_directory, display)
            job = train(client, dataset, display)
            model = find_model(client, job)
            endpoint = deploy(client, model, display)
            held_out = held_out_digits(client, model, dataset, dataset_directory, Path(scratch))
            results = examine(endpoint, held_out, display)
            report(results, endpoint, job, held_out)
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


# --- the dataset ---------------------------------------------------------------------------------


def register_dataset(client: LeptonClient, directory: Path, display: Display) -> Artifact:
    with display.step("Register the handwritten digits") as step:
        digits = Digits.load()
        digits.write(directory)
        dataset = client.datasets.push(
            NAME, directory, format=FORMAT, attributes=digits.description()
        )
        step.say(f"{reference(dataset)}: {len(digits.ids)} images, {dataset.spec.digest}")
    return dataset


# --- the training job ----------------------------------------------------------------------------


def train(client: LeptonClient, dataset: Artifact, display: Display) -> LeptonJob:
    """Run train.py on `WORKERS` workers, show what it prints, and return the completed job."""
    with display.step(f"Train a CNN on {WORKERS} workers") as step:
        command = ["python", "train.py", "--dataset", reference(dataset), "--push", NAME]
        command += ["--epochs", str(EPOCHS)]
        job = client.jobs.create(
            LeptonJob(
                metadata=Metadata(name=NAME),
                spec=JobSpec(
                    container=Container(command=command),
                    completions=WORKERS,
                    parallelism=WORKERS,
                    cpu=WORKER_CORES,
                    memory=MEMORY_MIB,
                    envs=[EnvVar(name="OMP_NUM_THREADS", value="1")],
                    workdir=client.trees.push(Path(__file__).parent),
                    include_workspace_token=True,
                ),
            )
        )
        step.say(f"job {job_id(job)}")
        first_worker = wait_for_first_worker(client, job, step)
        if first_worker:
            show_log(client, job, first_worker, step)
        job = client.jobs.wait(job_id(job), timeout_s=TRAIN_TIMEOUT_S)
        if job.status is None or job.status.state is not JobState.COMPLETED:
            raise DemoError(why_it_failed(client, job))
    return job


def wait_for_first_worker(client: LeptonClient, job: LeptonJob, step: Step) -> str | None:
    """The id of the replica of rank 0, once it runs; None if the job ended before."""
    give_up = time.monotonic() + START_TIMEOUT_S
    told = ""
    while time.monotonic() < give_up:
        for replica in client.jobs.replicas(job_id(job)):
            started = replica.status is not None and replica.status.started_at is not None
            if started and replica.id.startswith(f"{job_id(job)}-0-"):
                return replica.id
        status = client.jobs.get(job_id(job)).status
        if status and status.state in (JobState.COMPLETED, JobState.FAILED, JobState.STOPPED):
            return None
        if status and status.message and status.message != told:
            told = status.message
            step.say(told)
        time.sleep(POLL_S)
    raise DemoError(
        f"job {job_id(job)} did not start within {START_TIMEOUT_S} s: {told or 'no reason given'}\n"
        f"ask why: {leptonai()} job why {job_id(job)}"
    )


def show_log(client: LeptonClient, job: LeptonJob, replica: str, step: Step) -> None:
    """Pass on the lines of the log as they come; the metrics among them move the progress bar."""
    for line in client.jobs.log(job_id(job), replica, follow=True):
        if not line.startswith("metric "):
            step.say(line)
            continue
        point = json.loads(line.removeprefix("metric "))
        if point["key"] == "held_out_accuracy":
            step.progress(point["step"], EPOCHS, f"accuracy {point['value']:.4f}")


def why_it_failed(client: LeptonClient, job: LeptonJob) -> str:
    """The platform's reason, the end of each worker's log, and what to do."""
    status = job.status
    lines = [f"job {job_id(job)} ended as {status.state if status else 'unknown'}"]
    if status and status.message:
        lines[0] += f": {status.message}"
    for replica in client.jobs.replicas(job_id(job)):
        lines.append(f"--- the end of the log of {replica.id}")
        try:
            log = [*client.jobs.log(job_id(job), replica.id, follow=False)]
        except LeptonError as error:
            log = [f"there is none: {error}"]
        lines += [f"    {line}" for line in log[-SHOWN_LOG_LINES:]]
    lines.append(f"the whole log: {leptonai()} job log {job_id(job)}")
    return "\n".join(lines)


def find_model(client: LeptonClient, job: LeptonJob) -> Artifact:
    """What the job registered."""
    made = [
        model
        for model in client.models.list()
        if model.metadata.name == NAME and model.spec.lineage.get("job") == job_id(job)
    ]
    if not made:
        raise DemoError(
            f"job {job_id(job)} completed, but registered no model\n"
            f"see its log: {leptonai()} job log {job_id(job)}"
        )
    return max(made, key=lambda model: model.metadata.version or 0)


# --- the endpoint --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    url: str  # without a slash at its end
    token: str
    token_file: Path


def deploy(client: LeptonClient, model: Artifact, display: Display) -> Endpoint:
    """Serve the model behind the gateway, with a token of its own made now."""
    with display.step(f"Deploy {reference(model)} as an endpoint") as step:
        token = secrets.token_urlsafe(32)
        spec = EndpointSpec(
            model=reference(model),
            resource_requirement=ResourceRequirement(
                cpu=ENDPOINT_CORES, memory=MEMORY_MIB, min_replicas=1, max_replicas=1
            ),
            api_tokens=[ApiToken(value=token)],
            health=Health(readiness=Readiness(http=HttpProbe(path="/healthz"))),
        )
        try:
            client.endpoints.get(NAME)
        except NotFound:
            client.endpoints.create(LeptonDeployment(metadata=Metadata(name=NAME), spec=spec))
        else:
            step.say("it is there already: its replicas are replaced one by one")
            client.endpoints.update(NAME, {"spec": msgspec.to_builtins(spec)})
        status = client.endpoints.wait_ready(NAME, timeout_s=READY_TIMEOUT_S).status
        if status is None:
            raise DemoError(f"the platform does not say where the endpoint {NAME} is")
        endpoint = Endpoint(
            url=status.endpoint.external_endpoint.rstrip("/"),
            token=token,
            token_file=keep("digits-endpoint.token", token),
        )
        wait_for_route(endpoint)
        step.say(endpoint.url)
    return endpoint


def wait_for_route(endpoint: Endpoint) -> None:
    """The control plane says ready; the gateway hears of it, and of the token, a moment later."""
    give_up = time.monotonic() + ROUTE_TIMEOUT_S
    while True:
        with Caller(endpoint) as caller:
            status, body = caller.ask("GET", "/healthz")
        if status == 200:
            return
        if time.monotonic() > give_up:
            raise DemoError(
                f"the endpoint is ready, but the gateway answers {status}: {body.decode()}\n"
                f"see {leptonai()} status"
            )
        time.sleep(POLL_S)


class Caller:
    """A connection to the endpoint, kept open from request to request."""

    def __init__(self, endpoint: Endpoint) -> None:
        parts = urlsplit(endpoint.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = kind(parts.netloc, timeout=REQUEST_TIMEOUT_S)
        self._prefix = parts.path
        self._headers = {
            "Authorization": f"Bearer {endpoint.token}",
            "Content-Type": "application/json",
        }

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        try:
            self._connection.request(method, self._prefix + path, body, self._headers)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise DemoError(
                f"the gateway does not answer: {error!r}\nsee {leptonai()} status"
            ) from error

    def predict(self, images: Any) -> list[str]:
        status, body = self.ask("POST", "/predict", question(images))
        if status != 200:
            raise DemoError(
                f"the endpoint answered {status}: {body.decode()}\n"
                f"see {leptonai()} endpoint log {NAME}"
            )
        labels: list[str] = json.loads(body)["labels"]
        return labels


def question(images: Any) -> bytes:
    return json.dumps({"inputs": images.tolist()}, separators=(",", ":")).encode()


# --- the examination -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    accuracy: float
    latencies_ms: list[float]  # of each single request, ascending


def held_out_digits(
    client: LeptonClient, model: Artifact, dataset: Artifact, directory: Path, scratch: Path
) -> Digits:
    """The images that the model's manifest excludes from training, and nothing else."""
    client.models.download(reference(model), scratch / "model")
    manifest = json.loads((scratch / "model" / "manifest.json").read_bytes())
    if manifest["dataset"].get("digest") != dataset.spec.digest:
        raise DemoError(f"{reference(model)} was trained on another dataset: {manifest['dataset']}")
    overlap = set(manifest["train_ids"]) & set(manifest["held_out_ids"])
    if overlap:
        raise DemoError(f"{reference(model)} has seen held-out images: {sorted(overlap)}")
    return Digits.read(directory).only(manifest["held_out_ids"])


def examine(endpoint: Endpoint, held_out: Digits, display: Display) -> Results:
    """Ask for each image alone, then for all in batches; both must give the same answers, but for
    the rounding of a score or two."""
    with display.step("Send the held-out images over HTTP") as step, Caller(endpoint) as caller:
        count = len(held_out.ids)
        single: list[str] = []
        latencies_ms: list[float] = []
        for index, image in enumerate(held_out.images):
            began = time.perf_counter()
            single += caller.predict(image[None])
            latencies_ms.append(1e3 * (time.perf_counter() - began))
            if (index + 1) % BATCH == 0 or index + 1 == count:
                step.progress(index + 1, count, "one by one")
        batched: list[str] = []
        for start in range(0, count, BATCH):
            batched += caller.predict(held_out.images[start : start + BATCH])
        differing = sum(alone != among for alone, among in zip(single, batched, strict=True))
        if differing > count // 100:
            raise DemoError(f"{differing} of {count} images are answered differently in a batch")
        step.say(f"{count} images, each alone and in batches of {BATCH}")
    right = sum(said == str(label) for said, label in zip(single, held_out.labels, strict=True))
    return Results(accuracy=right / count, latencies_ms=sorted(latencies_ms))


# --- what is printed at the end ------------------------------------------------------------------


def report(results: Results, endpoint: Endpoint, job: LeptonJob, held_out: Digits) -> None:
    p50 = statistics.median(results.latencies_ms)
    p99 = results.latencies_ms[int(0.99 * (len(results.latencies_ms) - 1))]
    example = keep("digits-example.json", question(held_out.images[:1]).decode())
    token_file, example_file = shlex.quote(str(endpoint.token_file)), shlex.quote(str(example))
    print(
        f"""
held-out accuracy: {results.accuracy:.4f}
latency seen by the client: p50 {p50:.2f} ms, p99 {p99:.2f} ms

endpoint: {endpoint.url}
its token: {endpoint.token_file}

Try next:
  curl -H "Authorization: Bearer $(cat {token_file})" -d @{example_file} {endpoint.url}/predict
  {leptonai()} job log {job_id(job)}
  {leptonai()} endpoint get {NAME}

The platform goes on running. Stop it, and all that runs on it:
  {leptonai()} down"""
    )


def keep(name: str, text: str) -> Path:
    """Write a file beside the platform's own that only its owner can read."""
    home = Path(os.environ.get("LEPTON_HOME") or "~/.leptonai").expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    path = home / name
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)
    return path


def leptonai() -> str:
    """How this user calls the command that reaches this platform."""
    beside = Path(sys.executable).with_name("leptonai")
    command = "leptonai" if shutil.which("leptonai") or not beside.exists() else str(beside)
    home = os.environ.get("LEPTON_HOME")
    prefix = f"LEPTON_HOME={shlex.quote(home)} " if home else ""
    return prefix + shlex.quote(command)


def job_id(job: LeptonJob) -> str:
    assert job.metadata.id, "the platform gives every job an id"
    return job.metadata.id


def reference(artifact: Artifact) -> str:
    return f"{artifact.metadata.name}@{artifact.metadata.version}"


if __name__ == "__main__":
    sys.exit(main())
