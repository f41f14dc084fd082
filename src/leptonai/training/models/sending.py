"""`model.fit(…, client=client)`: the same training as a job, followed from here to its end."""

import re
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.client.following import check_resources, follow
from leptonai.errors import Internal
from leptonai.spec.containers import Container
from leptonai.spec.jobs import FINAL_EXIT_CODE, JobSpec, LeptonJob
from leptonai.spec.metadata import Metadata
from leptonai.training.history import History
from leptonai.training.models import shipping
from leptonai.training.models.saving import load_model

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.training.models.base import Model

PROGRAM = ("python", "-m", "leptonai.training.models.worker")
RESULT = "fit"  # the artifact of the job's run that holds the trained model and its history
HISTORY_FILE = "history.json"
RETRIES = 3  # of the gang: each goes on from the last checkpoint
MAX_HISTORY_BYTES = 256 << 20


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
    check_resources(resources)
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
    follow(client, job, partial(print, flush=True) if not quiet else lambda line: None)
    return _take_over(model, client, job)


def _job(model: "Model", workers: int, workdir: str, resources: Mapping[str, Any]) -> LeptonJob:
    name = re.sub(r"[^a-z0-9]+", "-", f"fit-{type(model).__name__}".lower()).strip("-")
    spec = JobSpec(
        container=Container(command=[*PROGRAM]),
        completions=workers,
        parallelism=workers,
        intra_job_communication=workers > 1,
        max_job_failure_retry=RETRIES,
        final_exit_codes=[FINAL_EXIT_CODE],
        include_workspace_token=True,
        workdir=workdir,
    )
    labels = {"kind": "training"}
    return LeptonJob(
        metadata=Metadata(id=name, name=name, labels=labels),
        spec=msgspec.structs.replace(spec, **resources),
    )


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
