"""Reservations through the API."""

from api_world import NOW_MS, a_node, with_api

from leptonai.ports.store import Put

PATH = "/dedicated-node-groups/local/reservations"
NOW_S = NOW_MS // 1000


def asked(**spec):
    return {"metadata": {"name": "mine"}, "spec": spec}


def job(reservation):
    config = {"reservation_id": reservation}
    spec = {"container": {"command": ["true"]}, "reservation_config": config}
    return {"metadata": {"id": "j"}, "spec": spec}


@with_api
async def test_a_reservation_from_its_asking_to_its_end(api):
    rule = {"start_timestamp": NOW_S + 100, "end_timestamp": NOW_S + 200}
    made = await api.call("POST", PATH, json=asked(time_rule=rule, users=["ana"]), who="ana")
    assert made.status_code == 200, made.text
    id = made.json()["metadata"]["id"]
    assert made.json()["status"]["phase"] == "PendingApproval"
    assert made.json()["spec"]["created_by"] == "ana"

    verdict = f"{PATH}/{id}/verdict"
    for who in ("ana", "ben"):
        assert (await api.call("PUT", verdict, json={"approve": True}, who=who)).status_code == 403
    approved = (await api.call("PUT", verdict, json={"approve": True})).json()
    assert approved["status"] == {
        "phase": "WaitingEffective",
        "reserved_count": 0,
        "reserved_nodes": ["laptop"],
    }
    api.clock.at_ms += 100_000
    (listed,) = (await api.call("GET", PATH, who="ben")).json()
    assert (listed["status"]["phase"], listed["status"]["reserved_count"]) == ("Reserved", 1)
    assert listed["spec"]["approved_nodes"] == 1

    assert (await api.call("POST", "/jobs", json=job(id), who="ana")).status_code == 200
    assert (await api.call("POST", "/jobs", json=job(id), who="ben")).status_code == 403
    assert (await api.call("POST", "/jobs", json=job("none"), who="ana")).status_code == 400
    api.clock.at_ms += 100_000
    assert (await api.call("GET", f"{PATH}/{id}")).json()["status"]["phase"] == "Expired"
    assert (await api.call("POST", "/jobs", json=job(id), who="ana")).status_code == 400
    assert (await api.call("PUT", verdict, json={"approve": True})).status_code == 409
    assert (await api.call("DELETE", f"{PATH}/{id}", who="ben")).status_code == 403
    assert (await api.call("DELETE", f"{PATH}/{id}", who="ana")).status_code == 200
    assert (await api.call("GET", PATH)).json() == []


@with_api
async def test_two_reservations_never_get_the_same_node(api):
    ids = [
        (await api.call("POST", PATH, json=asked(), who="ana")).json()["metadata"]["id"]
        for _ in range(2)
    ]
    verdicts = [f"{PATH}/{id}/verdict" for id in ids]
    assert (await api.call("PUT", verdicts[0], json={"approve": True})).status_code == 200
    assert (await api.call("PUT", verdicts[1], json={"approve": True})).status_code == 409
    named = {"approve": True, "nodes": ["laptop"]}
    assert (await api.call("PUT", verdicts[1], json=named)).status_code == 400
    assert (await api.call("PUT", verdicts[0], json={"approve": False})).status_code == 200
    assert (await api.call("PUT", verdicts[1], json=named)).status_code == 200
    await api.store.commit(Put(a_node(id="node-2", name="node-2")))
    assert (await api.call("PUT", verdicts[0], json={"approve": True})).json()["status"][
        "reserved_nodes"
    ] == ["node-2"]


@with_api
async def test_what_cannot_be_reserved(api):
    for path, spec, status in (
        (PATH, {"desired_nodes": 9}, 422),
        (PATH, {"desired_nodes": 0}, 400),
        (PATH, {"time_rule": {"start_timestamp": NOW_S, "end_timestamp": NOW_S - 1}}, 400),
        (PATH, {"time_rule": {"start_timestamp": NOW_MS}}, 400),
        (PATH, {"users": ["a/b\n"]}, 400),
        ("/dedicated-node-groups/moon/reservations", {}, 404),
    ):
        answer = await api.call("POST", path, json=asked(**spec))
        assert answer.status_code == status, (spec, answer.text)
