"""Quotas and checkpoints through the API."""

from api_world import NOW_MS, a_job, with_api
from msgspec.structs import replace

from leptonai.core.records import Job, Phase, Quota, Replica
from leptonai.ports.store import Put, Query
from leptonai.spec.jobs import JobState


@with_api
async def test_an_admin_sets_quotas_and_everybody_sees_what_is_used_of_them(api):
    job = a_job(cpu=1.5)
    job["metadata"]["labels"] = {"project": "vision"}
    await api.call("POST", "/jobs", json=job, who="ana")
    (waiting,) = await api.store.find(Replica, Query())
    await api.store.commit(Put(replace(waiting, phase=Phase.RUNNING, node="laptop")))
    for path, spec in (
        ("users/ana", {"cpu": 2, "weight": 3}),
        ("users/ben", {"gpus": 1}),
        ("projects/vision", {"gpus": 4, "cpu": 8, "borrow": False}),
    ):
        assert (await api.call("PUT", f"/quotas/{path}", json=spec)).status_code == 200
    assert (await api.call("GET", "/quotas", who="ben")).json() == [
        {
            "kind": "user",
            "name": "ana",
            "spec": {"cpu": 2.0, "weight": 3.0},
            "used": {"gpus": 0.0, "cpu": 1.5},
        },
        {"kind": "user", "name": "ben", "spec": {"gpus": 1.0}, "used": {"gpus": 0.0, "cpu": 0.0}},
        {
            "kind": "project",
            "name": "vision",
            "spec": {"gpus": 4.0, "cpu": 8.0, "borrow": False},
            "used": {"gpus": 0.0, "cpu": 1.5},
        },
    ]


@with_api
async def test_a_quota_is_replaced_as_a_whole_and_can_be_removed_and_set_again(api):
    await api.call("PUT", "/quotas/users/ana", json={"cpu": 2, "gpus": 1})
    await api.call("PUT", "/quotas/users/ana", json={"gpus": 3})
    (quota,) = await api.store.find(Quota, Query())
    assert (quota.gpus, quota.cpu_millis, quota.version) == (3.0, None, 2)
    assert (await api.call("DELETE", "/quotas/users/ana")).status_code == 200
    assert (await api.call("GET", "/quotas")).json() == []
    assert (await api.call("DELETE", "/quotas/users/ana")).status_code == 404
    assert (await api.call("PUT", "/quotas/users/ana", json={})).status_code == 200


@with_api
async def test_only_admins_change_quotas_and_only_of_users_and_projects(api):
    async def answer(method, path, who="admin", json=None):
        return (await api.call(method, f"/quotas/{path}", who=who, json=json)).status_code

    assert await answer("PUT", "users/ana", who="ana", json={"gpus": 100}) == 403
    assert await answer("DELETE", "users/ana", who="ana") == 403
    assert await answer("PUT", "teams/ana", json={}) == 404
    assert await answer("PUT", "users/ana", json={"gpus": -1}) == 400
    assert await answer("PUT", "users/ana", json={"weight": 0}) == 400
    assert await answer("PUT", "users/ana", json={"gpu": 1}) == 400


@with_api
async def test_a_running_job_says_with_its_own_token_that_it_has_saved(api):
    ids = [
        (await api.call("POST", "/jobs", json=a_job(name), who="ana")).json()["metadata"]["id"]
        for name in ("mine", "other")
    ]
    mine, other = [await api.store.get(Job, "ws", id) for id in ids]
    api.tokens["job"] = api.job_tokens.of("ws", mine.id)

    async def save(id, who="job"):
        return (await api.call("PUT", f"/jobs/{id}/checkpoint", who=who)).status_code

    assert await save(mine.id) == 409, "it does not run"
    for job in (mine, other):
        await api.store.commit(Put(replace(job, state=JobState.RUNNING)))
    api.clock.at_ms += 5_000
    assert [await save(mine.id), await save(other.id), await save(other.id, who="ben")] == [
        200,
        404,
        403,
    ]
    assert (await api.store.get(Job, "ws", mine.id)).saved_at_ms == NOW_MS + 5_000


@with_api
async def test_an_elastic_job_needs_room_for_its_least_alone(api):
    small = await api.call("POST", "/jobs", json=a_job(cpu=1, completions=8, min_workers=2))
    assert small.status_code == 200
    wrong = await api.call("POST", "/jobs", json=a_job(cpu=1, completions=2, min_workers=3))
    assert (wrong.status_code, wrong.json()["message"]) == (
        400,
        "spec.min_workers: 3 is more than completions, 2",
    )


@with_api
async def test_segments_must_divide_the_workers_and_fit_behind_a_switch(api):
    async def refused(segment, **spec):
        spec = {"cpu": 1, "segment_config": {"count_per_segment": segment}} | spec
        answer = await api.call("POST", "/jobs", json=a_job(**spec))
        return answer.status_code, answer.json()["message"]

    assert await refused(3, completions=4) == (
        400,
        "spec.segment_config.count_per_segment: 3 does not divide 4 workers",
    )
    assert await refused(2, completions=4, min_workers=2) == (
        400,
        "spec.segment_config: an elastic job has no segments",
    )
    assert await refused(3, completions=3, cpu=2) == (
        422,
        "this could never run here: needs room for 1 segment of 3 workers "
        "with 2 CPUs, 256 MiB each, a segment on one node; "
        "the one node it may use has room for 0 when empty",
    )
    spec = a_job(cpu=1, completions=4, segment_config={"count_per_segment": 2})
    assert (await api.call("POST", "/jobs", json=spec)).status_code < 300
