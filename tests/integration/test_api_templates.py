"""Templates through the API."""

import os
import subprocess

from api_world import with_api

from leptonai.control.templates import public_templates
from leptonai.core.templates import rendered

GREET = {
    "metadata": {"name": "greet"},
    "spec": {
        "workload_type": "job",
        "content": {"container": {"command": ["echo", "{{whom}}"]}, "resource_shape": "cpu.small"},
        "json_schema": {"properties": {"whom": {"default": "you"}}},
    },
}


@with_api
async def test_public_templates_are_listed_and_rendered(api):
    listed = (await api.call("GET", "/templates/public")).json()
    assert {"torchrun", "mpi"} <= {each["metadata"]["id"] for each in listed}
    made = await api.call("POST", "/templates/public/torchrun/render", json={"run": "train.py -x"})
    assert made.json()["spec"]["container"]["command"][2].endswith("train.py -x")
    job = {"metadata": {"id": "t"}, "spec": made.json()["spec"]}
    assert (await api.call("POST", "/jobs", json=job)).status_code == 200
    missing = await api.call("POST", "/templates/public/torchrun/render", json={})
    assert (missing.status_code, missing.json()["code"]) == (400, "InvalidRequest")
    assert (await api.call("GET", "/templates/public/nope")).status_code == 404


@with_api
async def test_a_private_template_from_its_making_to_its_end(api):
    made = await api.call("POST", "/templates/private", json=GREET, who="ana")
    assert made.status_code == 200, made.text
    assert made.json()["metadata"]["id"] == "greet"
    assert (await api.call("POST", "/templates/private", json=GREET)).status_code == 409
    (listed,) = (await api.call("GET", "/templates/private", who="ben")).json()
    assert listed["spec"] == GREET["spec"]
    path = "/templates/private/greet"
    rendered = await api.call("POST", f"{path}/render", json={"whom": "me"}, who="ben")
    assert rendered.json()["spec"]["container"]["command"] == ["echo", "me"]
    assert (await api.call("DELETE", path, who="ben")).status_code == 403
    assert (await api.call("DELETE", path, who="ana")).status_code == 200
    assert (await api.call("GET", path)).status_code == 404
    assert (await api.call("POST", "/templates/private", json=GREET)).status_code == 200


@with_api
async def test_a_private_template_is_its_owners_alone_if_it_says_so(api):
    private = GREET | {"metadata": {"name": "greet", "visibility": "private"}}
    await api.call("POST", "/templates/private", json=private, who="ana")
    assert (await api.call("GET", "/templates/private", who="ben")).json() == []
    rendered = await api.call("POST", "/templates/private/greet/render", json={}, who="ben")
    assert rendered.status_code == 404
    other = "/api/v2/workspaces/other/templates/private"
    assert (await api.call("GET", other, who="eve")).json() == []


def test_torchrun_starts_a_process_for_each_gpu_or_one_without_any(tmp_path):
    made = rendered(public_templates()["torchrun"].spec, {"run": "train.py"})
    stand_in = tmp_path / "torchrun"
    stand_in.write_text('#!/bin/sh\nprintf "%s" "$6 $NGPUS"\n')
    stand_in.chmod(0o700)
    for gpus, processes in (("0", "1"), ("8", "8"), ("", "1")):
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LEPTON_RESOURCE_ACCELERATOR_NUM": gpus}
        told = subprocess.run(
            made.container.command, env=env, capture_output=True, text=True, check=True
        )
        assert told.stdout == f"{processes} {processes}"
