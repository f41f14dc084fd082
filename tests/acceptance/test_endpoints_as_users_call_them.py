"""Endpoints behind the gateway: called, scaled, updated, broken and repaired."""

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter

import pytest

from leptonai.testing.platform import RunningPlatform, eventually

SERVER = """\
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        facts = {
            "path": self.path,
            "pid": os.getpid(),
            "replica": os.environ["LEPTON_REPLICA_ID"],
            "version": os.environ.get("VERSION", "1"),
            "authorization": self.headers["authorization"],
        }
        body = json.dumps(facts).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
TOKEN = "a-token-of-the-endpoints-own"
ANSWER_S = 60


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("endpoints") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def client(platform):
    with platform.client() as client:
        yield client


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("source")
    (folder / "server.py").write_text(SERVER)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def url(platform, source) -> str:
    """Of the endpoint `web`: two replicas and a token of its own."""
    options = ("--replicas", "2", "--tokens", TOKEN, "--workdir", source, "--wait")
    done = platform.cli("endpoint", "create", "-n", "web", *options, "--", "python3", "server.py")
    assert done.stdout == f"{platform.state.gateway_url}/e/default/web\n"
    return done.stdout.strip()


def get(url: str, token: str = TOKEN) -> tuple[int, dict]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=ANSWER_S
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


class Callers:
    """Two callers that go on and on, and remember what they were answered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.answers: list[tuple[int, dict] | Exception] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(2)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._over.is_set():
            try:
                self.answers.append(get(self._url))
            except Exception as failure:
                self.answers.append(failure)
            time.sleep(0.005)

    @property
    def failures(self) -> list:
        return [each for each in self.answers if isinstance(each, Exception) or each[0] != 200]

    def wait_for(self, more: int) -> None:
        enough = len(self.answers) + more
        eventually(lambda: len(self.answers), lambda answered: answered >= enough)


# --- who gets in, and where to -------------------------------------------------------------------


def test_a_request_gets_in_with_the_endpoints_token_or_the_workspaces(platform, url):
    status, facts = get(f"{url}/some/path?q=1")
    assert (status, facts["path"]) == (200, "/some/path?q=1")
    status, facts = get(url + "/", token=platform.token)
    assert status == 200
    assert facts["authorization"] is None, "no replica sees what opens the whole workspace"


def test_others_stay_out_and_learn_no_names(platform, url):
    unknown = url.replace("/web", "/unknown")
    refused = [get(url, token=""), get(url, token="wrong"), get(unknown, token="")]
    assert [status for status, _ in refused] == [401, 401, 401]
    assert len({problem["message"] for _, problem in refused}) == 1
    status, problem = get(unknown, token=platform.token)
    assert (status, problem["code"]) == (404, "NotFound")


def test_the_load_is_shared_by_the_replicas(url, client):
    replicas = {each.id for each in client.endpoints.replicas("web")}
    answered = Counter(get(url)[1]["replica"] for _ in range(40))
    assert set(answered) == replicas
    assert min(answered.values()) >= 10


def test_the_endpoints_token_is_kept_as_a_hash_alone(platform):
    assert platform.files_that_hold(TOKEN) == []
    assert TOKEN not in platform.cli("endpoint", "get", "web", "-o", "json").stdout


# --- what breaks ---------------------------------------------------------------------------------


def test_a_replica_that_is_killed_starts_again_while_the_other_serves(platform, client, url):
    victim = get(url)[1]
    os.kill(victim["pid"], signal.SIGKILL)
    pids = eventually(
        lambda: {get(url)[1]["pid"] for _ in range(8)},
        lambda pids: len(pids) == 2 and victim["pid"] not in pids,
    )
    assert len(pids) == 2
    told = platform.answer("endpoint", "events", "web", "-o", "json")
    restarts = [event for event in told if event["reason"] == "ReplicaRestarted"]
    # A stranger may have held the port that a replica wished for at first.
    (event,) = [event for event in restarts if "could not be started" not in event["message"]]
    assert "was killed by signal 9; starting it again" in event["message"]
    assert event["type"] == "Warning"
    ends = client.endpoints.terminations("web")[victim["replica"]]
    found = [(end.reason, end.exit_code) for end in ends if end.reason != "NotStarted"]
    assert found == [("Signalled", 137)]


def test_no_request_is_lost_while_the_control_plane_is_killed_and_comes_back(platform, url):
    with Callers(url) as callers:
        callers.wait_for(20)
        platform.kill()
        callers.wait_for(50)
        platform.up()
        callers.wait_for(50)
    assert callers.failures == []


def gateway_pid(platform) -> int:
    return json.loads((platform.home.gateway / "process.json").read_text())["pid"]


def test_a_gateway_that_is_killed_is_back_on_the_same_port(platform, url):
    killed = gateway_pid(platform)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: gateway_pid(platform), lambda pid: pid != killed)
    assert get(url)[0] == 200, "whoever comes before it listens waits at the door"
    assert (
        platform.answer("endpoint", "get", "web", "-o", "json")["status"]["endpoint"][
            "external_endpoint"
        ]
        == url
    )


def test_both_may_be_killed_and_the_next_up_brings_both_back(platform, url):
    gateway = platform.state.gateway_url
    platform.kill()
    os.kill(gateway_pid(platform), signal.SIGKILL)
    assert platform.up().gateway_url == gateway
    assert eventually(lambda: get(url)[0], lambda status: status == 200)


# --- what changes --------------------------------------------------------------------------------


def test_no_request_is_lost_in_a_rolling_update(platform, client, url):
    with Callers(url) as callers:
        callers.wait_for(10)
        platform.cli("endpoint", "update", "web", "-e", "VERSION=2")
        client.endpoints.wait_ready("web", 120)
        # The gateway may hear of it a little later.
        eventually(lambda: {get(url)[1]["version"] for _ in range(8)}, lambda it: it == {"2"})
        callers.wait_for(20)
    assert callers.failures == []
    versions = [facts["version"] for _, facts in callers.answers]
    assert (versions[0], set(versions[-8:])) == ("1", {"2"})
    living = eventually(lambda: client.endpoints.replicas("web"), lambda found: len(found) == 2)
    assert {each.status.ready for each in living} == {True}


def test_an_endpoint_stops_and_comes_back(platform, client, url):
    platform.cli("endpoint", "update", "web", "--replicas", "0")
    eventually(lambda: client.endpoints.get("web").status.phase, lambda it: it == "Stopped")
    assert list(client.endpoints.replicas("web")) == []
    status, problem = get(url)
    assert (status, problem["code"]) == (503, "Unavailable")
    platform.cli("endpoint", "update", "web", "--replicas", "1")
    client.endpoints.wait_ready("web", 60)
    assert eventually(lambda: get(url)[0], lambda status: status == 200)


def test_a_removed_endpoint_frees_its_name_at_once(platform, client, source):
    def create(version: str) -> str:
        options = ("--workdir", source, "-e", f"VERSION={version}", "--public", "--wait")
        return platform.cli(
            *("endpoint", "create", "-n", "again", *options, "--", "python3", "server.py")
        ).stdout.strip()

    url = create("old")
    assert get(url, token="")[1]["version"] == "old"
    taken = platform.cli("endpoint", "create", "-n", "again", "--command", "x", check=False)
    assert (taken.returncode, taken.stderr.splitlines()[0]) == (
        1,
        "error: there is an endpoint or a pod 'again' already",
    )
    platform.cli("endpoint", "remove", "again")
    assert create("new") == url
    assert eventually(lambda: get(url, token="")[1].get("version"), lambda it: it == "new")
    platform.cli("endpoint", "remove", "again")
    assert eventually(lambda: get(url, token="")[0], lambda status: status == 401)


def test_an_endpoint_that_never_gets_ready_says_what_is_wrong(platform):
    deaf = ("endpoint", "create", "-n", "deaf", "--command", "sleep 600", "--wait")
    done = platform.cli(*deaf, "--timeout", "1", check=False)
    error, hint = done.stderr.splitlines()[-2:]
    assert done.returncode == 1
    assert error == "error: endpoint deaf is still Starting after 1 s"
    assert "leptonai endpoint why deaf" in hint
    why = eventually(
        lambda: platform.answer("endpoint", "why", "deaf", "-o", "json"),
        lambda why: "port" in why["because"],
    )
    assert "replica 0 runs, but does not answer on port" in why["because"]

    platform.cli("endpoint", "create", "-n", "dying", "--command", "echo oh no; exit 9")
    why = eventually(
        lambda: platform.answer("endpoint", "why", "dying", "-o", "json"),
        lambda why: why["state"] == "Not Ready",
    )
    assert why["because"] == "replica 0 keeps ending: it last exited with code 9"
    found = platform.cli("endpoint", "list").stdout
    assert [line.split()[:4] for line in found.splitlines() if "dying" in line] == [
        ["dying", "Not", "Ready", "0/1"]
    ]
    platform.cli("endpoint", "remove", "deaf", "dying")
