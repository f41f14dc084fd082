"""Jobs: submit, list, stop, start, delete, and what came of them."""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from leptonai.control.actions.jobs import (
    delete_job,
    foresee_job,
    note_checkpoint,
    patch_job,
    submit_job,
)
from leptonai.control.api.job_modes import ALIVE, ARCHIVE, BOTH, MODE, job_in_mode, mode_of
from leptonai.control.api.label_selectors import SELECTOR, label_selector, label_terms
from leptonai.control.api.logs import FOLLOW, TAIL, live_log
from leptonai.control.api.paging import PAGING, page_of
from leptonai.control.api.routing import DRY_RUN, TEXT, Answer, Call, Parameter, Route
from leptonai.control.api.views import dry_run_of, event_view, job_view, replica_view
from leptonai.core.access import Role
from leptonai.core.records import Job, Node, OwnerKind, Replica
from leptonai.errors import NotFound
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read, may_see
from leptonai.spec import replicas as wire
from leptonai.spec.explanations import Explanation
from leptonai.spec.jobs import JobList, JobState, LeptonJob

FILTERS = (
    MODE,
    Parameter("q", about="A part of the name or of the id."),
    Parameter("status", about="How the state begins.", repeated=True),
    Parameter("created_by", about="How the owner begins.", repeated=True),
    Parameter("node_groups", about="Node groups it is bound to: ids, or parts.", repeated=True),
    SELECTOR,
)


async def submit(call: Call) -> LeptonJob:
    return await submitted(call, await call.json())


async def submitted(call: Call, asked: LeptonJob) -> LeptonJob:
    if call.flag("dry_run"):
        job, explanation = await foresee_job(call.world, call.principal, call.workspace, asked)
        return dry_run_of(job_view(job), explanation)
    key = call.header("idempotency-key")
    return job_view(await submit_job(call.world, call.principal, call.workspace, asked, key))


async def list_jobs(call: Call) -> JobList:
    return JobList(jobs=await found(call))


async def found(
    call: Call, *, only: Callable[[Job], bool] | None = None, mentions: bytes | None = None
) -> list[LeptonJob]:
    """A page of those that the call asks for; `only` some of them, whose JSON holds `mentions`."""
    states = _states(call)
    if states == ():
        return []
    selects = label_selector(call.text("query"))
    groups = await _groups(call)
    sees_all = call.principal.role is Role.ADMIN

    def shown(job: Job) -> bool:
        affinity = job.spec.affinity
        return (
            (sees_all or may_read(call.principal, job))
            and (only is None or only(job))
            and (selects is None or selects(job.labels))
            and (
                groups is None
                or bool(affinity and groups & set(affinity.allowed_dedicated_node_groups or ()))
            )
        )

    query = Query(
        workspace=call.workspace,
        search=call.text("q").lower() or None,  # as names and ids are
        states=states,
        not_states=(JobState.ARCHIVED,) if mode_of(call, ALIVE) == ALIVE else (),
        owners_begin=tuple(call.texts("created_by")) or None,
        mentions=mentions or _mentioned(call.text("query"), groups),
        newest_first=True,
    )
    everything = sees_all and selects is None and groups is None and only is None
    page = await page_of(call, Job, query, None if everything else shown)
    return [_view(call, job) for job in page]


async def _groups(call: Call) -> set[str] | None:
    """The node groups that jobs are asked for: by id, or where none has it, by a part of theirs."""
    asked = set(call.texts("node_groups"))
    if not asked:
        return None
    there = {node.group for node in await call.world.store.find(Node, Query())}
    parts = [word.lower() for word in asked - there]
    return asked | {group for group in there if any(part in group.lower() for part in parts)}


def _mentioned(selector: str, groups: set[str] | None) -> bytes | None:
    """What the JSON of every job that is wanted holds: to read 10,000 of them costs a second."""
    wanted = [term for term in label_terms(selector) if not term.negated]
    for term in wanted:
        if term.values is not None and len(term.values) == 1:
            return msgspec.json.encode({term.key: next(iter(term.values))})[1:-1]
    if wanted:
        return msgspec.json.encode(wanted[0].key) + b":"
    return msgspec.json.encode(next(iter(groups))) if groups and len(groups) == 1 else None


async def get(call: Call) -> LeptonJob:
    return _view(call, await _job(call, BOTH))


async def patch(call: Call) -> LeptonJob:
    return job_view(
        await patch_job(
            call.world, call.principal, call.workspace, call.path["id"], await call.json()
        )
    )


async def delete(call: Call) -> LeptonJob:
    job = await _job(call, BOTH)
    deleted = job_view(await delete_job(call.world, call.principal, call.workspace, job.id))
    assert deleted.status is not None
    return replace(deleted, status=replace(deleted.status, state=JobState.DELETING))


async def saved(call: Call) -> LeptonJob:
    return job_view(
        await note_checkpoint(call.world, call.principal, call.workspace, call.path["id"])
    )


async def list_replicas(call: Call) -> list[wire.Replica]:
    """Those of the present round; an earlier round's are history."""
    job = await _job(call, BOTH)
    found = await _replicas(call, job)
    if not call.flag("all_rounds"):
        found = [replica for replica in found if replica.round == job.round]
    found = sorted(found, key=lambda replica: (replica.round, replica.index, replica.id))
    return [replica_view(replica) for replica in found]


async def replica_log(call: Call) -> Answer:
    job = await _job(call, BOTH)
    replica = await call.world.store.get(Replica, call.workspace, call.path["replica"])
    if replica is None or replica.parent != f"{OwnerKind.JOB}/{job.id}":
        raise NotFound(
            f"job {job.id} has no replica {call.path['replica'][:100]!r}",
            hint=f"`leptonai job get {job.id}` shows its replicas; with all_rounds=true, "
            "GET …/replicas tells the earlier ones too.",
        )
    return live_log(call, replica)


async def list_events(call: Call) -> list[wire.LeptonEvent]:
    job = await _job(call, BOTH)
    events = await call.world.store.events(call.workspace, kind=OwnerKind.JOB, id=job.id)
    return [event_view(event) for event in events]


async def why(call: Call) -> Explanation:
    job = await _job(call, BOTH)
    return await call.world.advice.explain(job, may_see(call.principal))


def _view(call: Call, job: Job) -> LeptonJob:
    """With the reason why it waits, in a few words."""
    view = job_view(job)
    if job.state is not JobState.QUEUEING or view.status is None or view.status.message:
        return view
    return replace(view, status=replace(view.status, message=call.world.advice.short(job)))


async def _job(call: Call, default_mode: str) -> Job:
    return await job_in_mode(call, call.path["id"], default_mode)


async def _replicas(call: Call, job: Job) -> list[Replica]:
    parent = f"{OwnerKind.JOB}/{job.id}"
    return await call.world.store.find(Replica, Query(workspace=call.workspace, parent=parent))


def _states(call: Call) -> tuple[str, ...] | None:
    """The states that begin with one of the given words; None where none is given."""
    words = [word.lower() for word in call.texts("status") if word]
    known = (JobState.ARCHIVED,) if mode_of(call, ALIVE) == ARCHIVE else tuple(JobState)
    if not words and len(known) > 1:
        return None
    return tuple(
        state.value
        for state in known
        if not words or any(state.value.lower().startswith(word) for word in words)
    )


ROUTES = (
    Route(
        method="POST",
        path="/jobs",
        handler=submit,
        summary="Submit a job; an Idempotency-Key header makes it safe to send again",
        body=LeptonJob,
        answer=LeptonJob,
        query=(DRY_RUN,),
    ),
    Route(
        method="GET",
        path="/jobs",
        handler=list_jobs,
        summary="List jobs, newest first",
        answer=JobList,
        query=(
            *PAGING,
            *FILTERS,
        ),
    ),
    Route(
        method="GET",
        path="/jobs/{id}",
        handler=get,
        summary="One job",
        answer=LeptonJob,
        query=(MODE,),
    ),
    Route(
        method="PATCH",
        path="/jobs/{id}",
        handler=patch,
        summary="Stop a job (`spec.stopped` true), or start it again (false)",
        body=LeptonJob,
        patch=True,
        answer=LeptonJob,
    ),
    Route(
        method="DELETE",
        path="/jobs/{id}",
        handler=delete,
        summary="Stop and forget a job",
        answer=LeptonJob,
        query=(MODE,),
    ),
    Route(
        method="PUT",
        path="/jobs/{id}/checkpoint",
        handler=saved,
        summary="A running job has just saved all it needs to go on from here; its own token may",
        answer=LeptonJob,
    ),
    Route(
        method="GET",
        path="/jobs/{id}/replicas",
        handler=list_replicas,
        summary="The workers of a job",
        answer=list[wire.Replica],
        query=(MODE, Parameter("all_rounds", bool, "true: also those of earlier rounds, first.")),
    ),
    Route(
        method="GET",
        path="/jobs/{id}/replicas/{replica}/log",
        handler=replica_log,
        query=(FOLLOW, TAIL),
        summary="A worker's output from its start on, as it comes, until the worker has ended",
        media=TEXT,
    ),
    Route(
        method="GET",
        path="/jobs/{id}/events",
        handler=list_events,
        summary="What happened to a job",
        answer=list[wire.LeptonEvent],
    ),
    Route(
        method="GET",
        path="/jobs/{id}/why",
        handler=why,
        summary="Why a job is where it is",
        answer=Explanation,
    ),
)
