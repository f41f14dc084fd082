"""Ingresses through the API, as the published client drives them."""

import asyncio

from api_world import with_api

SPEC = {"container": {"command": ["serve"]}}


async def two_endpoints(api):
    for name in ("one", "two"):
        answer = await api.call(
            "POST", "/deployments", json={"metadata": {"id": name}, "spec": SPEC}
        )
        assert answer.status_code == 200, answer.text


async def an_ingress(api, **more):
    answer = await api.call(
        "POST", "/ingress", json={"metadata": {}, "spec": {"domain_name": "m.example.org"}}, **more
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["metadata"]["name"]


@with_api
async def test_an_ingress_from_its_making_to_its_end(api):
    await two_endpoints(api)
    name = await an_ingress(api)
    (listed,) = (await api.call("GET", "/ingress")).json()
    listed["status"].pop("dns")
    assert listed["metadata"]["id"] == listed["metadata"]["name"] == name
    assert listed["metadata"]["created_at"]
    assert listed["status"] == {
        "validation_status": "pending",
        "message": "no endpoint yet: add one",
        "expected_cname_target": "gateway",
    }

    listed["spec"]["endpoints"] = [{"deployment": "one", "weight": 80}]
    changed = (await api.call("PATCH", f"/ingress/{name}", json=listed)).json()
    assert changed["spec"]["endpoints"] == [{"deployment": "one", "weight": 80}]
    assert changed["status"]["validation_status"] == "active"

    path = f"/ingress/{name}/endpoint/deployment"
    added = (await api.call("POST", path, json={"deployment": "two", "weight": 20})).json()
    assert [each["deployment"] for each in added["spec"]["endpoints"]] == ["one", "two"]
    left = (await api.call("DELETE", f"{path}/one")).json()
    assert [each["deployment"] for each in left["spec"]["endpoints"]] == ["two"]
    assert (await api.call("DELETE", f"{path}/one")).status_code == 404

    await api.call("DELETE", "/deployments/two")
    gone = (await api.call("GET", f"/ingress/{name}")).json()
    assert gone["status"]["message"] == "no endpoint two"
    assert (await api.call("DELETE", f"/ingress/{name}")).status_code == 200
    assert (await api.call("GET", f"/ingress/{name}")).status_code == 404
    await an_ingress(api)  # its domain is free again


@with_api
async def test_it_is_told_which_dns_record_a_domain_wants_and_whether_it_leads_here(api):
    await two_endpoints(api)
    shares = [{"deployment": "one"}]
    asked = {"metadata": {}, "spec": {"domain_name": "M.example.org", "endpoints": shares}}
    made = (await api.call("POST", "/ingress", json=asked)).json()
    path = f"/ingress/{made['metadata']['name']}"
    assert made["status"]["dns"] == {
        "record": "CNAME gateway",
        "leads_here": None,
        "addresses": [],
        "looked_up_at": None,
    }

    async def looked_up(after_ms):
        api.clock.at_ms += after_ms
        for _ in range(6_000):
            status = (await api.call("GET", path)).json()["status"]
            if status["dns"]["looked_up_at"] == api.clock.at_ms:
                return status["message"], status["dns"]["leads_here"], status["dns"]["addresses"]
            await asyncio.sleep(0.01)
        raise AssertionError("nobody looks it up")

    nowhere = (
        "leads to one; but DNS does not know M.example.org yet: give it a record CNAME gateway"
    )
    assert await looked_up(60_000) == (nowhere, False, [])
    api.addresses["m.example.org"] = ("192.0.2.7",)
    elsewhere = (
        "leads to one; but DNS leads M.example.org to 192.0.2.7: give it a record CNAME gateway"
    )
    assert await looked_up(60_000) == (elsewhere, False, ["192.0.2.7"])
    api.addresses["m.example.org"] = ("10.0.0.1", "192.0.2.7")
    assert await looked_up(60_000) == ("leads to one", True, ["10.0.0.1", "192.0.2.7"])


@with_api
async def test_a_domain_is_given_once_in_all_workspaces(api):
    await an_ingress(api)
    asked = {"metadata": {}, "spec": {"domain_name": "M.EXAMPLE.org"}}
    assert (await api.call("POST", "/ingress", json=asked)).status_code == 409
    other = "/api/v2/workspaces/other/ingress"
    assert (await api.call("POST", other, json=asked, who="eve")).status_code == 409
    with_domain = SPEC | {"gateway": {"domains": ["m.example.org"]}}
    taken = await api.call(
        "POST", "/deployments", json={"metadata": {"id": "e"}, "spec": with_domain}
    )
    assert taken.status_code == 409


@with_api
async def test_what_an_ingress_cannot_be(api):
    await two_endpoints(api)
    name = await an_ingress(api)
    share = {"deployment": "one", "weight": 1}
    pod = {"metadata": {"name": "pod"}, "spec": {"is_pod": True}}
    assert (await api.call("POST", "/deployments", json=pod)).status_code == 200
    for spec, status, words in (
        ({"domain_name": "no host"}, 400, "is no host name"),
        ({"domain_name": "x.localhost"}, 400, "the platform's own"),
        ({"endpoints": [{"deployment": "nine"}]}, 400, "no endpoint 'nine'"),
        ({"endpoints": [{"weight": 1}]}, 400, "no endpoint ''"),
        ({"endpoints": [{"deployment": "pod"}]}, 400, "no endpoint 'pod'"),
        ({"endpoints": [share, share]}, 400, "named twice"),
        ({"endpoints": [share | {"weight": -1}]}, 400, "weight"),
        ({"auth_config": {"ip_allowlist": ["10.0.0.0/8"]}}, 400, "auth_config"),
        ({"traffic_shadowing_config": {"percentage": 5}}, 400, "copies no requests"),
    ):
        answer = await api.call("PATCH", f"/ingress/{name}", json={"spec": spec})
        assert (answer.status_code, words in answer.json()["message"]) == (status, True), (
            answer.text
        )


@with_api
async def test_only_its_owner_or_an_admin_changes_an_ingress(api):
    name = await an_ingress(api, who="ana")
    patch = {"spec": {"domain_name": "n.example.org"}}
    assert (await api.call("GET", f"/ingress/{name}", who="ben")).status_code == 200
    assert (await api.call("PATCH", f"/ingress/{name}", json=patch, who="ben")).status_code == 403
    assert (await api.call("DELETE", f"/ingress/{name}", who="ben")).status_code == 403
    assert (await api.call("PATCH", f"/ingress/{name}", json=patch, who="ana")).status_code == 200
    other = f"/api/v2/workspaces/ws/ingress/{name}"
    assert (await api.call("GET", other, who="eve")).status_code == 404
