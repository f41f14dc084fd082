"""`model.fit(…, client=client)`: the same training as a job, followed from here to its end."""

import contextlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.errors import Conflict, Internal, InvalidRequest, LeptonError
from leptonai.spec.containers import Container
from leptonai.spec.jobs import JobSpec, JobState, LeptonJob
from leptonai.spec.metadata import Metadata
from leptonai.training.history import History
from leptonai.training.models import shipping
from leptonai.training.models.saving import load_model

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.replicas import Replica
    from leptonai.training.models.base import Model

PROGRAM = ("python", "-m", "leptonai.training.models.worker")
RESULT = "fit"  # the artifact of the job's run that holds the trained model and its history
HISTORY_FILE = "history.json"
RETRIES = 3  # of the gang: each goes on from the last checkpoint
LOOK_S = 0.1  # between two looks at a job that is not running
SHOWN_LINES = 15  # of a failed worker's log
SHOWN_WORKERS = 4
MAX_HISTORY_BYTES = 256 << 20
RESOURCES = ("cpu", "memory", "accelerator_num", "accelerator_type", "resource_shape")
ENDED = (JobState.COMPLETED, JobState.FAILED, JobState.STOPPED, JobState.ARCHIVED)


class JobFailed(Conflict):
    """The training's job has ended otherwise than well; the message ends with its last lines."""

    code = "JobFailed"


def fit_in_job(
    model: "Model",
    data: Any,
    *,
    validation: Any,
    pipeline: Any,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    options: Mapping[str, Any],
    workers: int,
    resources: Mapping[str, Any],
    client: "LeptonClient",
) -> History:
    """Ship, run, follow, and take over what was learnt.

    Raises:
        InvalidRequest: something cannot be sent to a job; says what.
        JobFailed: the job has failed, or was stopped.
    """
    if unknown := {*resources} - {*RESOURCES}:
        raise InvalidRequest(
            f"there is no resource {min(unknown)}", hint=f"there are {', '.join(RESOURCES)}"
        )
    shipping.check_can_be_sent(model, data, validation, pipeline, options)
    quiet = bool(options.get("quiet"))
    with tempfile.TemporaryDirectory(prefix="lepton-fit-") as scratch:
        shipping.pack(
            Path(scratch),
            model,
            data,
            validation=validation,
            pipeline=pipeline,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            options={**options, "quiet": False},  # whoever looks at the job's log wants to see it
            client=client,
        )
        workdir = client.trees.push(scratch)
    created = client.jobs.create(_job(model, workers, workdir, resources))
    job = created.metadata.id or ""
    try:
        for line in _lines(client, job):
            if not quiet:
                print(line, flush=True)
        _check_success(client, client.jobs.wait(job))
        return _take_over(model, client, job)
    except KeyboardInterrupt:
        with contextlib.suppress(LeptonError):
            client.jobs.stop(job)
        print(f"stopped {job}; it goes on with: leptonai job start {job}", flush=True)
        raise


def _job(model: "Model", workers: int, workdir: str, resources: Mapping[str, Any]) -> LeptonJob:
    name = re.sub(r"[^a-z0-9]+", "-", f"fit-{type(model).__name__}".lower()).strip("-")
    spec = JobSpec(
        container=Container(command=[*PROGRAM]),
        completions=workers,
        parallelism=workers,
        intra_job_communication=workers > 1,
        max_job_failure_retry=RETRIES,
        include_workspace_token=True,
        workdir=workdir,
    )
    labels = {"kind": "training"}
    return LeptonJob(
        metadata=Metadata(id=name, name=name, labels=labels),
        spec=msgspec.structs.replace(spec, **resources),
    )


def _lines(client: "LeptonClient", job: str) -> Iterator[str]:
    """What the first worker writes, over all its tries, until the job has ended; and before it
    runs, what it waits for."""
    shown: set[str] = set()
    told = ""
    while True:
        found = client.jobs.get(job)
        first = _first_worker(client, job, shown)
        if first is not None:
            yield from client.jobs.log(job, first.id)
            shown.add(first.id)
            continue
        if found.status is None or found.status.state in ENDED:
            return
        if found.status.message and found.status.message != told and not shown:
            told = found.status.message
            yield f"{job}: {told}"
        time.sleep(LOOK_S)


def _first_worker(client: "LeptonClient", job: str, shown: set[str]) -> "Replica | None":
    for each in client.jobs.replicas(job):
        begun = each.status is not None and each.status.state not in ("Waiting", "Placed")
        if begun and each.id not in shown and each.id.startswith(f"{job}-0-"):
            return each
    return None


def _check_success(client: "LeptonClient", ended: LeptonJob) -> None:
    job, status = ended.metadata.id or "", ended.status
    if status is not None and status.state is JobState.COMPLETED:
        return
    told = [f"the job {job} is {status.state if status else 'gone'}"]
    if status and status.message:
        told[0] += f": {status.message}"
    for replica in [*client.jobs.replicas(job)][:SHOWN_WORKERS]:
        try:
            log = [*client.jobs.log(job, replica.id, follow=False)]
        except LeptonError:
            continue
        if log:
            told.append(f"--- {replica.id}")
            told += log[-SHOWN_LINES:]
    raise JobFailed("\n".join(told), hint=f"leptonai job log {job}")


def _take_over(model: "Model", client: "LeptonClient", job: str) -> History:
    """The weights, into the model; the history, to be returned."""
    runs = client.runs.list(job=job)
    result = runs[0].spec.artifacts.get(RESULT) if runs else None
    if result is None:
        raise Internal(
            f"the job {job} has completed, but kept nothing with its run",
            hint=f"leptonai job log {job}",
        )
    with tempfile.TemporaryDirectory(prefix="lepton-fit-") as scratch:
        client.trees.pull(result.digest, scratch)
        trained = load_model(Path(scratch) / shipping.MODEL_DIRECTORY)
        model.load_state_dict(trained.state_dict())
        model.classes = trained.classes
        with (Path(scratch) / HISTORY_FILE).open("rb") as file:
            history = msgspec.json.decode(file.read(MAX_HISTORY_BYTES), type=History)
    model.eval()
    return history
