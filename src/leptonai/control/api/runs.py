"""Runs: what trainings were given, what they measured, and what came of them."""

import operator
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leptonai.blobs.points import decode_batch
from leptonai.control.actions.runs import (
    append_points,
    end_run,
    find_run,
    remove_run,
    resume_run,
    start_run,
    update_run,
)
from leptonai.control.api.label_selectors import SELECTOR, label_selector
from leptonai.control.api.paging import PAGING, page_of
from leptonai.control.api.routing import DONE, Answer, Call, Parameter, Route
from leptonai.control.api.views import run_view
from leptonai.core.access import Role
from leptonai.core.points import RunPoints
from leptonai.core.records import Job, OwnerKind, Run
from leptonai.errors import InvalidRequest
from leptonai.ports.points import Wanted
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read
from leptonai.spec import runs as wire
from leptonai.spec.runs import Curve, Resume, RunEnd, RunList, RunMetrics, Scalar, number_of

DEFAULT_POINTS = 1_000
MAX_POINTS = 100_000
MAX_CURVES = 100  # in one answer
MAX_ANSWERED = 200_000  # points, of all its curves
METHODS = ("minmax", "lttb")
STEPS = wire.MAX_STEP
RESUME_KEY_CHARS = 255

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"(?P<key>[^<>=!]+)(?P<is><=|>=|!=|=|<|>)(?P<value>.*)")


async def start(call: Call) -> wire.Run:
    run = await start_run(call.world, call.principal, call.workspace, await call.json())
    return await _view(call, run)


async def list_runs(call: Call) -> RunList:
    selects = label_selector(call.text("query"))
    conditions = [condition(text) for text in call.texts("param")]
    sees_all = call.principal.role is Role.ADMIN

    def shown(run: Run) -> bool:
        return (
            (sees_all or may_read(call.principal, run))
            and (selects is None or selects(run.labels))
            and all(holds(run.spec.params) for holds in conditions)
        )

    job = call.text("job")
    query = Query(
        workspace=call.workspace,
        ids=tuple(call.texts("id")) or None,
        name=call.text("name") or None,
        parent=f"{OwnerKind.JOB}/{job}" if job else None,
        search=call.text("q") or None,
        states=tuple(call.texts("state")) or None,
        owners_begin=tuple(call.texts("created_by")) or None,
        newest_first=True,
    )
    everything = sees_all and selects is None and not conditions
    found = await page_of(call, Run, query, None if everything else shown)
    return RunList(runs=await _views(call, found, call.texts("key")))


async def get(call: Call) -> wire.Run:
    return await _view(call, await _run(call))


async def patch(call: Call) -> wire.Run:
    run = await update_run(
        call.world, call.principal, call.workspace, call.path["id"], await call.json()
    )
    return await _view(call, run)


async def delete(call: Call) -> Answer:
    await remove_run(call.world, call.principal, call.workspace, call.path["id"])
    return DONE


async def append(call: Call) -> Answer:
    batch = decode_batch(await call.small_body())
    await append_points(call.world, call.principal, call.workspace, call.path["id"], batch)
    return DONE


async def resume(call: Call) -> wire.Run:
    asked: Resume = await call.json()
    key = call.header("idempotency-key")[:RESUME_KEY_CHARS] or secrets.token_hex(16)
    run = await resume_run(call.world, call.principal, call.workspace, call.path["id"], asked, key)
    return await _view(call, run)


async def end(call: Call) -> wire.Run:
    asked: RunEnd = await call.json()
    run = await end_run(call.world, call.principal, call.workspace, call.path["id"], asked)
    return await _view(call, run)


async def metrics(call: Call) -> RunMetrics:
    run = await _run(call)
    keys = call.texts("key")
    most = call.number("points", DEFAULT_POINTS)
    if len(keys) > MAX_CURVES or len(keys) * most > MAX_ANSWERED:
        raise InvalidRequest(
            f"{len(keys)} curves of {most} points at once",
            hint=f"Ask for at most {MAX_CURVES} curves and {MAX_ANSWERED} points in one request.",
        )
    lttb = call.one_of("method", METHODS, METHODS[0]) == "lttb"
    wanted = Wanted(
        from_step=call.number("from_step", 0) if call.text("from_step") else None,
        to_step=call.number("to_step", 0) if call.text("to_step") else None,
        most=most,
        method="lttb" if lttb else "minmax",
    )
    curves = []
    for key in keys:
        points, count = await call.world.store.points.read(call.workspace, run.id, key, wanted)
        curves.append(
            Curve(
                key=key,
                steps=points.steps.tolist(),
                values=[number_of(value) for value in points.values.tolist()],
                times=points.times.tolist(),
                points=count,
            )
        )
    view = await _view(call, run)
    assert view.status is not None
    return RunMetrics(summary=view.status.summary, curves=curves)


def condition(text: str) -> Callable[[Mapping[str, Scalar]], bool]:
    """Of "lr=0.1", "depth>3", "optimizer!=sgd": whether parameters are so. Numbers are compared as
    numbers, the rest as text; what is not there is not so."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise InvalidRequest(
            f"the parameter param: {text[:60]!r} compares nothing",
            hint="Write KEY=VALUE, or with <, <=, >, >= or !=.",
        )
    key, value, compare = found["key"].strip(), found["value"].strip(), _OPERATORS[found["is"]]

    def holds(params: Mapping[str, Scalar]) -> bool:
        if key not in params:
            return False
        one = params[key]
        if isinstance(one, int | float) and not isinstance(one, bool):
            try:
                return compare(one, float(value))
            except ValueError:
                return found["is"] == "!="
        shown = str(one).lower() if isinstance(one, bool) or one is None else one
        return compare(shown, value.lower() if isinstance(one, bool) or one is None else value)

    return holds


async def _run(call: Call) -> Run:
    return await find_run(call.world, call.principal, call.workspace, call.path["id"])


async def _view(call: Call, run: Run) -> wire.Run:
    return (await _views(call, [run], ()))[0]


async def _views(call: Call, runs: Sequence[Run], keys: Sequence[str]) -> list[wire.Run]:
    """With what is known of their points and their jobs."""
    if not runs:
        return []
    store, only = call.world.store, frozenset(keys)
    known = await store.points.known(call.workspace, [run.id for run in runs])
    ids = tuple({run.spec.job for run in runs if run.spec.job})
    found = await store.find(Job, Query(workspace=call.workspace, ids=ids)) if ids else []
    jobs = {job.id: job for job in found}
    now_ms = call.world.clock.now_ms()
    return [
        run_view(run, known.get(run.id, RunPoints()), jobs.get(run.spec.job), now_ms, only)
        for run in runs
    ]


ROUTES = (
    Route(
        method="POST",
        path="/runs",
        handler=start,
        summary="Start a run, or go on with the one that has this id or is the job's",
        body=wire.Run,
        answer=wire.Run,
    ),
    Route(
        method="GET",
        path="/runs",
        handler=list_runs,
        summary="List runs, newest first, each with the last, least and greatest of its metrics",
        answer=RunList,
        query=(
            *PAGING,
            Parameter("id", about="Only these.", repeated=True),
            Parameter("q", about="A part of the name or of the id."),
            Parameter("name", about="Exactly this name."),
            Parameter("job", about="Of the job with this id."),
            Parameter("state", about="Running, Finished, Failed or Stopped.", repeated=True),
            Parameter("created_by", about="How the owner begins.", repeated=True),
            SELECTOR,
            Parameter("param", about="`lr=0.1`, `depth>3`: all must hold.", repeated=True),
            Parameter("key", about="Only these metrics; none: all.", repeated=True),
        ),
    ),
    Route(
        method="GET",
        path="/runs/{id}",
        handler=get,
        summary="One run",
        answer=wire.Run,
    ),
    Route(
        method="PATCH",
        path="/runs/{id}",
        handler=patch,
        summary="Add parameters, references, artifacts, facts or labels to a run",
        body=wire.Run,
        patch=True,
        answer=wire.Run,
    ),
    Route(
        method="DELETE",
        path="/runs/{id}",
        handler=delete,
        summary="Forget a run with all its points",
    ),
    Route(
        method="PUT",
        path="/runs/{id}/points",
        handler=append,
        summary="Store a batch of points as the SDK packs it; one sent twice is stored once",
        raw_body=True,
        audited=False,
    ),
    Route(
        method="POST",
        path="/runs/{id}/resume",
        handler=resume,
        summary="What was recorded after a step is superseded: the training goes on from there. "
        "An Idempotency-Key header makes it safe to send again",
        body=Resume,
        answer=wire.Run,
    ),
    Route(
        method="PUT",
        path="/runs/{id}/end",
        handler=end,
        summary="A run has come to its end",
        body=RunEnd,
        answer=wire.Run,
    ),
    Route(
        method="GET",
        path="/runs/{id}/metrics",
        handler=metrics,
        summary="The last, least and greatest value of every metric; and the curves of some, "
        "reduced to so many points",
        answer=RunMetrics,
        query=(
            Parameter("key", about="Of a curve.", repeated=True),
            Parameter("points", int, "Of a curve, at most.", least=2, most=MAX_POINTS),
            Parameter("method", about="minmax keeps every peak; lttb looks smoother."),
            Parameter("from_step", int, least=-STEPS, most=STEPS),
            Parameter("to_step", int, least=-STEPS, most=STEPS),
        ),
    ),
)
