"""Volumes and their files over HTTP."""

import hashlib
import os
from pathlib import Path

from api_world import a_job, with_api

GROUP = "/dedicated-node-groups/local"


async def a_volume(api, *, name="data", rules=()) -> Path:
    """Of a directory of its own, with a file and a directory in it."""
    root = api.audit.parent / f"volume-{name}"
    root.mkdir()
    (root / "sub").mkdir()
    (root / "sub" / "one.txt").write_text("one")
    asked = {"from": "local", "name": name, "creation_mode": "mkdir", "from_path": str(root)}
    added = await api.call("POST", f"{GROUP}/volumes", json=asked)
    assert added.status_code == 200, added.text
    for rule in rules:
        asked = {"nodegroup_id": "local", "subfolder_policy": "", "allowed_users": [], **rule}
        assert (await api.call("POST", f"/storage-permission/{name}", json=asked)).is_success
    return root


@with_api
async def test_an_admin_offers_a_directory_and_everybody_sees_it(api):
    root = await a_volume(api)
    (group,) = (await api.call("GET", "/dedicated-node-groups", who="ana")).json()
    (volume,) = group["spec"]["volumes"]
    assert (volume["name"], volume["from"], volume["from_path"]) == ("data", "local", str(root))
    again = {"from": "local", "name": "data", "from_path": str(root)}
    assert (await api.call("POST", f"{GROUP}/volumes", json=again)).status_code == 409
    assert (await api.call("POST", f"{GROUP}/volumes", who="ana", json=again)).status_code == 403
    gone = await api.call("DELETE", f"{GROUP}/volumes/data")
    assert gone.json()["spec"]["volumes"] == []
    assert (root / "sub" / "one.txt").read_text() == "one", "its files stay"


@with_api
async def test_the_files_go_with_a_volume_only_where_that_is_asked(api):
    root = await a_volume(api)
    (root / "out").symlink_to(api.audit.parent)
    assert (await api.call("DELETE", f"{GROUP}/volumes/data?delete_data=true")).is_success
    assert list(root.iterdir()) == []
    assert api.audit.exists(), "what a link leads to stays"


@with_api
async def test_what_would_give_the_system_away_is_no_volume(api):
    for path in ("", "relative", "/", "/etc", "/usr/", "/proc/self", "/no/such/directory", "/a:b"):
        asked = {"from": "local", "name": "bad", "creation_mode": "none", "from_path": path}
        assert (await api.call("POST", f"{GROUP}/volumes", json=asked)).status_code == 400, path
    asked = {"from": "remote", "name": "bad", "from_path": "/data"}
    assert (await api.call("POST", f"{GROUP}/volumes", json=asked)).status_code == 400
    nowhere = "/dedicated-node-groups/nowhere/volumes"
    assert (await api.call("POST", nowhere, json=asked)).status_code == 404


@with_api
async def test_files_are_listed_read_written_moved_and_removed(api):
    root = await a_volume(api)
    path = "/storage/data"
    entries = (await api.call("GET", f"{path}/sub")).json()
    assert [(e["type"], e["name"], e["path"]) for e in entries] == [
        ("file", "one.txt", "/sub/one.txt")
    ]
    assert (await api.call("HEAD", f"{path}/sub/one.txt")).status_code == 200
    assert (await api.call("HEAD", f"{path}/sub/two.txt")).status_code == 404
    assert (await api.call("GET", f"{path}/sub/one.txt")).content == b"one"
    part = await api.call("GET", f"{path}/sub/one.txt", headers={"range": "bytes=1-1"})
    assert (part.status_code, part.content) == (206, b"n")
    sent = await api.call("POST", f"{path}/new.bin", content=b"\0" * 3_000_000)
    assert sent.json() == {"received_bytes": 3_000_000, "complete": True}
    assert (root / "new.bin").stat().st_size == 3_000_000
    assert (await api.call("PUT", f"{path}/deep/er")).status_code == 200
    onto = await api.call("POST", f"{path}/deep/er", content=b"a file")
    assert onto.status_code == 409, "a directory is there"
    hidden = await api.call("POST", f"{path}/.lepton-upload-mine", content=b"")
    assert hidden.status_code == 400
    assert (await api.call("POST", f"{path}/", content=b"")).status_code == 400
    assert sorted(p.name for p in root.iterdir()) == ["deep", "new.bin", "sub"]
    moved = await api.call("POST", f"{path}/new.bin?move_to=/deep/er/moved.bin")
    assert moved.is_success
    assert (await api.call("GET", f"{path}/?usage=true")).json()["total_usage_bytes"] == 3_000_003
    assert (await api.call("DELETE", f"{path}/deep")).status_code == 409, "it is not empty"
    assert (await api.call("DELETE", f"{path}/deep?removeall=true")).is_success
    assert sorted(p.name for p in root.iterdir()) == ["sub"]


@with_api
async def test_a_form_is_an_upload_as_the_older_client_sends_it(api):
    root = await a_volume(api, name="default")
    data = os.urandom(300_000) + b"\r\n--not-the-boundary\r\n"
    answer = await api.call("POST", "/storage/default/a.bin", files={"file": ("a.bin", data)})
    assert answer.is_success, answer.text
    assert (root / "a.bin").read_bytes() == data
    empty = await api.call("POST", "/storage/default/b.bin", files={"file": ("b.bin", b"")})
    assert empty.is_success
    assert (root / "b.bin").read_bytes() == b""
    endless = {"content-type": f"multipart/form-data; boundary={'x' * 1_000}"}
    refused = await api.call("POST", "/storage/default/d.bin", content=b"--x", headers=endless)
    assert (refused.status_code, refused.json()["code"]) == (400, "InvalidRequest")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    cut = await api.call("POST", "/storage/default/c.bin", content=b"--x\r\n", headers=headers)
    assert cut.status_code == 400
    assert sorted(p.name for p in root.iterdir()) == ["a.bin", "b.bin", "sub"]
    (system,) = (await api.call("GET", "/storage")).json()
    assert system["metadata"]["name"] == "default"
    used = (await api.call("GET", "/storage/du")).json()
    assert used["status"]["total_usage_bytes"] == len(data) + 3


@with_api
async def test_an_upload_goes_on_where_it_was_cut_off_and_appears_whole(api):
    root = await a_volume(api)
    data = os.urandom(1_000)
    digest = hashlib.sha256(data).hexdigest()
    path = f"/storage/data/big.bin?upload=upload-1&sha256={digest}"

    async def send(start, end):
        headers = {"content-range": f"bytes {start}-{end - 1}/1000"}
        return await api.call("POST", path, content=data[start:end], headers=headers)

    assert (await send(0, 400)).json() == {"received_bytes": 400, "complete": False}
    assert not (root / "big.bin").exists()
    assert [e["name"] for e in (await api.call("GET", "/storage/data/")).json()] == ["sub"]
    come = await api.call("GET", "/storage/data/big.bin?upload=upload-1")
    assert come.json()["received_bytes"] == 400
    assert (await send(500, 1_000)).status_code == 409
    assert (await send(400, 1_000)).json() == {"received_bytes": 1_000, "complete": True}
    assert (root / "big.bin").read_bytes() == data
    (root / "big.bin").rename(root / ".lepton-upload-upload-1")  # as a kill would leave it
    come = await api.call("GET", "/storage/data/big.bin?upload=upload-1")
    assert come.json() == {"received_bytes": 1_000, "complete": False}
    assert (await send(999, 1_000)).json() == {"received_bytes": 1_000, "complete": True}
    assert (root / "big.bin").read_bytes() == data
    wrong = path.replace(digest, "0" * 64)
    assert (await api.call("POST", wrong, content=b"other")).status_code == 400
    assert (root / "big.bin").read_bytes() == data, "what was there before stays"
    assert [p.name for p in root.iterdir() if p.name.startswith(".")] == []


@with_api
async def test_no_path_and_no_link_leads_out_of_a_volume(api):
    root = await a_volume(api)
    secret = api.audit.parent / "secret"
    secret.mkdir()
    (secret / "key").write_text("key")
    (root / "out").symlink_to(secret)
    (root / "up").symlink_to("..")
    (root / "in").symlink_to("sub")
    (root / "pipe").touch()
    for path in ("out/key", "up/secret/key", "%2e%2e/secret/key", "sub/..%2f..%2fsecret/key"):
        for method in ("GET", "HEAD", "DELETE", "POST", "PUT"):
            answer = await api.call(method, f"/storage/data/{path}", content=b"mine")
            assert answer.status_code in (400, 403, 404), (method, path, answer.status_code)
    assert (secret / "key").read_text() == "key"
    assert (await api.call("GET", "/storage/data/in/one.txt")).content == b"one"
    moved = await api.call("POST", "/storage/data/sub/one.txt?move_to=/out/one.txt")
    assert moved.status_code == 403
    assert (await api.call("DELETE", "/storage/data/out?removeall=true")).is_success
    assert (secret / "key").exists(), "the link was removed, not what it leads to"


@with_api
async def test_rules_say_who_reaches_what(api):
    rules = (
        {"path_prefix": "/home", "subfolder_policy": "by_user"},
        {"path_prefix": "/public", "allowed_users": ["*"]},
        {"path_prefix": "/public/ben", "allowed_users": ["ben"]},
    )
    root = await a_volume(api, rules=rules)
    for path in ("home/ana", "home/ben", "public/ben"):
        (root / path).mkdir(parents=True)
        (root / path / "file").write_text(path)
    (root / "home/ana/link").symlink_to("../ben")

    async def status(who, path, method="GET"):
        return (await api.call(method, f"/storage/data/{path}", who=who)).status_code

    assert await status("ana", "home/ana/file") == 200
    assert await status("ana", "home/ben/file") == 403
    assert await status("ana", "home/ana/link/file") == 403, "a link makes no path another"
    assert await status("ana", "public/ben/file") == 403
    assert await status("ben", "public/ben/file") == 200
    assert await status("ana", "sub/one.txt") == 403, "no rule speaks of it"
    assert await status("ana", "public?removeall=true", "DELETE") == 403, "ben's is in it"
    assert await status("admin", "sub/one.txt") == 200
    names = [e["name"] for e in (await api.call("GET", "/storage/data/home", who="ana")).json()]
    assert names == ["ana"]
    top = [e["name"] for e in (await api.call("GET", "/storage/data/", who="ana")).json()]
    assert top == ["home", "public"]
    shown = (await api.call("GET", "/storage-permission/data?nodegroup_id=local")).json()
    assert [rule["path_prefix"] for rule in shown] == ["/home", "/public", "/public/ben"]
    gone = await api.call("DELETE", "/storage-permission/data/public/ben?nodegroup_id=local")
    assert gone.is_success
    assert await status("ana", "public/ben/file") == 200


def a_mount(source, *, path="", at="/mnt/data", **more):
    return {"from": source, "path": path, "mount_path": at, **more}


@with_api
async def test_a_job_mounts_what_there_is_and_its_owner_may_use(api):
    await a_volume(api, rules=({"path_prefix": "/home", "subfolder_policy": "by_user"},))
    await a_volume(api, name="default")

    async def status(*mounts, who="ana"):
        return (
            await api.call("POST", "/jobs", who=who, json=a_job(mounts=list(mounts)))
        ).status_code

    assert await status(a_mount("node-local:data", path="/home/ana")) == 200
    assert await status(a_mount("node-local")) == 200
    assert await status(a_mount("node-nfs:lepton-shared-fs")) == 200, "what scripts call it"
    assert await status(a_mount(None)) == 200
    assert await status(a_mount("node-local:data", path="/home/ben")) == 403
    assert await status(a_mount("node-local:data")) == 403
    assert await status(a_mount("node-local:data"), who="admin") == 200
    for wrong in (
        a_mount("node-local:none"),
        a_mount("node-nfs:data"),
        a_mount("node-local", path="../.."),
        a_mount("node-local", at="/etc"),
        a_mount("node-local", at="/"),
        a_mount("node-local", at="relative"),
        a_mount("node-local", at="/mnt/../etc"),
        a_mount("node-local", at="/proc/x"),
    ):
        assert await status(wrong) == 400, wrong
    assert await status(a_mount("node-local"), a_mount("node-local", at="/mnt/data/")) == 400


def a_bucket(name="bucket", **more):
    secrets = {"accessKeySecretName": "key", "secretKeySecretName": "secret"}
    return {
        "name": name,
        "workspace": "ws",
        "description": "",
        "object": {
            "bucket": "pets",
            "provider": {"type": "s3", "s3": {"region": "eu", "endpoint": "http://s3:9000"}},
            "credentials": {"type": "leptonSecret", "leptonSecret": {"s3Credentials": secrets}},
        },
        **more,
    }


@with_api
async def test_a_bucket_is_offered_with_secrets_and_attached_by_those_who_may(api):
    sources = f"{GROUP}/datasources"
    refused = await api.call("POST", sources, json=a_bucket())
    assert refused.status_code == 400
    assert "there is no secret" in refused.json()["message"]
    values = [{"name": name, "value": f"{name}-4711"} for name in ("key", "secret")]
    assert (await api.call("POST", "/usersecrets", json=values)).is_success
    made = await api.call("POST", sources, json=a_bucket(permissions={"allowed_users": ["ben"]}))
    assert made.json()["metadata"]["name"] == "bucket", made.text
    assert (await api.call("POST", sources, json=a_bucket())).status_code == 409
    assert (await api.call("POST", sources, who="ana", json=a_bucket("x"))).status_code == 403
    assert "4711" not in (await api.call("GET", sources)).text
    attached = [{"data_source_name": "bucket", "attachments": [{"mode": "awsProfile"}]}]

    async def submitted(who):
        job = a_job(storage_attachments=attached)
        return (await api.call("POST", "/jobs", who=who, json=job)).status_code

    assert (await submitted("ana"), await submitted("ben")) == (403, 200)
    assert (await api.call("POST", sources, json=a_bucket("same"))).is_success
    both = [{**attached[0], "data_source_name": name} for name in ("bucket", "same")]
    refused = await api.call("POST", "/jobs", json=a_job(storage_attachments=both))
    assert "bucket and same would both be the profile" in refused.json()["message"]
    both[1] = {**both[1], "attachments": [{"mode": "awsProfile", "profile_name": "other"}]}
    assert (await api.call("POST", "/jobs", json=a_job(storage_attachments=both))).is_success
    changed = await api.call("PATCH", f"{sources}/bucket", json=a_bucket())
    assert changed.is_success
    assert "permissions" not in changed.json()["spec"], "left out is cleared"
    assert await submitted("ana") == 200
    other = a_bucket()
    other["object"]["bucket"] = "cats"
    assert (await api.call("PATCH", f"{sources}/bucket", json=other)).status_code == 400
    assert (await api.call("DELETE", f"{sources}/bucket")).is_success
    assert (await api.call("GET", f"{sources}/bucket")).status_code == 404
    assert await submitted("ana") == 400
