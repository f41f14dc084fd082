"""Runs over HTTP: started, added to, resumed, read, ended, and guarded."""

import math

import pytest
from api_world import NOW_MS, a_job, with_api
from msgspec.structs import replace

from leptonai.blobs.points import Batch, encode_batch
from leptonai.control.api.runs import condition
from leptonai.core.lifecycle.run import follow
from leptonai.core.records import Job, Run
from leptonai.errors import InvalidRequest
from leptonai.ports.store import Put
from leptonai.spec.jobs import JobSpec, JobState
from leptonai.spec.runs import RunSpec, RunState, run_id_of_job
from leptonai.testing.points_contract import a_batch

ID = "0123456789abcdef" * 2


def a_run(id=ID, name="cats", labels=None, **spec):
    return {"metadata": {"id": id, "name": name, "labels": labels or {}}, "spec": spec}


async def start(api, *, who="ana", **fields):
    answer = await api.call("POST", "/runs", who=who, json=a_run(**fields))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def append(api, batch, *, id=ID, who="ana"):
    body = encode_batch(batch)
    return await api.call("PUT", f"/runs/{id}/points", who=who, content=body)


async def a_running_job(api, owner="ana", **metadata):
    body = a_job("train")
    body["metadata"] |= metadata
    id = (await api.call("POST", "/jobs", who=owner, json=body)).json()["metadata"]["id"]
    api.tokens["job"] = api.job_tokens.of("ws", id)
    api.tokens["recorder"] = api.job_tokens.of_runs.of("ws", id)
    return id


@with_api
async def test_a_run_is_told_with_all_that_it_measured(api):
    await start(api, params={"lr": 0.1}, labels={"project": "pets"})
    await append(api, a_batch(1, loss=[(0, 2.0), (1, math.nan), (2, -math.inf)]))
    run = (await api.call("GET", f"/runs/{ID}")).json()
    assert run["metadata"] | {"version": 1} == {
        "id": ID,
        "name": "cats",
        "created_at": NOW_MS,
        "version": 1,
        "created_by": "ana",
        "owner": "ana",
        "last_modified_at": NOW_MS,
        "labels": {"project": "pets"},
    }
    assert run["spec"] == {"params": {"lr": 0.1}}
    assert run["status"] == {
        "state": "Running",
        "message": "",
        "started_at": NOW_MS,
        "ended_at": None,
        "heard_at": NOW_MS,
        "job_state": None,
        "points": 3,
        "usage": {"wall_seconds": 0, "cpu_hours": 0, "gpu_hours": 0, "memory_gib_hours": 0},
        "summary": {
            "loss": {"last": "-Infinity", "step": 2, "at": 1_002, "min": "-Infinity", "max": 2}
        },
    }
    found = (await api.call("GET", f"/runs/{ID}/metrics?key=loss&key=none")).json()
    assert found["summary"] == run["status"]["summary"]
    assert found["curves"] == [
        {
            "key": "loss",
            "steps": [0, 1, 2],
            "values": [2, "NaN", "-Infinity"],
            "times": [1_000, 1_001, 1_002],
            "points": 3,
        },
        {"key": "none", "steps": [], "values": [], "times": [], "points": 0},
    ]


@with_api
async def test_a_start_that_is_repeated_is_one_start_and_an_ended_run_goes_on(api):
    first = await start(api)
    assert await start(api) == first
    end = {"state": "Failed", "message": "no luck"}
    for _ in range(2):
        ended = (await api.call("PUT", f"/runs/{ID}/end", who="ana", json=end)).json()
        assert (ended["status"]["state"], ended["status"]["message"]) == ("Failed", "no luck")
    again = await start(api)
    assert (again["status"]["state"], again["status"]["ended_at"]) == ("Running", None)
    assert len((await api.call("GET", "/runs")).json()["runs"]) == 1


@with_api
async def test_what_is_added_is_merged(api):
    digest = await api.add_blob(b"report")
    await start(api, params={"lr": 0.1, "depth": 3})
    artifact = {"digest": digest, "size_bytes": 6}
    patch = {
        "metadata": {"labels": {"best": ""}},
        "spec": {"params": {"lr": 0.2}, "artifacts": {"report.txt": artifact}},
    }
    changed = (await api.call("PATCH", f"/runs/{ID}", who="ana", json=patch)).json()
    assert changed["spec"]["params"] == {"lr": 0.2, "depth": 3}
    assert changed["spec"]["artifacts"] == {"report.txt": artifact}
    assert changed["metadata"]["labels"] == {"best": ""}
    for spec, field in (
        ({"job": "train-ab12"}, "spec.job"),
        ({"params": {"": 1}}, "key"),
        ({"artifacts": {"a/../x": artifact}}, "name"),
        ({"artifacts": {"x": artifact | {"digest": "sha256:" + "0" * 64}}}, "artifacts.x"),
    ):
        refused = await api.call("PATCH", f"/runs/{ID}", who="ana", json={"spec": spec})
        assert (refused.status_code, field in refused.json()["message"]) == (400, True)


@with_api
async def test_a_resume_supersedes_once_for_each_key(api):
    await start(api)
    await append(api, a_batch(1, loss=[(step, float(step)) for step in range(10)]))
    for key, step, last in (("a", 5, 5), ("b", 3, 3), ("a", 1, 3)):
        answer = await api.call(
            "POST",
            f"/runs/{ID}/resume",
            who="ana",
            json={"step": step},
            headers={"idempotency-key": key},
        )
        assert answer.json()["status"]["summary"]["loss"]["step"] == last


@with_api
async def test_runs_are_found_by_what_they_are(api):
    for number, (name, lr) in enumerate([("cats", 0.1), ("dogs", 0.2), ("cats", 0.3)]):
        labels = {"project": "pets"} if number else {}
        await start(api, id=f"{number:032x}", name=name, params={"lr": lr}, labels=labels)
    await api.call("PUT", f"/runs/{0:032x}/end", who="ana", json={"state": "Finished"})

    async def found(query):
        answer = (await api.call("GET", f"/runs?{query}")).json()
        return [int(run["metadata"]["id"], 16) for run in answer["runs"]]

    for query, expected in {
        "": [2, 1, 0],
        "name=cats": [2, 0],
        "q=dog": [1],
        "query=project%3Dpets": [2, 1],
        "state=Finished": [0],
        "param=lr%3E0.1": [2, 1],
        "param=lr%3E%3D0.1&param=lr%3C0.3": [1, 0],
        "param=depth%3D1": [],
        "job=train-ab12": [],
        f"id={1:032x}&id={0:032x}": [1, 0],
        "page=2&page_size=2": [0],
        "created_by=ben": [],
    }.items():
        assert await found(query) == expected, query
    assert (await api.call("GET", "/runs?param=lr")).status_code == 400


@pytest.mark.parametrize(
    ("text", "params", "holds"),
    [
        ("lr=0.1", {"lr": 0.1}, True),
        ("lr=1e-1", {"lr": 0.1}, True),
        ("depth>9", {"depth": 10}, True),
        ("depth>9", {"depth": "10"}, False),
        ("name!=a", {"name": "b"}, True),
        ("name!=a", {}, False),
        ("fast=true", {"fast": True}, True),
        ("seed=none", {"seed": None}, True),
        ("lr>x", {"lr": 0.1}, False),
    ],
)
def test_a_condition_compares_a_parameter(text, params, holds):
    assert condition(text)(params) is holds


def test_a_condition_that_compares_nothing_is_refused():
    with pytest.raises(InvalidRequest):
        condition("lr")


@with_api
async def test_summaries_may_be_of_some_metrics_alone(api):
    await start(api)
    await append(api, a_batch(1, loss=[(0, 1.0)], acc=[(0, 1.0)]))
    (run,) = (await api.call("GET", "/runs?key=acc")).json()["runs"]
    assert [*run["status"]["summary"]] == ["acc"]


@with_api
async def test_long_curves_are_reduced(api):
    await start(api)
    await append(api, a_batch(1, loss=[(step, step % 100) for step in range(5_000)]))
    for method in ("minmax", "lttb"):
        path = f"/runs/{ID}/metrics?key=loss&points=50&method={method}&from_step=10&to_step=4009"
        (curve,) = (await api.call("GET", path)).json()["curves"]
        assert curve["points"] == 4_000
        assert 25 <= len(curve["steps"]) <= 50
        assert (curve["steps"][0], curve["steps"][-1]) == (10, 4_009)
    for bad in (
        "points=1",
        "points=x",
        "method=best",
        "from_step=1e3",
        "points=99999&key=a&key=b",
    ):
        answer = await api.call("GET", f"/runs/{ID}/metrics?key=loss&{bad}")
        assert answer.status_code == 400, bad


@with_api
async def test_a_run_of_a_job_is_one_and_ends_with_it(api):
    job = await a_running_job(api, labels={"project": "pets"})
    id = run_id_of_job("ws", job)
    body = {"metadata": {}, "spec": {"job": job}}
    for who in ("recorder", "job", "ana", "admin"):
        run = (await api.call("POST", "/runs", who=who, json=body)).json()
        assert run["metadata"]["id"] == id
    assert (run["metadata"]["name"], run["metadata"]["owner"]) == ("train", "ana")
    assert run["metadata"]["labels"] == {"project": "pets"}
    assert run["status"]["job_state"] == "Queueing"
    api.clock.at_ms += 3_600_000
    usage = (await api.call("GET", f"/runs/{id}")).json()["status"]["usage"]
    assert (usage["wall_seconds"], usage["cpu_hours"]) == (3_600, 0.25)
    (found,) = (await api.call("GET", f"/runs?job={job}")).json()["runs"]
    assert found["metadata"]["id"] == id
    other = {"metadata": {"id": ID}, "spec": {"job": job}}
    assert (await api.call("POST", "/runs", json=other)).status_code == 400
    missing = {"metadata": {}, "spec": {"job": "nothing-ab12"}}
    assert (await api.call("POST", "/runs", json=missing)).status_code == 404


@with_api
async def test_who_may_do_what_with_a_run(api):
    job = await a_running_job(api)
    await api.call("POST", "/runs", who="recorder", json={"metadata": {}, "spec": {"job": job}})
    id = run_id_of_job("ws", job)
    await start(api, who="ben")
    asks = {
        "read": ("GET", ""),
        "metrics": ("GET", "/metrics?key=loss"),
        "change": ("PATCH", ""),
        "write": ("PUT", "/points"),
        "resume": ("POST", "/resume"),
        "end": ("PUT", "/end"),
    }
    bodies = {
        "change": {"json": {"spec": {"params": {"a": 1}}}},
        "write": {"content": encode_batch(Batch("f" * 16, 1, 0))},
        "resume": {"json": {"step": 1}},
        "end": {"json": {"state": "Finished"}},
    }

    async def status(who, id, ask):
        method, path = asks[ask]
        answer = await api.call(method, f"/runs/{id}{path}", who=who, **bodies.get(ask, {}))
        return answer.status_code

    for who, allowed_job, allowed_other in (
        ("recorder", 200, 404),
        ("job", 200, 404),
        ("admin", 200, 200),
        ("gateway", 404, 404),
        ("eve", 404, 404),
    ):
        for ask in asks:
            assert await status(who, id, ask) == allowed_job, (who, ask)
            assert await status(who, ID, ask) == allowed_other, (who, ask)
    for ask in asks:
        assert await status("ana", ID, ask) == (200 if ask in ("read", "metrics") else 403)
    for who, expected in (("recorder", 403), ("job", 403), ("ben", 403), ("ana", 200)):
        assert (await api.call("DELETE", f"/runs/{id}", who=who)).status_code == expected
    assert (await api.call("GET", "/jobs", who="recorder")).json()["jobs"] == []
    assert (await api.call("POST", "/jobs", who="recorder", json=a_job())).status_code == 403


@with_api
async def test_a_removed_run_takes_no_more_points_and_is_not_begun_again(api):
    await start(api)
    await append(api, a_batch(1, loss=[(0, 1.0)]))
    assert (await api.call("DELETE", f"/runs/{ID}", who="ana")).status_code == 200
    assert (await append(api, a_batch(2, loss=[(1, 1.0)]))).status_code == 404
    assert (await api.call("POST", "/runs", who="ana", json=a_run())).status_code == 409
    assert dict(await api.store.points.known("ws", [ID])) == {}


@with_api
async def test_points_are_too_many_to_be_audited_each(api):
    await start(api)
    await append(api, a_batch(1, loss=[(0, 1.0)]))
    assert (await append(api, a_batch(1), id="f" * 32)).status_code == 404
    lines = api.audit.read_text().splitlines()
    assert [("points" in line, "404" in line) for line in lines][-2:] == [
        (False, False),
        (True, True),
    ]


@with_api
async def test_what_is_no_batch_is_refused(api):
    await start(api)
    for content, status in ((b"", 400), (b"\xc1", 400), (bytes(3 << 20), 413)):
        answer = await api.call("PUT", f"/runs/{ID}/points", who="ana", content=content)
        assert (answer.status_code, bool(answer.json()["hint"])) == (status, True)


def test_a_run_ends_as_its_job_does():
    def run(job="train-ab12", state=RunState.RUNNING):
        fields = {"spec": RunSpec(job=job), "state": state, "started_at_ms": 1}
        return Run(workspace="ws", id=ID, name="r", created_at_ms=1, **fields)

    def job(state, **fields):
        fields |= {"spec": JobSpec(), "state": state}
        return Job(workspace="ws", id="train-ab12", name="t", created_at_ms=1, **fields)

    running = run()
    for same in (
        follow(running, job(JobState.RUNNING), 9),
        follow(running, job(JobState.PENDING_RETRY), 9),
        follow(running, job(JobState.STOPPED), 9),  # to be started again
    ):
        assert same is running
    stopped = replace(job(JobState.STOPPED), spec=JobSpec(stopped=True), finished_at_ms=5)
    for ended, state, at_ms in (
        (job(JobState.COMPLETED, exit_code=0, finished_at_ms=5), RunState.FINISHED, 5),
        (job(JobState.FAILED, exit_code=3, finished_at_ms=5), RunState.FAILED, 5),
        (job(JobState.ARCHIVED, exit_code=0, finished_at_ms=5), RunState.FINISHED, 5),
        (stopped, RunState.STOPPED, 5),
        (None, RunState.STOPPED, 9),
    ):
        after = follow(running, ended, 9)
        assert (after.state, after.ended_at_ms) == (state, at_ms)
        assert follow(after, None, 99) is after
    alone = run(job="")
    assert follow(alone, None, 9) is alone


@with_api
async def test_a_blob_that_a_run_keeps_is_in_use(api):
    from leptonai.core.references import REFERRING_KINDS, digests_in

    digest = await api.add_blob(b"kept")
    await start(api, artifacts={"a": {"digest": digest, "size_bytes": 4}})
    run = await api.store.get(Run, "ws", ID)
    assert Run in REFERRING_KINDS and digests_in(run) == {digest}
    await api.store.commit(Put(replace(run, spec=RunSpec())))
