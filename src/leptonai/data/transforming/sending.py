"""Transforming as a job: every worker makes some of the chunks, and one commits them all."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.client.following import JobFailed, check_resources, follow
from leptonai.data.dataset import Dataset
from leptonai.data.pipeline.applying import WORKER_BYTES, Divided, parts_of
from leptonai.data.pipeline.pipeline import Pipeline
from leptonai.data.transforming.making import Tell, check_parts
from leptonai.data.transforming.portions import portions
from leptonai.data.transforming.shipping import Order, pack
from leptonai.data.version import Version
from leptonai.data.workspace import connected
from leptonai.errors import Internal, InvalidRequest
from leptonai.spec.containers import Container
from leptonai.spec.jobs import FINAL_EXIT_CODE, JobSpec, LeptonJob
from leptonai.spec.metadata import Metadata

if TYPE_CHECKING:
    from leptonai.client import LeptonClient

PROGRAM = ("python", "-m", "leptonai.data.transforming.worker")
MADE = "made"  # of the datasets of the job's run: the version that it committed
REFUSED = "refused"  # of its parameters: why no try can succeed
RETRIES = 2  # of a worker: it goes on with the chunks that it had not kept
GANG_RETRIES = 1  # of all, where a node is lost
PROGRAM_BYTES = 512 << 20  # that a worker takes beside its chunks
MIB = 1 << 20


def transform_in_job(
    source: Dataset,
    pipeline: Pipeline,
    name: str,
    *,
    shares: Mapping[str, float],
    seed: int,
    job_workers: int,
    threads: int,
    memory_limit_bytes: int | None,
    resources: Mapping[str, Any],
    client: "LeptonClient | None",
    tell: Tell,
) -> Dataset:
    """See `Dataset.transform`."""
    check_resources(resources)
    if job_workers < 1:
        raise InvalidRequest(f"{job_workers} workers make nothing", hint="job_workers=1 or more")
    if not isinstance(source.records, Version) or source.version is None:
        raise InvalidRequest(
            f"{source.name} is not in the workspace, where a job finds it",
            hint="commit it first: leptonai dataset create -n NAME SOURCE",
        )
    if source.chosen is not None:
        raise InvalidRequest(
            f"these are {len(source)} of the {len(source.records)} samples of {source.reference}",
            hint="transform the whole version, divided by shares",
        )
    parts = parts_of(source, shares, seed)
    check_parts(pipeline, parts)
    worth = max(1, len(portions(Divided(pipeline, parts).chunks)))
    if job_workers > worth:
        tell(f"as many workers as {source.reference} has chunks: {worth}")
    order = Order(
        name=name,
        source=source.reference,
        digest=source.digest,
        shares={**shares},
        seed=seed,
        threads=threads,
        memory_limit_bytes=memory_limit_bytes,
        steps=None,
    )
    with connected(client) as at:
        with tempfile.TemporaryDirectory(prefix="leptonai-transform-") as folder:
            pack(Path(folder), order, pipeline)
            workdir = at.trees.push(folder)
        asked = _job(order, min(job_workers, worth), workdir, resources)
        job = at.jobs.create(asked).metadata.id or ""
        tell(f"created {job}")

        def told(line: str) -> None:
            if line.startswith("error: ") and (refused := _refused(at, job)):
                raise refused
            tell(line)

        try:
            follow(at, job, told)
        except JobFailed as failed:
            raise _refused(at, job) or failed from None
        made = next((run.spec.datasets.get(MADE) for run in at.runs.list(job=job)), None)
        if made is None:
            raise Internal(
                f"the job {job} has completed, and does not say what it made",
                hint=f"leptonai job log {job}",
            )
        return Dataset.get(made, client=at)


def _refused(client: "LeptonClient", job: str) -> InvalidRequest | None:
    """What a worker says is wrong with what was asked, or with the data."""
    for run in client.runs.list(job=job):
        if why := run.spec.params.get(REFUSED):
            return InvalidRequest(str(why), hint=f"leptonai job log {job}")
    return None


def _job(order: Order, workers: int, workdir: str, resources: Mapping[str, Any]) -> LeptonJob:
    name = re.sub(r"[^a-z0-9]+", "-", f"transform-{order.name}".lower())[:36].strip("-")
    held_bytes = max(order.memory_limit_bytes or 0, WORKER_BYTES * order.threads)
    enough = {"cpu": order.threads, "memory": (PROGRAM_BYTES + held_bytes) // MIB}
    spec = JobSpec(
        container=Container(command=[*PROGRAM]),
        completions=workers,
        parallelism=workers,
        max_failure_retry=RETRIES,
        max_job_failure_retry=GANG_RETRIES,
        final_exit_codes=[FINAL_EXIT_CODE],
        include_workspace_token=True,
        workdir=workdir,
    )
    asked = resources if "resource_shape" in resources else {**enough, **resources}
    return LeptonJob(
        metadata=Metadata(id=name, name=name, labels={"kind": "transform"}),
        spec=msgspec.structs.replace(spec, **asked),
    )
