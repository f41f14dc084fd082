"""Ray clusters on a whole platform, with a stand-in for Ray that does what the platform sees of
it: it listens, asks for its token, joins its head, and ends at a signal. Ray itself runs in the
tests of the published client, whose environment has it."""

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from leptonai.testing.platform import RunningPlatform, eventually
from leptonai.testing.programs import write_program

STAND_IN = """\
import http.server, os, socket, sys, time
if sys.argv[1:] == ["--version"]:
    sys.exit(print("ray, version 2.60.0"))
said = dict(each[2:].partition("=")[::2] for each in sys.argv[2:])
assert os.environ["RAY_AUTH_MODE"] == "token"
os.mkdir(said["temp-dir"])
agent = socket.create_server(("127.0.0.1", int(said["dashboard-agent-listen-port"])))
if "head" not in said:
    host, port = said["address"].split(":")
    head = socket.create_connection((host, int(port)))
    head.recv(1)  # ends with its head
    sys.exit(1)
gcs = socket.create_server(("127.0.0.1", int(said["port"])))

class Dashboard(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        right = self.headers["authorization"] == "Bearer " + os.environ["RAY_AUTH_TOKEN"]
        body = (self.path + " " + os.environ.get("GREETING", "")).encode()
        self.send_response(200 if right else 401)
        self.send_header("content-length", len(body))
        self.end_headers()
        self.wfile.write(body)

print("the head listens", flush=True)
http.server.HTTPServer(("127.0.0.1", int(said["dashboard-port"])), Dashboard).serve_forever()
"""
SMALL = ("--cpu", "0.1", "--memory", "64MiB", "--head-memory", "64MiB")


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def platform(tmp_path_factory, programs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        with RunningPlatform(tmp_path_factory.mktemp("rays") / "home") as running:
            yield running


def state_of(platform: RunningPlatform) -> dict:
    status: dict = platform.answer("raycluster", "get", "tune", "-o", "json")["status"]
    return status


def becomes(platform: RunningPlatform, state: str) -> dict:
    return eventually(lambda: state_of(platform), lambda status: status["state"] == state)


def asked(platform: RunningPlatform, path: str = "/api/version") -> str:
    """Of the dashboard, as anybody asks it who has a token of the workspace."""
    address = platform.cli("raycluster", "address", "tune").stdout.strip()
    request = urllib.request.Request(
        address + path, headers={"authorization": f"Bearer {platform.token}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def nodes_of(platform: RunningPlatform) -> dict[str, int]:
    """The process of each node that runs, by the name of its replica."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "environ").read_bytes().decode(errors="replace").split("\0")
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if f"LEPTON_WORKSPACE_URL={platform.state.url}/api/v2/workspaces/default" not in told:
            continue
        names = [each.partition("=")[2] for each in told if each.startswith("LEPTON_REPLICA_ID=")]
        if names and "start" in words and "--block" in words:
            found[names[0]] = int(process.name)
    return found


def test_a_cluster_waits_for_ray_and_outlives_what_happens_to_it(platform, programs):
    platform.cli("raycluster", "create", "tune", "-w", "1", *SMALL, "-e", "GREETING=hello")
    said = eventually(lambda: state_of(platform), lambda status: "message" in status and (
        "Ray is not installed" in status["message"]
    ))  # fmt: skip
    assert said["state"] == "Not Ready"
    with pytest.raises(urllib.error.HTTPError) as refused:
        asked(platform)
    assert refused.value.code == 503
    assert "pip install" in json.loads(refused.value.read())["message"]

    write_program(programs / "ray", STAND_IN, "-S")
    assert becomes(platform, "Ready")["readyWorkerReplicas"] == 1  # by itself
    assert asked(platform, "/api/jobs/?x=1") == "/api/jobs/?x=1 hello"
    before = nodes_of(platform)
    assert sorted(name.rpartition("-")[0] for name in before) == ["tune-head", "tune-workers-0"]
    assert "the head listens" in platform.cli("raycluster", "log", "tune").stdout

    platform.kill()  # of the control plane: the cluster runs on
    platform.up()
    assert becomes(platform, "Ready")
    assert nodes_of(platform) == before
    assert asked(platform) == "/api/version hello"

    head = next(name for name in before if "-head-" in name)
    os.kill(before[head], signal.SIGKILL)
    eventually(
        lambda: nodes_of(platform), lambda now: now and before.items().isdisjoint(now.items())
    )
    assert becomes(platform, "Ready")["readyWorkerReplicas"] == 1
    assert asked(platform) == "/api/version hello"

    platform.cli("raycluster", "resize", "tune", "0")
    eventually(lambda: nodes_of(platform), lambda now: list(now) == [head])
    platform.cli("raycluster", "stop", "tune")
    becomes(platform, "Stopped")
    assert nodes_of(platform) == {}
    assert [*Path("/tmp").glob(f"ray-{head[-5:]}.*")] == []
    done = platform.cli("raycluster", "start", "tune", "--wait")
    assert "starting tune" in done.stdout
    assert "Traceback" not in done.stderr
    platform.cli("raycluster", "remove", "tune")
    eventually(lambda: nodes_of(platform), lambda now: now == {})
