"""Runs: started, added to, resumed, ended, removed."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from leptonai.blobs.points import Batch
from leptonai.control.actions.committing import insisting, put, with_metadata
from leptonai.control.actions.finding import known_to
from leptonai.control.requests import check_labels, check_tree
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import Job, Run
from leptonai.core.shapes import requested_by
from leptonai.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, TooLarge
from leptonai.ports.store import Delete
from leptonai.security.permissions import require
from leptonai.spec import codec
from leptonai.spec import runs as wire
from leptonai.spec.runs import (
    MAX_ARTIFACTS,
    Resume,
    RunEnd,
    RunSpec,
    RunState,
    check_key,
    check_params,
    check_run_id,
    check_run_name,
    run_id_of_job,
)

MAX_SPEC_BYTES = 1 << 20
_FIXED = ("job",)  # fields of the spec that cannot change


async def start_run(world: World, principal: Principal, workspace: str, asked: wire.Run) -> Run:
    """Make a run, or find the one that has this id or is the job's; one that ended runs again."""
    job = asked.spec.job
    require(principal, Action.CREATE, Resource(kind="run", workspace=workspace, job=job))
    id = run_id_of_job(workspace, job) if job else (asked.metadata.id or "")
    check_run_id(id)
    if asked.metadata.id not in (None, id):
        raise InvalidRequest(
            f"metadata.id: the run of the job {job[:100]} has the id {id}", hint="Leave it out."
        )
    of_job = await _job(world, principal, workspace, job) if job else None

    async def change() -> Run:
        found = await world.store.get(Run, workspace, id)
        if found is None:
            return await _make(world, principal, workspace, id, asked, of_job)
        require(principal, Action.UPDATE, found)
        if found.spec.job != job:
            raise Conflict(
                f"the run {id} belongs to {found.spec.job or 'no job'}", hint="Use another id."
            )
        if found.state is RunState.RUNNING:
            return found
        again = replace(found, state=RunState.RUNNING, message="", ended_at_ms=None)
        return await put(world, replace(again, modified_at_ms=world.clock.now_ms()))

    return await insisting(change)


async def _make(
    world: World,
    principal: Principal,
    workspace: str,
    id: str,
    asked: wire.Run,
    job: Job | None,
) -> Run:
    name = asked.metadata.name or (job.name if job else "run")
    check_run_name(name)
    labels = {**(job.labels if job else {}), **(asked.metadata.labels or {})}
    check_labels(labels)
    await _check_spec(world, RunSpec(), asked.spec)
    now_ms = world.clock.now_ms()
    visibility = asked.metadata.visibility or (job.visibility if job else "")
    run = Run(
        workspace=workspace,
        id=id,
        name=name,
        created_at_ms=now_ms,
        modified_at_ms=now_ms,
        owner=principal.name,
        labels=labels,
        visibility=visibility,
        spec=asked.spec,
        started_at_ms=now_ms,
    )
    if job is not None:
        run = replace(run, needs=requested_by(job.spec).needs, workers=job.spec.workers)
    await world.store.points.open(workspace, id)  # first: a run without points is none
    try:
        return await put(world, run)
    except AlreadyExists:
        if (found := await world.store.get(Run, workspace, id)) is not None:
            return found  # somebody else was faster: another rank, say
        await world.store.points.forget(workspace, id)
        raise Conflict(f"the run {id} was removed", hint="Start another one.") from None


async def update_run(
    world: World, principal: Principal, workspace: str, id: str, patch: Mapping[str, Any]
) -> Run:
    """Merge parameters, references, artifacts, facts and labels into it."""

    async def change() -> Run:
        run = await find_run(world, principal, workspace, id)
        require(principal, Action.UPDATE, run)
        relabelled = with_metadata(run, patch)
        before = msgspec.to_builtins(run.spec)
        asked = dict(patch.get("spec") or {})
        for field in _FIXED:
            if asked.get(field, before.get(field)) != before.get(field):
                raise InvalidRequest(
                    f"spec.{field}: cannot be changed", hint="Start another run instead."
                )
        spec = codec.convert(RunSpec, codec.merge_patch(before, asked))
        await _check_spec(world, run.spec, spec)
        changed = replace(relabelled, spec=spec)
        if changed == run:
            return run
        return await put(world, replace(changed, modified_at_ms=world.clock.now_ms()))

    return await insisting(change)


async def end_run(
    world: World, principal: Principal, workspace: str, id: str, asked: RunEnd
) -> Run:
    if asked.state is RunState.RUNNING:
        raise InvalidRequest("state: that is no end", hint="Use Finished, Failed or Stopped.")

    async def change() -> Run:
        run = await find_run(world, principal, workspace, id)
        require(principal, Action.UPDATE, run)
        if run.state is not RunState.RUNNING:
            return run  # a repeated end is one end
        now_ms = world.clock.now_ms()
        return await put(
            world,
            replace(
                run,
                state=asked.state,
                message=asked.message[:1_000],
                ended_at_ms=now_ms,
                modified_at_ms=now_ms,
            ),
        )

    return await insisting(change)


async def append_points(
    world: World, principal: Principal, workspace: str, id: str, batch: Batch
) -> bool:
    """False where the batch was there already."""
    run = await find_run(world, principal, workspace, id)
    require(principal, Action.UPDATE, run)
    return await world.store.points.append(workspace, id, batch, world.clock.now_ms())


async def resume_run(
    world: World, principal: Principal, workspace: str, id: str, asked: Resume, key: str
) -> Run:
    """Supersede what was recorded after a step, once for each key."""
    run = await find_run(world, principal, workspace, id)
    require(principal, Action.UPDATE, run)
    # Who resumes is a writer of one batch; the processes that write are others.
    writer = hashlib.sha256(f"resume {key}".encode()).hexdigest()[:16]
    batch = Batch(writer, 1, asked.stream, resume=asked.step)
    await world.store.points.append(workspace, id, batch, world.clock.now_ms())
    return run


async def remove_run(world: World, principal: Principal, workspace: str, id: str) -> Run:
    """With all its points, which go first: what is left then is a run that can be removed again."""

    async def change() -> Run:
        run = await find_run(world, principal, workspace, id)
        require(principal, Action.DELETE, run)
        await world.store.points.forget(workspace, id)
        await world.commit(Delete(run))
        return run

    return await insisting(change)


async def find_run(world: World, principal: Principal, workspace: str, id: str) -> Run:
    return known_to(
        principal,
        await world.store.get(Run, workspace, id),
        f"there is no run {id[:100]!r}",
        hint="`leptonai run list` shows the runs.",
    )


async def _job(world: World, principal: Principal, workspace: str, id: str) -> Job:
    """Only who may change a job may say what it measured."""
    job = await world.store.get(Job, workspace, id)
    if job is None:
        raise NotFound(f"there is no job {id[:100]!r}", hint="Leave spec.job out.")
    if principal.job != job.id:
        require(principal, Action.UPDATE, job)
    return job


async def _check_spec(world: World, before: RunSpec, spec: RunSpec) -> None:
    check_params(spec.params)
    if len(spec.artifacts) > MAX_ARTIFACTS:
        raise InvalidRequest(
            f"spec.artifacts: {len(spec.artifacts)}", hint=f"At most {MAX_ARTIFACTS} are kept."
        )
    for name, artifact in spec.artifacts.items():
        check_key(name)
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise InvalidRequest(
                f"spec.artifacts: the name {name!a} is not allowed",
                hint="Use names, joined by one /.",
            )
        if before.artifacts.get(name) != artifact:
            await check_tree(world, artifact.digest, f"spec.artifacts.{name}.digest")
    if len(msgspec.json.encode(spec)) > MAX_SPEC_BYTES:
        raise TooLarge("spec: is too large", hint="Keep large facts in an artifact.")
