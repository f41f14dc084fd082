"""Jobs: submitted, stopped, started again, deleted."""

import secrets
from typing import Any

import msgspec
from msgspec.structs import replace

from leptonai.control.actions.artifacts import find_artifact
from leptonai.control.actions.committing import (
    insisting,
    put,
    put_new,
    remove,
    with_metadata,
)
from leptonai.control.actions.finding import known_to, with_key
from leptonai.control.requests import checked_job, name_and_labels
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.finetuning import can_learn, registered
from leptonai.core.lifecycle import job as job_lifecycle
from leptonai.core.lifecycle.step import Step
from leptonai.core.records import Dataset, Job, Model
from leptonai.errors import AlreadyExists, Conflict, InvalidRequest, Unavailable
from leptonai.security.permissions import may_see, require
from leptonai.spec import codec
from leptonai.spec.artifacts import ArtifactSpec
from leptonai.spec.explanations import Explanation
from leptonai.spec.jobs import JobSpec, JobState, LeptonJob

ID_TRIES = 16  # of a random id that is taken
ID_SUFFIX_CHARS = 4
ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
MAX_IDEMPOTENCY_KEY_CHARS = 255


async def submit_job(
    world: World, principal: Principal, workspace: str, asked: LeptonJob, idempotency_key: str = ""
) -> Job:
    """Accept a job: it and its waiting workers are on disk when this returns.

    The same idempotency key of the same principal gives the same job, however often it is sent.
    """
    require(principal, Action.CREATE, Resource(kind="job", workspace=workspace))
    name, _ = name_and_labels(asked.metadata, "job")
    if len(idempotency_key) > MAX_IDEMPOTENCY_KEY_CHARS:
        raise InvalidRequest(
            "the Idempotency-Key is too long",
            hint=f"Use at most {MAX_IDEMPOTENCY_KEY_CHARS} characters.",
        )
    unique_key = f"{principal.name}/{idempotency_key}" if idempotency_key else ""
    if unique_key:
        earlier = await _job_with_key(world, workspace, unique_key, name)
        if earlier is not None:
            return earlier
    spec = await _checked(world, principal, workspace, asked.spec)
    admitted = False
    for _ in range(ID_TRIES):
        step = _first_step(world, principal, workspace, asked, spec, unique_key)
        if not admitted:
            await world.advice.admit(step.owner, step.replicas)
            admitted = True
        try:
            return await put_new(world, step)
        except AlreadyExists:
            if unique_key:
                earlier = await _job_with_key(world, workspace, unique_key, name)
                if earlier is not None:
                    return earlier
    raise Unavailable(
        f"no free id was found for a job named {name!r}", hint="Send it again, or rename it."
    )


async def foresee_job(
    world: World, principal: Principal, workspace: str, asked: LeptonJob
) -> tuple[Job, Explanation]:
    """The job as it would be accepted, and what would become of it. Nothing is written.

    A hard deadline that could not be promised is refused here, too.
    """
    require(principal, Action.CREATE, Resource(kind="job", workspace=workspace))
    name_and_labels(asked.metadata, "job")
    spec = await _checked(world, principal, workspace, asked.spec)
    step = _first_step(world, principal, workspace, asked, spec)
    explanation = await world.advice.foresee(step.owner, step.replicas, may_see(principal))
    return step.owner, explanation


async def _checked(world: World, principal: Principal, workspace: str, spec: JobSpec) -> JobSpec:
    """As `checked_job`; and what a fine-tuning learns from is there."""
    spec = await checked_job(world, principal, workspace, spec)
    if spec.trainer is None:
        return spec
    models, datasets = registered(spec)
    for reference in models:
        model = await find_artifact(world, principal, workspace, Model, reference)
        if can_learn(model.spec) is False:
            raise InvalidRequest(
                f"spec.trainer.train_config.model_uri: {model.id} is no causal language model of "
                f"transformers, but {_kind_of(model.spec)}",
                hint="GET /finetune/supported-models lists those that can learn.",
            )
    for reference in datasets:
        await find_artifact(world, principal, workspace, Dataset, reference)
    return spec


def _kind_of(model: ArtifactSpec) -> str:
    named = model.attributes.get("architectures")
    return ", ".join(map(str, named))[:200] if isinstance(named, list) else model.format[:60]


def _first_step(
    world: World,
    principal: Principal,
    workspace: str,
    asked: LeptonJob,
    spec: JobSpec,
    unique_key: str = "",
) -> Step[Job]:
    """A new job, under an id that is likely to be free, and its workers."""
    name, labels = name_and_labels(asked.metadata, "job")
    now_ms = world.clock.now_ms()
    drawn = secrets.token_bytes(ID_SUFFIX_CHARS)
    suffix = "".join(ID_ALPHABET[byte % len(ID_ALPHABET)] for byte in drawn)
    job = job_lifecycle.new_job(
        workspace=workspace,
        id=f"{name}-{suffix}",
        name=name,
        spec=spec,
        owner=principal.name,
        labels=labels,
        visibility=asked.metadata.visibility or "",
        now_ms=now_ms,
        idempotency_key=unique_key,
    )
    return job_lifecycle.advance(job, (), now_ms)


async def patch_job(
    world: World, principal: Principal, workspace: str, id: str, patch: dict[str, Any]
) -> Job:
    """Stop it, start it again, or change its labels and visibility: nothing else can change."""

    async def change() -> Job:
        job = await find_job(world, principal, workspace, id)
        require(principal, Action.UPDATE, job)
        spec = _patched_spec(job, patch)
        changed = replace(with_metadata(job, patch), spec=spec)
        wants_start = (patch.get("spec") or {}).get("stopped") is False or (
            job.spec.stopped is True and spec.stopped is not True
        )
        if wants_start and job.finished and job.state is not JobState.STOPPED:
            raise Conflict(
                f"job {id} has ended as {job.state.value}, and only stopped jobs start again",
                hint="Submit it anew.",
            )
        if changed == job:
            return job
        return await put(world, replace(changed, modified_at_ms=world.clock.now_ms()))

    return await insisting(change)


async def delete_job(world: World, principal: Principal, workspace: str, id: str) -> Job:
    """Forget it at once; whatever still runs of it is stopped."""

    async def change() -> Job:
        job = await find_job(world, principal, workspace, id)
        require(principal, Action.DELETE, job)
        await remove(world, job, f"deleted by {principal.name}")
        return job

    return await insisting(change)


async def find_job(world: World, principal: Principal, workspace: str, id: str) -> Job:
    return known_to(
        principal,
        await world.store.get(Job, workspace, id),
        f"there is no job {id[:100]!r}",
        hint="`leptonai job list` shows the jobs; an id ends in four characters of its own.",
    )


async def note_checkpoint(world: World, principal: Principal, workspace: str, id: str) -> Job:
    """It can go on from what it has just saved: so much less is lost if it has to give way."""

    async def change() -> Job:
        job = await find_job(world, principal, workspace, id)
        require(
            principal,
            Action.UPDATE,
            Resource(kind="checkpoint", workspace=workspace, id=job.id, owner=job.owner),
        )
        if job.state not in (JobState.STARTING, JobState.RUNNING, JobState.STOPPING):
            raise Conflict(
                f"job {id} is {job.state.value}, and does not run", hint="Only what runs saves."
            )
        return await put(world, replace(job, saved_at_ms=world.clock.now_ms()))

    return await insisting(change)


async def _job_with_key(world: World, workspace: str, unique_key: str, name: str) -> Job | None:
    found = await with_key(world, workspace, Job, unique_key)
    if found is not None and found.name != name:
        raise Conflict(
            f"the Idempotency-Key was used for the job {found.id}",
            hint="Use a new key for another job.",
        )
    return found


def _patched_spec(job: Job, patch: dict[str, Any]) -> JobSpec:
    before = msgspec.to_builtins(job.spec)
    spec = codec.convert(JobSpec, codec.merge_patch(before, patch.get("spec") or {}))
    if replace(spec, stopped=job.spec.stopped) != job.spec:
        raise InvalidRequest(
            "spec: of a job that was submitted, only `stopped` can be changed",
            hint="Submit a new job with the changed spec.",
        )
    return spec
