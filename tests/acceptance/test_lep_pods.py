"""Pods with the published client, on both wires. `make test-lep` runs this."""

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from lep_client import Lep

from leptonai.testing.platform import RunningPlatform, eventually

pytestmark = pytest.mark.lep

SERVER = "exec python3 -m http.server --bind 127.0.0.1 $LEPTON_PORT_8080"
PORTS = ("--container-port", "8080:tcp:proxy", "--container-port", "9090:tcp:hostmap")


@pytest.fixture(params=["deployments", "devpods"], scope="module")
def wire(request, leptonai):
    """The older wire, then the newer one."""
    flag = "--feature" if request.param == "devpods" else "--no-feature"
    leptonai("workspace", "set", flag, "new-deployment-api")
    yield request.param
    leptonai("workspace", "set", "--no-feature", "new-deployment-api")


def create(lep: Lep, name: str, *options: str) -> None:
    assert f"launched as {name}" in lep("pod", "create", "-n", name, "-rs", "cpu.small", *options)


def ready(lep: Lep, name: str) -> dict:
    shown = eventually(
        lambda: lep.answer("pod", "get", "-n", name), lambda pod: pod["status"]["state"] == "Ready"
    )
    status: dict = shown["status"]
    return status


def test_a_pods_files_outlive_a_stop(lep: Lep, leptonai, wire: str) -> None:
    name = f"work-{wire}"
    create(lep, name, "-ng", "local", "-qp", "high", "-e", "A=1", *PORTS)
    assert "already" in lep("pod", "create", "-n", name, "-rs", "cpu.small", code=1)
    ready(lep, name)
    leptonai("pod", "exec", name, "--", "sh", "-c", "echo $A > file")
    for options in (("-s", "ready"), ("-u", "ADM"), ("-ng", "loc"), ("-p", "wo.k"), ("-q", "WORK")):
        assert name in lep("pod", "list", *options), options
    assert name not in lep("endpoint", "list")
    assert "stopped" in lep("pod", "stop", "-n", name)
    assert "No action taken" in lep("pod", "stop", "-n", name)
    lep.until(name, "pod", "list", "-s", "stopped")
    leptonai("pod", "start", name)
    ready(lep, name)
    assert leptonai("pod", "exec", name, "--", "cat", "file") == "1\n"
    lep("pod", "remove", "-n", name)
    assert "404" in lep("pod", "get", "-n", name, code=1)


def test_a_pod_finds_its_volume_and_its_bucket(lep: Lep, leptonai, wire: str) -> None:
    name = f"data-{wire}"
    for secret in ("KEY", "SECRET"):
        if secret not in lep("secret", "list"):
            lep("secret", "create", "-n", secret, "-v", f"the-{secret}")
    if "cats" not in leptonai("storage", "source", "list"):
        bucket = ("-t", "object-storage", "-n", "cats", "--provider", "s3", "--bucket", "the-cats")
        where = ("--region", "eu", "--endpoint", "http://127.0.0.1:9/")
        keys = ("--access-key-secret", "KEY", "--secret-key-secret", "SECRET")
        lep("node", "storage", "add", "-ng", "local", *bucket, *where, *keys)
    given = ("--mount", f"/{name}:/mnt/d:node-local", "--storage-attachment", "cats:awsProfile")
    create(lep, name, *given)
    ready(lep, name)
    # Where this user may mount nothing, volumes are links in the pod's home.
    at = "mnt/d" if "VolumesLinked" in leptonai("pod", "events", name) else "/mnt/d"
    leptonai("pod", "exec", name, "--", "sh", "-c", f"echo $AWS_PROFILE > {at}/told")
    assert "told" in leptonai("storage", "ls", name)
    told = leptonai(
        "pod", "exec", name, "--", "sh", "-c", "echo $AWS_PROFILE; cat $AWS_CONFIG_FILE"
    )
    assert told.startswith("the-cats\n[profile the-cats]\n"), "a profile is called as its bucket"
    lep("pod", "remove", "-n", name)


def test_a_proxied_port_is_served_to_who_may_change_the_pod(
    lep: Lep, lep_platform: RunningPlatform, leptonai, wire: str
) -> None:
    name = f"web-{wire}"
    create(lep, name, *PORTS, "--container-image", "i", "--container-command", SERVER)
    ports = {each["container_port"]: each for each in ready(lep, name)["container_port_status"]}
    assert ports[9090]["host_port"]
    assert "host_port" not in ports.get(8080, {}), "it is not mapped"
    status = lep_platform.answer("pod", "get", name, "-o", "json")["status"]
    (url,) = [each["external_endpoint"] for each in status["container_port_status"][:1]]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url)
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {lep_platform.token}"})
    eventually(lambda: answered(asked), lambda status: status == 200)
    lep("pod", "remove", "-n", name)


def answered(asked: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(asked) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.skipif(os.geteuid() != 0, reason="the client logs in as root")
@pytest.mark.skipif(not Path("/usr/sbin/sshd").exists(), reason="there is no SSH server")
def test_ssh_leads_into_the_pod(lep: Lep, leptonai, wire: str, tmp_path, monkeypatch) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    name = f"ssh-{wire}"
    create(lep, name, "-e", f"SSH_PUBLIC_KEY={key.with_suffix('.pub').read_text().strip()}")
    ready(lep, name)
    lep.until("root@127.0.0.1", "pod", "list", "-d")
    programs = tmp_path / "bin"
    programs.mkdir()
    ssh = programs / "ssh"  # which asks nothing of somebody who is not there
    sure = f"-i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {sure} "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    said = lep("pod", "ssh", "-n", name, stdin="echo in $LEPTON_DEPLOYMENT_NAME\n")
    assert f"in {name}" in said
    lep("pod", "remove", "-n", name)


def test_bad_pods_are_refused_with_a_sentence(lep: Lep, wire: str) -> None:
    for options, said in (
        (("-n", "Bad_Name", "-rs", "cpu.small"), "the pod's name 'Bad_Name' is not allowed"),
        (("-n", "x", "-rs", "cpu.nope"), "there is no shape 'cpu.nope'"),
        (("-n", "x", "-rs", "cpu.small", "-s", "NOPE"), "NOPE"),
        (("-n", "x", "-rs", "cpu.small", "--mount", "/:/mnt/x:node-nfs:nope"), "no volume"),
        (("-n", "x", "-rs", "cpu.small", "--storage-attachment", "nope:awsProfile"), "no data"),
    ):
        assert said in lep("pod", "create", *options, code=1), options
    for command in ("get", "stop", "remove", "ssh"):
        assert "404" in lep("pod", command, "-n", "nowhere", code=1), command
