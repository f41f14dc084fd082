"""What the published client sends and needs, told as the requests that it makes."""

import re

import msgspec
import pytest
from api_world import with_api
from msgspec.structs import replace
from published_calls import CALLS, Maybe

from leptonai.core.records import Phase, Replica
from leptonai.ports.store import Put, Query

JOB = {"metadata": {"id": "j"}, "spec": {"container": {"command": ["true"]}}}
LENIENT = {"prefer": ""}


def a_job_with(**spec):
    return {"metadata": {"id": "j"}, "spec": JOB["spec"] | spec}


@with_api
async def test_unknown_fields_are_ignored_and_named_in_a_header(api):
    asked = a_job_with(
        from_the_future={"a": 1}, envs=[{"name": "A", "value": "1", "colour": "red"}]
    )
    answer = await api.call("POST", "/jobs", json=asked, headers=LENIENT)
    assert answer.status_code == 200, answer.text
    assert answer.json()["spec"]["envs"] == [{"name": "A", "value": "1"}]
    assert answer.headers["warning"] == (
        '299 - "unknown fields were ignored: spec.from_the_future, spec.envs[0].colour"'
    )


@with_api
async def test_unknown_fields_of_a_patch_are_ignored_too(api):
    await api.call("POST", "/deployments", json={"metadata": {"id": "e"}, "spec": JOB["spec"]})
    patch = {"spec": {"resource_requirement": {"min_replicas": 2, "max_replica": 2}}}
    answer = await api.call("PATCH", "/deployments/e", json=patch, headers=LENIENT)
    assert answer.json()["spec"]["resource_requirement"]["min_replicas"] == 2
    assert "spec.resource_requirement.max_replica" in answer.headers["warning"]


@pytest.mark.parametrize("key", ["a" * 5000, '\n\r"\\', "é", "[/red]"])
def test_what_a_warning_names_cannot_break_the_header(key, tmp_path):
    async def story(api):
        answer = await api.call("POST", "/jobs", json=a_job_with(**{key: 1}), headers=LENIENT)
        assert answer.status_code == 200
        warning = answer.headers["warning"]
        assert warning.isprintable() and warning.isascii() and len(warning) < 400

    with_api(story)(tmp_path)


@with_api
async def test_what_is_read_can_be_sent_back_as_a_patch(api):
    await api.call("POST", "/deployments", json={"metadata": {"id": "e"}, "spec": JOB["spec"]})
    read = (await api.call("GET", "/deployments/e")).json()
    read["spec"]["ingress_timeout_seconds"] = 600
    answer = await api.call("PATCH", "/deployments/e", json=read)
    assert answer.json()["spec"]["ingress_timeout_seconds"] == 600


@with_api
async def test_a_null_deletes_and_a_list_replaces(api):
    spec = JOB["spec"] | {
        "load_balance_config": {"least_request": {"choice_count": 3}},
        "envs": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    }
    await api.call("POST", "/deployments", json={"metadata": {"id": "e"}, "spec": spec})
    patch = {
        "load_balance_config": {"least_request": None, "maglev": {}},
        "envs": [{"name": "C", "value": "3"}],
    }
    answer = await api.call("PATCH", "/deployments/e", json={"spec": patch})
    assert answer.json()["spec"]["load_balance_config"] == {"maglev": {}}
    assert answer.json()["spec"]["envs"] == [{"name": "C", "value": "3"}]


@with_api
async def test_machines_of_a_node_group(api):
    (machine,) = (await api.call("GET", "/dedicated-node-groups/local/machines")).json()
    assert machine["metadata"]["id"] == machine["status"]["machine_id"]
    assert machine["status"]["resource"]["cpu"]["allocated"] == 0
    await api.call("POST", "/jobs", json=JOB)
    (waiting,) = await api.store.find(Replica, Query())
    running = replace(waiting, node=machine["metadata"]["id"], phase=Phase.RUNNING)
    await api.store.commit(Put(running))
    (machine,) = (await api.call("GET", "/dedicated-node-groups/local/machines")).json()
    assert machine["status"]["resource"]["cpu"]["allocated"] > 0


@with_api
async def test_a_node_group_that_is_not_there_offers_no_shapes(api):
    assert (await api.call("GET", "/shapes?node_groups=nowhere")).json() == []
    assert (await api.call("GET", "/shapes?node_groups=local")).json()


@with_api
async def test_beyond_the_last_page_there_is_nothing(api):
    for _ in range(3):
        assert (await api.call("POST", "/jobs", json=JOB)).status_code == 200
    pages = [
        len((await api.call("GET", f"/jobs?page={page}&page_size=2")).json()["jobs"])
        for page in (1, 2, 3, 100)
    ]
    assert pages == [2, 1, 0, 0]


@with_api
async def test_every_recorded_call_finds_what_the_client_needs(api):
    known = {}
    for call in CALLS:
        api.clock.at_ms += 1000
        sent = msgspec.json.encode(call.body).decode() if call.body is not None else None
        path = filled(call.path, known)
        content = filled(sent, known) if sent else None
        answer = await api.call(call.method, path, content=content, headers=LENIENT)
        assert answer.status_code == call.status, f"{call}\n{answer.text}"
        assert "warning" not in answer.headers, answer.headers["warning"]
        if call.shape is not None:
            wrong = misfits(answer.json(), call.shape)
            assert wrong == [], f"lep {call.command}: {call.method} {path}: {wrong}"
        made = call.method == "POST" and call.status == 200
        if made and call.path in ("/jobs", "/ingress"):
            known.setdefault(call.path, answer.json()["metadata"].get("id"))


def filled(text, known):
    return text.replace("{job}", known.get("/jobs") or "").replace(
        "{ingress}", known.get("/ingress") or ""
    )


def misfits(value, shape, path="$"):
    """Where a value has not the shape."""
    if isinstance(shape, Maybe):
        return [] if value is None else misfits(value, shape.shape, path)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{path} is no object"]
        return [
            wrong
            for key, each in shape.items()
            for wrong in misfits(value.get(key), each, f"{path}.{key}")
        ]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        if not shape:
            return [f"{path} is not empty"] if value else []
        return [
            wrong
            for at, item in enumerate(value)
            for wrong in misfits(item, shape[0], f"{path}[{at}]")
        ]
    if isinstance(shape, set):
        return [] if value in shape else [f"{path} is {value!r}"]
    if isinstance(value, bool) and shape is not bool:
        return [f"{path} is {value!r}"]
    return [] if isinstance(value, shape) else [f"{path} is {value!r}"]


# --- what decides whether the client works at all ------------------------------------------------


@with_api
async def test_without_a_token_there_is_an_answer_in_json(api):
    for path in ("", "/workspace", "/jobs"):
        answer = await api.call("GET", path, who="")
        assert answer.status_code == 401
        assert set(answer.json()) >= {"code", "message"}


@with_api
async def test_the_bare_url_answers_in_json(api):
    answer = await api.call("GET", "")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["display_name"] == "ws"


@with_api
async def test_a_jobs_id_is_the_servers_and_an_endpoints_is_its_name(api):
    made = (await api.call("POST", "/jobs", json=JOB)).json()["metadata"]
    assert made["name"] == "j"
    assert made["id"].startswith("j-") and len(made["id"]) == len("j-") + 4
    body = {"metadata": {"id": "e"}, "spec": JOB["spec"]}
    made = (await api.call("POST", "/deployments", json=body)).json()["metadata"]
    assert made["id"] == made["name"] == "e"


@with_api
async def test_an_image_is_taken_although_no_container_runs(api):
    image = {"image": "nvcr.io/nvidia/pytorch:25.08-py3", "command": ["true"]}
    made = await api.call("POST", "/jobs", json=a_job_with(container=image))
    assert made.json()["spec"]["container"]["image"] == image["image"]


@with_api
async def test_no_error_holds_what_a_terminal_client_takes_for_markup(api):
    for name in ("[/red]", "[bold]", "a[b]c", "[[x]]", "[/]"):
        bad = a_job_with(resource_shape=name)
        for answer in (
            await api.call("POST", "/jobs", json=bad),
            await api.call("GET", f"/jobs/{name.replace('/', '')}"),
            await api.call("GET", f"/jobs?job_query_mode={name}"),
        ):
            assert answer.status_code in (400, 404)
            assert not re.search(r"\[[a-z/@#]", answer.text), answer.text
