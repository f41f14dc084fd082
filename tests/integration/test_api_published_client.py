"""What the published client sends and needs, told as the requests that it makes."""

import pytest
from api_world import with_api

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


@with_api
async def test_beyond_the_last_page_there_is_nothing(api):
    for _ in range(3):
        assert (await api.call("POST", "/jobs", json=JOB)).status_code == 200
    pages = [
        len((await api.call("GET", f"/jobs?page={page}&page_size=2")).json()["jobs"])
        for page in (1, 2, 3, 100)
    ]
    assert pages == [2, 1, 0, 0]
