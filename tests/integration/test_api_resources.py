import hashlib

import pytest
from api_world import KEY, NOW_MS, a_job, with_api

from leptonai.core.records import Secret
from leptonai.core.routing import RouteTable
from leptonai.ports.store import Query
from leptonai.security.secrets import Sealer

MODEL = {"metadata": {"name": "cnn"}, "spec": {"size_bytes": 1, "format": "torch"}}


@with_api
async def test_the_workspace_answers_a_login(api):
    await api.call("POST", "/jobs", json=a_job())
    info = (await api.call("GET", "/workspace")).json()
    assert info | {"supported_shapes": {}} == {
        "build_time": "",
        "git_commit": "1.2.3",
        "workspace_name": "ws",
        "workspace_tier": "basic",
        "workspace_state": "normal",
        "workspace_disk_usage_bytes": 0,
        "workloads": {
            "num_deployments": 0,
            "num_jobs": 1,
            "num_pods": 0,
            "num_secrets": 0,
            "num_image_pull_secrets": 0,
            "num_photons": 0,
        },
        "service_quota": {
            "limit": {"kv_store_num": 1_000_000, "queue_num": 1_000_000},
            "used": {"kv_store_num": 0, "queue_num": 0},
        },
        "resource_quota": {
            "limit": {"cpu": 4.0, "memory": 8192, "accelerator_num": 0.0},
            "used": {"cpu": 0.0, "memory": 0, "accelerator_num": 0.0},
        },
        "supported_shapes": {},
        "features": {
            "enable_new_deployment_api": False,
            "enable_secure_endpoint_defaults": False,
        },
    }
    assert set(info["supported_shapes"]) == {"cpu.small", "cpu.medium", "cpu.large"}
    assert (await api.call("GET", "")).json() == {"id": "ws", "display_name": "ws"}


@with_api
async def test_tokens_are_listed_in_the_form_that_clients_compare(api):
    (mine,) = (await api.call("GET", "/tokens", who="ana")).json()
    head, tail = mine["masked_value"].split("...")
    literal = api.tokens["ana"]
    assert literal.startswith(head) and literal.endswith(tail)
    assert len(head) + len(tail) < 16
    assert isinstance(mine["expires_at"], int)
    assert (mine["name"], mine["role"]) == ("ana", "member")
    assert len((await api.call("GET", "/tokens")).json()) == 4


@with_api
async def test_machines_are_shown_in_their_group(api):
    (group,) = (await api.call("GET", "/dedicated-node-groups")).json()
    assert group == {
        "metadata": {"id": "local", "name": "local", "created_at": NOW_MS},
        "spec": {
            "workspaces": ["ws", "other"],
            "volumes": [],
            "enable_object_storage": True,
            "desired_nodes": 1,
        },
        "status": {"ready_nodes": 1, "quota_enabled": True},
    }
    assert (await api.call("GET", "/dedicated-node-groups/local")).json() == group
    (node,) = (await api.call("GET", "/dedicated-node-groups/local/nodes?idle=true")).json()
    assert node["spec"]["unschedulable"] is False
    assert node["spec"]["resource"]["memory"] == {"allocated": 0, "total": 8192}
    assert node["status"] == {"status": ["Ready"], "workloads": []}
    assert (await api.call("GET", "/dedicated-node-groups/moon")).status_code == 404
    shapes = (await api.call("GET", "/shapes?node_groups=local&purpose=job")).json()
    assert [shape["spec"]["name"] for shape in shapes] == ["cpu.small", "cpu.medium", "cpu.large"]


@with_api
async def test_a_secret_is_written_and_never_read(api):
    items = [{"name": "A", "value": "first-s3cret"}, {"name": "B", "value": "x"}]
    answers = [await api.call("POST", "/usersecrets", json=items)]
    answers.append(await api.call("GET", "/usersecrets"))
    assert answers[1].json() == [
        {"name": name, "visibility": "private", "owner": "admin"} for name in ("A", "B")
    ]
    kept = {each.name: each for each in await api.store.find(Secret, Query())}
    assert Sealer(KEY).open("ws", "A", kept["A"].ciphertext) == "first-s3cret"
    again = await api.call("POST", "/usersecrets", json=[{"name": "C", "value": "1"}, items[0]])
    assert (again.status_code, again.json()["code"]) == (409, "AlreadyExists")
    assert (await api.call("DELETE", "/usersecrets/B")).status_code == 200
    assert (await api.call("DELETE", "/usersecrets/B")).status_code == 404
    assert [each["name"] for each in (await api.call("GET", "/usersecrets")).json()] == ["A"]
    answers.append(again)
    everything = "".join(answer.text for answer in answers) + api.audit.read_text()
    assert "s3cret" not in everything and "s3cret" not in repr(kept)


@with_api
async def test_a_blob_is_kept_under_its_digest_and_no_other(api):
    data = b"some bytes"
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (await api.call("HEAD", f"/blobs/{digest}")).status_code == 404
    wrong = await api.call("PUT", f"/blobs/{digest}", content=b"other bytes")
    assert wrong.status_code == 400
    answer = await api.call("PUT", f"/blobs/{digest}", content=data)
    assert answer.json() == {"digest": digest, "size_bytes": len(data)}
    assert (await api.call("GET", f"/blobs/{digest}")).content == data
    head = await api.call("HEAD", f"/blobs/{digest}")
    assert (head.status_code, head.headers["content-length"]) == (200, "10")
    part = await api.call("GET", f"/blobs/{digest}", headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, data[1:4])
    assert part.headers["content-range"] == f"bytes 1-3/{len(data)}"
    late = await api.call("GET", f"/blobs/{digest}", headers={"Range": f"bytes={len(data)}-"})
    assert (late.status_code, late.json()["code"]) == (416, "RangeNotSatisfiable")
    assert (await api.call("GET", "/blobs/sha256:abc")).status_code == 400


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_versions_are_numbered_and_a_number_is_never_given_twice(kind, tmp_path):
    async def story(api):
        async def push(data):
            spec = MODEL["spec"] | {"digest": await api.add_blob(data)}
            answer = await api.call("POST", f"/{kind}", json=MODEL | {"spec": spec})
            assert answer.status_code == 200, answer.text
            return answer.json()["metadata"]["version"]

        assert [await push(b"a"), await push(b"a"), await push(b"b")] == [1, 1, 2]
        assert (await api.call("GET", f"/{kind}/cnn")).json()["metadata"]["version"] == 2
        assert (await api.call("GET", f"/{kind}/cnn@1")).json()["metadata"]["version"] == 1
        assert (await api.call("DELETE", f"/{kind}/cnn@2")).status_code == 200
        assert (await api.call("GET", f"/{kind}/cnn@2")).status_code == 404
        assert await push(b"b") == 3
        listed = [
            each["metadata"]["version"] for each in (await api.call("GET", f"/{kind}")).json()
        ]
        assert listed == [1, 3]
        assert (await api.call("DELETE", f"/{kind}/cnn")).status_code == 200
        assert (await api.call("GET", f"/{kind}")).json() == []
        unknown = MODEL | {"spec": MODEL["spec"] | {"digest": "sha256:" + "0" * 64}}
        assert (await api.call("POST", f"/{kind}", json=unknown)).status_code == 400

    with_api(story)(tmp_path)


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_an_alias_is_moved_and_taken_away_by_who_may(kind, tmp_path):
    async def story(api):
        for data in (b"a", b"b"):
            spec = MODEL["spec"] | {"digest": await api.add_blob(data)}
            await api.call("POST", f"/{kind}", json=MODEL | {"spec": spec}, who="ana")

        async def alias(method, reference, name, who="ana"):
            path = f"/{kind}/{reference}/aliases/{name}"
            return await api.call(method, path, who=who)

        async def aliases():
            listed = (await api.call("GET", f"/{kind}")).json()
            return [each.get("aliases", []) for each in listed]

        assert (await alias("PUT", "cnn@1", "best")).json()["aliases"] == ["best"]
        assert (await alias("PUT", "cnn", "best")).json()["metadata"]["version"] == 2
        assert (await alias("PUT", "cnn", "best")).status_code == 200
        assert await aliases() == [[], ["best"]]
        assert (await alias("PUT", "cnn@best", "prod")).json()["aliases"] == ["best", "prod"]
        assert (await alias("PUT", "cnn@best", "prod", who="ben")).status_code == 403
        assert (await alias("PUT", "cnn@9", "best")).status_code == 404
        assert (await alias("PUT", "cnn", "3")).status_code == 400
        assert (await alias("DELETE", "cnn@best", "best")).status_code == 200
        assert (await alias("DELETE", "cnn@2", "best")).status_code == 404
        assert await aliases() == [[], ["prod"]]
        assert (await api.call("DELETE", f"/{kind}/cnn@prod", who="ana")).status_code == 200
        assert (await api.call("GET", f"/{kind}/cnn@prod")).status_code == 404
        given = MODEL | {"aliases": ["best"], "spec": spec}
        assert (await api.call("POST", f"/{kind}", json=given)).status_code == 400

    with_api(story)(tmp_path)


@with_api
async def test_gateways_follow_the_route_table(api):
    path = "/internal/routes?after=-1&timeout_s=0"
    same = await api.call("GET", path, who="gateway", platform=True)
    assert (same.status_code, same.content) == (204, b"")
    api.routes.table = RouteTable(seq=7, routes=(), workspace_token_sha256={"ws": ("ab",)})
    newer = await api.call("GET", path, who="gateway", platform=True)
    assert newer.json() == {
        "seq": 7,
        "routes": [],
        "workspace_token_sha256": {"ws": ["ab"]},
        "hosts": [],
    }
    assert (await api.call("GET", path, who="ana", platform=True)).status_code == 403


@with_api
async def test_gateways_tell_of_traffic(api):
    times = {"start_ms": 0, "end_ms": api.clock.now_ms()}
    window = {"workspace": "ws", "endpoint": "a", **times, "held": 2}
    window["ended"] = {"2": 7}  # a key of a JSON object is a string
    report = {"gateway": "g", "windows": [window], "leaving": {"r": 1}}
    path = "/internal/traffic"
    told = await api.call("POST", path, json=report, who="gateway", platform=True)
    assert (told.status_code, told.content) == (204, b"")
    (kept,) = api.traffic.told(("ws", "a"), 0)
    assert kept.ended == {2: 7}
    assert api.traffic.busy("r")
    assert api.traffic.held(("ws", "a")).requests == 2
    for who in ("ana", "admin"):
        refused = await api.call("POST", path, json=report, who=who, platform=True)
        assert refused.status_code == 403
    broken = await api.call("POST", path, json={"gateway": 1}, who="gateway", platform=True)
    assert broken.status_code == 400


@with_api
async def test_metrics_count_requests_and_jobs(api):
    await api.call("POST", "/jobs", json=a_job())
    text = (await api.call("GET", "/metrics", platform=True)).text
    assert 'lepton_jobs{state="Queueing"} 1' in text
    counted = 'method="POST",route="/api/v2/workspaces/{workspace}/jobs",status="200"'
    assert f"lepton_api_requests_total{{{counted}}} 1" in text


@with_api
async def test_the_openapi_document_describes_every_route(api):
    document = (await api.call("GET", "/openapi.json", platform=True)).json()
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]["/api/v2/workspaces/{workspace}/jobs"]) == {"get", "post"}
    ids = [
        operation["operationId"]
        for methods in document["paths"].values()
        for operation in methods.values()
    ]
    assert len(ids) == len(set(ids))
