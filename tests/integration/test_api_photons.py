"""Photons as published clients push them: registered, listed, fetched, served and removed."""

import errno
import json
import zipfile
from io import BytesIO
from unittest.mock import patch

from api_world import with_api

SOURCE = """
from leptonai.photon import Photon

class Counter(Photon):
    @Photon.handler
    def add(self, x: int) -> int:
        return x + 1
"""


def an_archive(name="counter", source=SOURCE, **changes):
    told = {
        "name": name,
        "model": "counter.py:Counter",
        "type": "photon",
        "py_obj": {"name": "Counter", "obj_pkl_file": "obj.pkl"},
        "requirement_dependency": [],
        "deployment_template": {"resource_shape": "cpu.small", "env": {}, "secret": []},
        "image": "an-image",
    } | changes
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        zipped.writestr("metadata.json", json.dumps(told))
        zipped.writestr("py.py", source)
        zipped.writestr("obj.pkl", b"cos\nabort\n(tR.")
    return content.getvalue()


async def push(api, archive, who="ana"):
    return await api.call("POST", "/photons/private", who=who, files={"file": archive})


@with_api
async def test_a_pushed_photon_is_listed_fetched_and_removed(api):
    archive = an_archive()
    pushed = await push(api, archive)
    assert pushed.status_code == 200, pushed.text
    told = pushed.json()
    assert told["id"] == "counter@1"
    assert (told["name"], told["model"], told["image"]) == (
        "counter",
        "counter.py:Counter",
        "an-image",
    )
    assert told["deployment_template"]["resource_shape"] == "cpu.small"
    assert (await push(api, archive)).json()["id"] == "counter@1"  # the same once more
    assert (await push(api, an_archive(source=SOURCE + "#"))).json()["id"] == "counter@2"
    listed = (await api.call("GET", "/photons/private", who="ben")).json()
    assert [each["id"] for each in listed] == ["counter@2", "counter@1"]
    assert (await api.call("GET", "/photons/public")).json() == []
    assert (await api.call("GET", "/photons/private/counter@1")).json() == told
    for path in ("counter@1?content=true", "counter@1/content"):
        assert (await api.call("GET", f"/photons/private/{path}")).content == archive
    assert (await api.call("DELETE", "/photons/private/counter@2", who="ben")).status_code == 403
    assert (await api.call("DELETE", "/photons/private/counter@2")).status_code == 200
    assert (await api.call("GET", "/photons/private/counter@2")).status_code == 404


@with_api
async def test_a_photon_runs_as_a_deployment(api):
    await push(api, an_archive())
    spec = {"photon_id": "counter@1", "photon_namespace": "private"}
    made = await api.call(
        "POST", "/deployments", who="ana", json={"metadata": {"name": "count"}, "spec": spec}
    )
    assert made.status_code == 200, made.text
    assert made.json()["spec"]["model"] == "counter@1"
    spec["photon_id"] = "none@1"
    none = await api.call(
        "POST", "/deployments", who="ana", json={"metadata": {"name": "other"}, "spec": spec}
    )
    assert none.status_code == 404


@with_api
async def test_what_is_no_photon_is_refused_and_leaves_nothing(api):
    for archive, status in (
        (b"", 400),
        (b"PK\x03\x04 no zip", 400),
        (an_archive(type="vllm"), 400),
        (an_archive(name="Not A Name"), 400),
        (an_archive(py_obj=None), 400),
    ):
        answer = await push(api, archive)
        assert answer.status_code == status, answer.text
        assert answer.json()["hint"]
    assert (await api.call("POST", "/photons/public", content=an_archive())).status_code == 404
    assert (await api.call("GET", "/photons/nowhere")).status_code == 404
    assert (await push(api, an_archive(), who="gateway")).status_code == 403
    assert (await api.call("GET", "/photons/private")).json() == []


@with_api
async def test_a_full_disk_is_told_as_one(api):
    full = OSError(errno.ENOSPC, "No space left on device")
    with patch("leptonai.control.photon_archives.unpack_archive", side_effect=full):
        refused = await push(api, an_archive())
    assert (refused.status_code, refused.json()["code"]) == (507, "StorageFull")
