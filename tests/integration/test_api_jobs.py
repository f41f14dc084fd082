import re

from api_world import NOW_MS, a_job, a_node, with_api
from msgspec.structs import replace

from leptonai.core.records import Job, Phase, Replica, Secret
from leptonai.ports.store import Put, Query
from leptonai.spec.containers import Container
from leptonai.spec.jobs import JobState


@with_api
async def test_a_submitted_job_gets_an_id_of_its_own_and_waits_with_its_workers(api):
    answer = await api.call("POST", "/jobs", json=a_job(completions=2, parallelism=2), who="ana")
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert re.fullmatch(r"hello-[a-z0-9]{4}", job["metadata"]["id"])
    assert job["metadata"] | {"id": "", "version": 0} == {
        "id": "",
        "name": "hello",
        "created_at": NOW_MS,
        "version": 0,
        "created_by": "ana",
        "owner": "ana",
        "last_modified_at": NOW_MS,
    }
    assert job["spec"] == {
        "container": {"command": ["echo", "hi"]},
        "completions": 2,
        "parallelism": 2,
    }
    assert job["status"]["state"] == "Queueing"
    assert job["status"]["creation_time"] == NOW_MS
    replicas = (await api.call("GET", f"/jobs/{job['metadata']['id']}/replicas")).json()
    assert [replica["status"]["state"] for replica in replicas] == ["Waiting", "Waiting"]
    assert all(
        re.fullmatch(rf"{job['metadata']['id']}-\d-[a-z0-9]{{5}}", r["id"]) for r in replicas
    )


@with_api
async def test_the_same_idempotency_key_gives_the_same_job(api):
    key = {"idempotency-key": "k1"}
    first = (await api.call("POST", "/jobs", json=a_job(), headers=key)).json()
    again = (await api.call("POST", "/jobs", json=a_job(), headers=key)).json()
    others = (await api.call("POST", "/jobs", json=a_job(), headers=key, who="ana")).json()
    assert again == first
    assert others["metadata"]["id"] != first["metadata"]["id"]
    misused = await api.call("POST", "/jobs", json=a_job("bye"), headers=key)
    assert (misused.status_code, misused.json()["code"]) == (409, "Conflict")


@with_api
async def test_pages_are_disjoint_and_empty_past_the_end(api):
    for _ in range(5):
        api.clock.at_ms += 1
        await api.call("POST", "/jobs", json=a_job())
    pages = [
        (await api.call("GET", f"/jobs?page={page}&page_size=2")).json()["jobs"]
        for page in (1, 2, 3, 4)
    ]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    ids = [job["metadata"]["id"] for page in pages for job in page]
    assert len(set(ids)) == 5
    times = [job["metadata"]["created_at"] for page in pages for job in page]
    assert times == sorted(times, reverse=True)


@with_api
async def test_jobs_are_found_by_what_was_asked(api):
    labelled = a_job("labelled") | {"metadata": {"id": "labelled", "labels": {"a": "1", "b": "2"}}}
    bound = a_job("bound", affinity={"allowed_dedicated_node_groups": ["local"]})
    await api.call("POST", "/jobs", json=labelled)
    await api.call("POST", "/jobs", json=bound, who="ana")
    await api.call("POST", "/jobs", json=a_job("stopped", stopped=True))

    async def found(query):
        jobs = (await api.call("GET", f"/jobs?{query}")).json()["jobs"]
        return sorted(job["metadata"]["name"] for job in jobs)

    assert await found("") == ["bound", "labelled", "stopped"]
    assert await found("q=abel") == await found("q=ABEL") == ["labelled"]
    assert await found("query=a") == ["labelled"]
    assert await found("query=a%3D1,b%3D2") == ["labelled"]
    assert await found("query=a%3D2") == []
    assert await found("query=!a,b!%3D2") == ["bound", "stopped"]
    assert await found("query=a in (0, 1),b notin (3)") == ["labelled"]
    assert await found("created_by=ana&created_by=ben") == ["bound"]
    assert await found("created_by=AN") == ["bound"]
    assert await found("created_by=na") == []
    assert await found("status=queue&status=STOP") == ["bound", "labelled", "stopped"]
    assert await found("status=stop") == ["stopped"]
    assert await found("status=nothing") == []
    assert await found("node_groups=local") == ["bound"]
    assert await found("node_groups=elsewhere&node_groups=LOC") == ["bound"]
    await api.store.commit(Put(a_node(id="far", name="far", group="local-far")))
    assert await found("node_groups=far") == []
    assert await found("node_groups=local-") == []
    assert await found("node_groups=local-far") == []
    assert await found("job_query_mode=archive_only") == []


@with_api
async def test_archived_jobs_are_seen_only_where_asked_for(api):
    id = (await api.call("POST", "/jobs", json=a_job())).json()["metadata"]["id"]
    job = await api.store.get(Job, "ws", id)
    await api.store.commit(Put(replace(job, state=JobState.ARCHIVED, finished_at_ms=NOW_MS)))
    statuses = {
        mode: (await api.call("GET", f"/jobs/{id}?job_query_mode={mode}")).status_code
        for mode in ("alive_only", "archive_only", "alive_and_archive")
    }
    assert statuses == {"alive_only": 404, "archive_only": 200, "alive_and_archive": 200}
    counts = {
        mode: len((await api.call("GET", f"/jobs?job_query_mode={mode}")).json()["jobs"])
        for mode in ("alive_only", "archive_only", "alive_and_archive")
    }
    assert counts == {"alive_only": 0, "archive_only": 1, "alive_and_archive": 1}


@with_api
async def test_a_job_is_stopped_and_started_by_a_patch_of_its_spec(api):
    id = (await api.call("POST", "/jobs", json=a_job())).json()["metadata"]["id"]
    answer = await api.call("PATCH", f"/jobs/{id}", json={"spec": {"stopped": True}})
    assert answer.json()["spec"]["stopped"] is True
    answer = await api.call("PATCH", f"/jobs/{id}", json={"spec": {"stopped": False}})
    assert answer.json()["spec"]["stopped"] is False
    other = await api.call("PATCH", f"/jobs/{id}", json={"spec": {"completions": 3}})
    assert other.status_code == 400
    assert "only `stopped` can be changed" in other.json()["message"]


@with_api
async def test_a_completed_job_does_not_start_again(api):
    for was_stopped in (True, None):
        id = (await api.call("POST", "/jobs", json=a_job())).json()["metadata"]["id"]
        job = await api.store.get(Job, "ws", id)
        spec = replace(job.spec, stopped=was_stopped)
        await api.store.commit(Put(replace(job, spec=spec, state=JobState.COMPLETED)))
        answer = await api.call("PATCH", f"/jobs/{id}", json={"spec": {"stopped": False}})
        assert (answer.status_code, answer.json()["code"]) == (409, "Conflict")


@with_api
async def test_a_deleted_job_is_gone_and_its_workers_are_let_go(api):
    id = (await api.call("POST", "/jobs", json=a_job())).json()["metadata"]["id"]
    answer = await api.call("DELETE", f"/jobs/{id}")
    assert answer.json()["status"]["state"] == "Deleting"
    assert (await api.call("GET", f"/jobs/{id}")).status_code == 404
    replicas = await api.store.find(Replica, Query(workspace="ws"))
    assert [(r.phase, r.abandoned) for r in replicas] == [(Phase.DONE, True)]


@with_api
async def test_what_happened_to_a_job_is_told_as_events(api):
    id = (await api.call("POST", "/jobs", json=a_job())).json()["metadata"]["id"]
    (event,) = (await api.call("GET", f"/jobs/{id}/events")).json()
    assert event | {"message": ""} == {
        "type": "Normal",
        "reason": "Queued",
        "count": 1,
        "last_observed_time": "2023-11-14T22:13:20.000+00:00",
        "message": "",
        "regarding": {"kind": "job", "name": "hello", "id": id},
    }
    why = (await api.call("GET", f"/jobs/{id}/why")).json()
    assert (why["state"], why["code"]) == ("Queueing", "queueing")


@with_api
async def test_the_spec_of_an_answer_can_be_sent_back(api):
    asked = a_job(
        envs=[{"name": "A", "value": "1"}],
        queue_config={"priority_class": "high-8000"},
        container={"image": "nvcr.io/nvidia/pytorch:25.08-py3", "command": ["a"]},
        ttl_seconds_after_finished=259200,
        mounts=[],
        image_pull_secrets=[],
        resource_shape="cpu.small",
    )
    first = (await api.call("POST", "/jobs", json=asked)).json()
    clone = {"metadata": {"id": "hello-clone"}, "spec": first["spec"]}
    again = await api.call("POST", "/jobs", json=clone)
    assert again.json()["spec"] == first["spec"]


@with_api
async def test_private_jobs_are_seen_by_their_owner_and_admins(api):
    hidden = a_job() | {"metadata": {"id": "hidden", "visibility": "private"}}
    id = (await api.call("POST", "/jobs", json=hidden, who="ana")).json()["metadata"]["id"]
    seen = {
        who: (
            (await api.call("GET", f"/jobs/{id}", who=who)).status_code,
            len((await api.call("GET", "/jobs", who=who)).json()["jobs"]),
        )
        for who in ("ana", "ben", "admin")
    }
    assert seen == {"ana": (200, 1), "ben": (404, 0), "admin": (200, 1)}


@with_api
async def test_members_stop_and_delete_only_their_own_jobs(api):
    id = (await api.call("POST", "/jobs", json=a_job(), who="ana")).json()["metadata"]["id"]
    for method, body in (("PATCH", {"spec": {"stopped": True}}), ("DELETE", None)):
        answer = await api.call(method, f"/jobs/{id}", json=body, who="ben")
        assert (answer.status_code, answer.json()["code"]) == (403, "StatusForbidden")
    assert (await api.call("DELETE", f"/jobs/{id}", who="ana")).status_code == 200


@with_api
async def test_a_private_secret_is_used_by_its_owner_only(api):
    secret = [{"name": "KEY", "value": "s3cret"}]
    assert (await api.call("POST", "/usersecrets", json=secret, who="ana")).status_code == 200
    uses = a_job(envs=[{"name": "K", "value_from": {"secret_name_ref": "KEY"}}])
    assert (await api.call("POST", "/jobs", json=uses, who="ana")).status_code == 200
    assert (await api.call("POST", "/jobs", json=uses, who="ben")).status_code == 403
    assert "s3cret" not in str(await api.store.find(Secret, Query()))


@with_api
async def test_a_job_is_written_as_it_was_asked(api):
    id = (await api.call("POST", "/jobs", json=a_job())).json()["metadata"]["id"]
    job = await api.store.get(Job, "ws", id)
    assert job.spec.container == Container(command=["echo", "hi"])


@with_api
async def test_workers_of_earlier_rounds_are_listed_for_who_asks(api):
    id = (await api.call("POST", "/jobs", json=a_job())).json()["metadata"]["id"]
    job = await api.store.get(Job, "ws", id)
    (earlier,) = await api.store.find(Replica, Query(workspace="ws"))
    later = replace(earlier, id=f"{id}-0-later", version=0, seq=0, round=1)
    await api.store.commit(Put(replace(job, round=1)), Put(later))

    async def listed(**params):
        answer = await api.call("GET", f"/jobs/{id}/replicas", params=params)
        return [replica["id"] for replica in answer.json()]

    assert await listed() == [later.id]
    assert await listed(all_rounds="true") == [earlier.id, later.id]
