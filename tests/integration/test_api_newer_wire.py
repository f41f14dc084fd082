"""The newer wire of endpoints and pods, behind a feature of the workspace."""

from api_world import with_api
from msgspec.structs import replace

from leptonai.core.records import Endpoint, PodSeen
from leptonai.ports.store import Put, Query

ON = {"features": {"enable_new_deployment_api": True}}
COMPONENT = {"name": "default", "command": ["serve"], "resource_shape": "cpu.small"}
ENDPOINT = {"metadata": {"name": "e"}, "spec": {"components": [COMPONENT], "api_tokens": []}}
POD = {"metadata": {"name": "p"}, "spec": {"container": {"command": ["sleep"]}, "cpu": 1}}


@with_api
async def test_only_an_admin_turns_features_on(api):
    assert (await api.call("PATCH", "/workspace", json=ON, who="ana")).status_code == 403
    assert (await api.call("GET", "/endpoints")).status_code == 404
    answer = await api.call("PATCH", "/workspace", json=ON)
    assert answer.json()["features"] == {
        "enable_new_deployment_api": True,
        "enable_secure_endpoint_defaults": False,
    }
    assert (await api.call("GET", "/endpoints", who="ana")).json() == []
    assert (await api.call("GET", "/workspace", who="ana")).json()["features"][
        "enable_new_deployment_api"
    ]
    for wrong in ({"features": {"x": True}}, {"features": {"enable_new_deployment_api": 1}}):
        assert (await api.call("PATCH", "/workspace", json=wrong)).status_code == 400


@with_api
async def test_an_endpoint_on_the_newer_wire_is_the_same_resource(api):
    await api.call("PATCH", "/workspace", json=ON)
    made = await api.call("POST", "/endpoints", json=ENDPOINT, who="ana")
    assert made.status_code == 200, made.text
    read = (await api.call("GET", "/endpoints/e")).json()
    assert read["spec"]["components"] == [COMPONENT]
    assert read["metadata"]["lepton_metadata"]["owner"] == "ana"

    read["spec"]["components"][0]["min_replicas"] = 2
    read["spec"]["ingress_timeout_seconds"] = 600
    patch = {"spec": read["spec"], "metadata": {"lepton_metadata": {"visibility": "public"}}}
    changed = (await api.call("PATCH", "/endpoints/e", json=patch)).json()
    assert changed["spec"]["components"][0]["min_replicas"] == 2
    older = (await api.call("GET", "/deployments/e")).json()
    assert older["spec"]["resource_requirement"]["min_replicas"] == 2
    assert older["spec"]["ingress_timeout_seconds"] == 600
    assert older["metadata"]["visibility"] == "public"

    gone = {"spec": {"components": [COMPONENT], "ingress_timeout_seconds": None}}
    await api.call("PATCH", "/endpoints/e", json=gone)
    older = (await api.call("GET", "/deployments/e")).json()
    assert "min_replicas" not in older["spec"]["resource_requirement"]
    assert "ingress_timeout_seconds" not in older["spec"]

    assert (await api.call("GET", "/endpoints/e/replicas")).status_code == 200
    assert (await api.call("GET", "/endpoints/e/events")).json()
    assert (await api.call("PUT", "/endpoints/e/restart", who="ben")).status_code == 403
    assert (await api.call("PUT", "/endpoints/e/restart")).status_code == 200
    two = {"spec": {"components": [COMPONENT, COMPONENT]}}
    assert (await api.call("PATCH", "/endpoints/e", json=two)).status_code == 400
    assert (await api.call("DELETE", "/endpoints/e")).status_code == 200
    assert (await api.call("GET", "/deployments")).json() == []


@with_api
async def test_a_pod_on_the_newer_wire_is_stopped_and_started(api):
    await api.call("PATCH", "/workspace", json=ON)
    made = await api.call("POST", "/devpods", json=POD)
    assert made.status_code == 200, made.text
    assert (await api.call("GET", "/endpoints")).json() == []
    assert (await api.call("GET", "/endpoints/p")).status_code == 404
    for stopped, replicas in ((True, 0), (False, 1)):
        await api.call("PATCH", "/devpods/p", json={"spec": {"stopped": stopped}})
        assert (await api.call("GET", "/devpods/p")).json()["spec"]["stopped"] is stopped
        older = (await api.call("GET", "/deployments/p")).json()
        assert older["spec"]["resource_requirement"]["min_replicas"] == replicas
        assert older["spec"]["is_pod"] is True


@with_api
async def test_a_running_pod_says_where_its_ports_are_reached(api):
    await api.call("PATCH", "/workspace", json=ON)
    ports = [
        {"container_port": 8080, "expose_strategies": ["IngressProxy"]},
        {"container_port": 9090, "expose_strategies": ["HostPortMapping"]},
    ]
    asked = {"metadata": {"name": "p"}, "spec": {"container": {"ports": ports}, "cpu": 1}}
    made = (await api.call("POST", "/devpods", json=asked)).json()
    assert "public_ip" not in made["status"], "it does not run"
    (pod,) = await api.store.find(Endpoint, Query())
    seen = PodSeen(
        node="laptop",
        ports=((8080, 7001), (9090, 7002), (2222, 7003), (18888, 7004), (18889, 7005)),
        ssh_host_key="ssh-ed25519 A",
    )
    await api.store.commit(Put(replace(pod, pod=seen)))

    status = (await api.call("GET", "/devpods/p")).json()["status"]
    assert status["public_ip"] == "127.0.0.1"
    mapped = [(each["container_port"], each["host_port"]) for each in status["port_statuses"]]
    assert mapped == [(9090, 7002), (2222, 7003), (18888, 7004)], "what is proxied is not mapped"
    assert (await api.call("GET", "/devpods")).json()[0]["status"] == status

    older = (await api.call("GET", "/deployments/p")).json()["status"]
    assert older["public_ip"] == "127.0.0.1"
    assert older["container_port_status"][0] == {
        "container_port": 8080,
        "external_endpoint": "http://gateway/port/ws/p/",
        "protocol": "TCP",
    }


@with_api
async def test_unknown_fields_are_refused_or_ignored_here_too(api):
    await api.call("PATCH", "/workspace", json=ON)
    asked = {"metadata": {"name": "e"}, "spec": {"components": [COMPONENT | {"colour": "red"}]}}
    assert (await api.call("POST", "/endpoints", json=asked)).status_code == 400
    made = await api.call("POST", "/endpoints", json=asked, headers={"prefer": ""})
    assert made.status_code == 200
    assert "spec.colour" in made.headers["warning"]


@with_api
async def test_where_endpoints_are_secure_by_default_a_token_is_shown_once(api):
    secure = {"features": {"enable_secure_endpoint_defaults": True}}
    await api.call("PATCH", "/workspace", json=secure)
    asked = {"metadata": {"id": "e"}, "spec": {"container": {"command": ["serve"]}}}
    made = (await api.call("POST", "/deployments", json=asked)).json()
    (token,) = made["spec"]["api_tokens"]
    (shown,) = (await api.call("GET", "/deployments/e")).json()["spec"]["api_tokens"]
    assert len(token["value"]) >= 32
    assert "***" in shown["value"]
    public = {"metadata": {"id": "f"}, "spec": asked["spec"] | {"api_tokens": []}}
    assert (await api.call("POST", "/deployments", json=public)).json()["spec"]["api_tokens"] == []
