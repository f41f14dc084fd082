"""Ray clusters through the API: what is accepted, what is refused, what is told."""

import pytest
from api_world import with_api
from msgspec.structs import replace

from leptonai.core.records import Phase, RayCluster, Replica
from leptonai.ports.store import Put, Query

HEAD = {"resource_shape": "cpu.small", "min_replicas": 1}


def a_group(name="cpu", **more):
    return {"group_name": name, "resource_shape": "cpu.small", "min_replicas": 1} | more


def a_cluster(name="tune", groups=None, **spec):
    spec = {
        "ray_version": "2.49.2",
        "head_group_spec": HEAD,
        "worker_group_specs": [a_group()] if groups is None else groups,
    } | spec
    return {"metadata": {"id": name, "name": name, "visibility": "public"}, "spec": spec}


async def made(api, *arguments, who="admin", **more):
    answer = await api.call("POST", "/rayclusters", json=a_cluster(*arguments, **more), who=who)
    assert answer.status_code == 200, answer.text
    return answer.json()


@with_api
async def test_a_cluster_from_its_making_to_its_end(api):
    cluster = await made(api)
    assert cluster["metadata"]["id"] == cluster["metadata"]["name"] == "tune"
    assert cluster["status"] == {
        "state": "Starting",
        "message": "the head waits for a node",
        "readyWorkerReplicas": 0,
        "availableWorkerReplicas": 0,
        "desiredWorkerReplicas": 1,
        "minWorkerReplicas": 1,
        "maxWorkerReplicas": 1,
        "desiredCPU": "2",
        "desiredGPU": "0",
        "desiredMemory": "8192Mi",
        "endpoints": {
            "dashboard": "http://api/api/v2/workspaces/ws/rayclusters/tune/dashboard",
        },
        "head": {"podName": "tune-head-" + cluster["status"]["head"]["podName"][-5:]}
        | {"serviceName": "tune-head"},
        "lastUpdateTime": "2023-11-14T22:13:20+00:00",
        "conditions": [
            {
                "type": "HeadReady",
                "status": "False",
                "reason": "Starting",
                "message": "the head waits for a node",
                "lastTransitionTime": "2023-11-14T22:13:20+00:00",
            },
            {
                "type": "WorkersReady",
                "status": "False",
                "reason": "Starting",
                "message": "0 of 1 workers are ready",
                "lastTransitionTime": "2023-11-14T22:13:20+00:00",
            },
        ],
    }
    assert (await api.call("GET", "/rayclusters")).json() == [cluster]
    (head,) = (await api.call("GET", "/rayclusters/tune/replicas")).json()
    assert head["metadata"]["name"] == "tune-head"
    (event,) = (await api.call("GET", "/rayclusters/tune/events")).json()
    assert event["regarding"]["kind"] == "raycluster"
    assert (await api.call("GET", "/rayclusters/tune/why")).json()["state"] == "Starting"
    path = f"/rayclusters/tune/replicas/{head['id']}/log?follow=false"
    assert (await api.call("GET", path)).text == ""
    found = await api.call("GET", f"/logs?replica={head['id']}")
    assert found.status_code == 200

    assert (await api.call("DELETE", "/rayclusters/tune")).status_code == 200
    (left,) = await api.store.find(Replica, Query())
    assert left.abandoned
    gone = await api.call("GET", "/rayclusters/tune")
    assert (gone.status_code, gone.json()["code"]) == (404, "NotFound")
    api.clock.at_ms += 1
    await made(api)  # its name is free again


@with_api
async def test_every_group_has_a_name_by_which_it_is_resized(api):
    groups = [a_group(None), a_group("gpu"), a_group(None, min_replicas=2)]
    groups[0].pop("group_name")
    cluster = await made(api, "tune", groups)
    names = [group["group_name"] for group in cluster["spec"]["worker_group_specs"]]
    assert names == ["workers-0", "gpu", "workers-2"]
    change = {"spec": {"worker_group_specs": [{"group_name": "gpu", "min_replicas": 3}]}}
    changed = (await api.call("PATCH", "/rayclusters/tune", json=change)).json()
    sizes = [group["min_replicas"] for group in changed["spec"]["worker_group_specs"]]
    assert sizes == [1, 3, 2]
    assert changed["status"]["desiredWorkerReplicas"] == 6


@with_api
async def test_stop_and_start(api):
    await made(api)
    stopped = (
        await api.call("PATCH", "/rayclusters/tune", json={"spec": {"suspend": True}})
    ).json()
    assert stopped["status"]["state"] == "Stopping"
    assert stopped["status"]["desiredWorkerReplicas"] == 0
    again = await api.call("PATCH", "/rayclusters/tune", json={"spec": {"suspend": True}})
    assert again.json()["metadata"]["version"] == stopped["metadata"]["version"]
    started = await api.call("PATCH", "/rayclusters/tune", json={"spec": {"suspend": False}})
    assert started.json()["status"]["state"] == "Starting"


@with_api
async def test_an_autoscaler_is_kept_and_said_to_do_nothing(api):
    group = a_group(max_replicas=4)
    cluster = await made(api, "tune", [group], autoscaler={"ray_worker_idle_timeout": 60})
    assert cluster["spec"]["autoscaler"] == {"ray_worker_idle_timeout": 60}
    assert cluster["status"]["maxWorkerReplicas"] == 4
    told = cluster["status"]["conditions"][-1]
    assert (told["type"], told["status"], told["reason"]) == (
        "Autoscaling",
        "False",
        "NotSupported",
    )


WRONG = {
    "negative": (a_cluster(groups=[a_group(min_replicas=-1)]), 400),
    "min above max": (a_cluster(groups=[a_group(min_replicas=3, max_replicas=2)]), 400),
    "too many": (a_cluster(groups=[a_group(min_replicas=1_000), a_group("b")]), 400),
    "two of a name": (a_cluster(groups=[a_group(), a_group()]), 400),
    "called head": (a_cluster(groups=[a_group("head")]), 400),
    "odd group": (a_cluster(groups=[a_group("../x")]), 400),
    "odd name": (a_cluster("A b/c"), 400),
    "empty name": (a_cluster(""), 400),
    "no such shape": (a_cluster(groups=[a_group(resource_shape="huge")]), 400),
    "no such node group": (
        a_cluster(groups=[a_group(affinity={"allowed_dedicated_node_groups": ["nope"]})]),
        400,
    ),
    "no such GPU": (a_cluster(groups=[a_group(resource_shape="gpu.none")]), 422),
    "no such secret": (
        a_cluster(
            groups=[
                a_group(envs=[{"name": "A", "value_from": {"secret_name_ref": "NOPE"}}]),
            ]
        ),
        400,
    ),
    "no such reservation": (
        a_cluster(groups=[a_group(reservation_config={"reservation_id": "nope"})]),
        400,
    ),
    "uneven segments": (
        a_cluster(groups=[a_group(min_replicas=3, segment_config={"count_per_segment": 2})]),
        400,
    ),
    "two heads": (a_cluster(head_group_spec=HEAD | {"min_replicas": 2}), 400),
    "segments of a head": (
        a_cluster(head_group_spec=HEAD | {"segment_config": {"count_per_segment": 1}}),
        400,
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_refused_and_nothing_is_kept(what, tmp_path):
    asked, status = WRONG[what]

    async def story(api):
        answer = await api.call("POST", "/rayclusters", json=asked)
        assert answer.status_code == status, answer.text
        assert answer.json()["message"] and answer.json()["hint"]
        assert await api.store.find(RayCluster, Query()) == []

    with_api(story)(tmp_path)


@with_api
async def test_a_name_is_given_once(api):
    await made(api)
    answer = await api.call("POST", "/rayclusters", json=a_cluster())
    assert (answer.status_code, answer.json()["code"]) == (409, "AlreadyExists")


UNCHANGEABLE = (
    {"ray_version": "3"},
    {"autoscaler": {}},
    {"head_group_spec": {"cpu": 2}},
    {"worker_group_specs": [{"group_name": "cpu", "resource_shape": "cpu.large"}]},
    {"worker_group_specs": [{"group_name": "nope", "min_replicas": 1}]},
    {"worker_group_specs": [{"group_name": "cpu", "min_replicas": -1}]},
    {"worker_group_specs": [{"group_name": ["cpu"], "min_replicas": 1}]},
    {"worker_group_specs": ["cpu"]},
    {"worker_group_specs": "cpu"},
    {"worker_group_specs": [{"group_name": "cpu", "min_replicas": 5, "max_replicas": 1}]},
)


@with_api
async def test_only_numbers_of_workers_and_the_stop_can_be_changed(api):
    cluster = await made(api)
    for patch in UNCHANGEABLE:
        answer = await api.call("PATCH", "/rayclusters/tune", json={"spec": patch})
        assert answer.status_code == 400, (patch, answer.text)
    assert (await api.call("GET", "/rayclusters/tune")).json() == cluster
    same = await api.call("PATCH", "/rayclusters/tune", json={"spec": cluster["spec"]})
    assert same.json() == cluster


@with_api
async def test_members_see_what_is_public_and_rule_over_their_own(api):
    await made(api, who="ana")
    private = a_cluster("own")
    private["metadata"]["visibility"] = "private"
    await api.call("POST", "/rayclusters", json=private, who="ana")
    seen = (await api.call("GET", "/rayclusters", who="ben")).json()
    assert [each["metadata"]["name"] for each in seen] == ["tune"]
    stop = {"spec": {"suspend": True}}
    for method, path, body, status in (
        ("GET", "/rayclusters/own", None, 404),
        ("PATCH", "/rayclusters/own", stop, 404),
        ("PATCH", "/rayclusters/tune", stop, 403),
        ("DELETE", "/rayclusters/tune", None, 403),
        ("GET", "/rayclusters/own/dashboard/api/version", None, 404),
        ("GET", "/rayclusters/tune/dashboard/api/version", None, 403),
    ):
        answer = await api.call(method, path, json=body, who="ben")
        assert answer.status_code == status, (method, path, answer.text)
    for who in ("eve", ""):
        path = "/rayclusters/tune/dashboard/api/version"
        answer = await api.call("GET", path, who=who)
        assert answer.status_code == (404 if who else 401)


@with_api
async def test_a_dashboard_that_is_not_there_says_why_and_when_it_will_be(api):
    await made(api)
    path = "/rayclusters/tune/dashboard/api/version"
    answer = await api.call("GET", path)
    assert (answer.status_code, answer.json()["code"]) == (503, "Unavailable")
    assert answer.headers["retry-after"]
    assert "not ready: the head waits for a node" in answer.json()["message"]
    await api.call("PATCH", "/rayclusters/tune", json={"spec": {"suspend": True}})
    answer = await api.call("GET", path)
    assert (answer.status_code, answer.json()["code"]) == (409, "Conflict")
    assert "raycluster start tune" in answer.json()["hint"]
    assert (await api.call("GET", "/rayclusters/nope/dashboard/api/version")).status_code == 404


@with_api
async def test_a_head_whose_port_is_closed_is_unavailable(api):
    await made(api)
    (head,) = await api.store.find(Replica, Query())
    running = replace(head, phase=Phase.RUNNING, node="laptop", ports=(1, 2, 3, 4), ready=True)
    await api.store.commit(Put(running))
    answer = await api.call("GET", "/rayclusters/tune/dashboard/api/version")
    assert (answer.status_code, answer.json()["code"]) == (503, "Unavailable")
    assert "the dashboard of Ray cluster tune does not answer" in answer.json()["message"]
    assert api.world.relays.under_way == 0
