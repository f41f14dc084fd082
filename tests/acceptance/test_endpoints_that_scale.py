"""Endpoints that scale by themselves: to zero and from there without losing a request."""

import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from leptonai.client import LeptonClient
from leptonai.core.autoscaling import SILENCE_S
from leptonai.testing.platform import RunningPlatform, eventually

SERVER = """\
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        time.sleep(float(self.path.rpartition("/")[2]))
        while not os.path.exists(self.headers.get("x-until", "/")):
            time.sleep(0.02)
        body = os.environ["LEPTON_REPLICA_ID"].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass

ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
ANSWER_S = 60
IDLE_S = 1


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with RunningPlatform(tmp_path_factory.mktemp("scaling") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def client(platform: RunningPlatform) -> Iterator[LeptonClient]:
    with platform.client() as client:
        yield client


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("source")
    (folder / "server.py").write_text(SERVER)
    return str(folder)


def serve(platform: RunningPlatform, source: str, name: str, *options: str) -> str:
    """Its URL, once it is ready."""
    done = platform.cli(
        *("endpoint", "create", "-n", name, "--public", "--workdir", source, "--wait"),
        *(*options, "--", "python3", "server.py"),
    )
    return done.stdout.strip()


def call(url: str, seconds: float = 0.0, method: str = "GET", until: str = "/") -> str:
    """What came of it: the replica that answered, or what went wrong.

    Args:
        until: the path of what has to be there before it is answered.
    """
    data = b"{}" if method == "POST" else None
    request = urllib.request.Request(f"{url}/{seconds}", data=data, method=method)
    request.add_header("x-until", until)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            replica: bytes = answer.read()
            return replica.decode()
    except urllib.error.HTTPError as refused:
        return f"{refused.code}: {refused.read().decode()}"
    except OSError as failure:
        return f"failed: {failure}"


def scalings(client: LeptonClient, name: str) -> list[str]:
    events = client.endpoints.events(name)
    return [event.message or "" for event in events if event.reason == "Scaled"]


def state_of(client: LeptonClient, name: str) -> tuple[int, int]:
    """Ready replicas, and those that are wanted."""
    status = client.endpoints.get(name).status
    assert status is not None and status.autoscaler_status is not None
    return status.ready_replicas or 0, status.autoscaler_status.desired_replicas or 0


def poisson_load(url: str, client: LeptonClient, name: str, *, sleeps: int) -> list[str]:
    """Bursts of requests, each when it is about to fall asleep or just has, until it did so many
    times; what came of each request."""
    chance = random.Random(7)
    answers: list[str] = []
    callers: list[threading.Thread] = []

    def caller(seconds: float, method: str) -> None:
        answers.append(call(url, seconds, method))

    while sum("→ 0" in each for each in scalings(client, name)) < sleeps:
        burst_ends = time.monotonic() + 1.0
        while time.monotonic() < burst_ends:
            seconds, method = chance.uniform(0, 1), chance.choice(["GET", "POST"])
            callers.append(threading.Thread(target=caller, args=(seconds, method)))
            callers[-1].start()
            time.sleep(chance.expovariate(8))
        for each in callers:
            each.join()
        time.sleep(IDLE_S + SILENCE_S + chance.uniform(-0.2, 0.8))
    assert len(answers) == len(callers)
    return answers


@pytest.mark.parametrize("sleeps", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_to_zero_and_back_under_load_no_request_fails(
    platform: RunningPlatform, client: LeptonClient, source: str, sleeps: int
) -> None:
    name = f"sleeper-{sleeps}"
    url = serve(platform, source, name, "--scale-to-zero-after", f"{IDLE_S}s")
    answers = poisson_load(url, client, name, sleeps=sleeps)
    assert [each for each in answers if not each.startswith(name)] == []
    assert len(set(answers)) >= sleeps, "each time another replica"
    platform.cli("endpoint", "remove", name)


def test_it_says_why_it_has_no_replica_and_that_the_next_request_wakes_it(
    platform: RunningPlatform, client: LeptonClient, source: str
) -> None:
    url = serve(platform, source, "idle", "--scale-to-zero-after", "1s")
    eventually(lambda: state_of(client, "idle"), lambda seen: seen == (0, 0))
    shown = platform.cli("endpoint", "get", "idle").stdout
    assert "scaled to 0: no request for 1 s; the next request wakes it" in shown
    assert call(url).startswith("idle-")

    eventually(lambda: state_of(client, "idle"), lambda seen: seen == (0, 0))
    platform.cli("endpoint", "update", "idle", "--min-replicas", "1")
    eventually(lambda: state_of(client, "idle"), lambda seen: seen == (1, 1))

    platform.cli("endpoint", "update", "idle", "--replicas", "0")
    refused = json.loads(call(url).partition(": ")[2])
    assert refused["code"] == "Unavailable"
    assert "is stopped" in refused["message"]
    platform.cli(*refused["hint"].split("`")[1].split()[1:])
    eventually(lambda: state_of(client, "idle"), lambda seen: seen[1] == 1)


def test_a_replica_that_leaves_ends_its_requests_first(
    platform: RunningPlatform, client: LeptonClient, source: str, tmp_path: Path
) -> None:
    url = serve(platform, source, "leaver", "--replicas", "2")
    answers: list[str] = []
    go = tmp_path / "go"
    callers = [
        threading.Thread(target=lambda: answers.append(call(url, 0.0, "POST", str(go))))
        for _ in range(4)
    ]
    for each in callers:
        each.start()
    in_flight = f'{{workspace="default",endpoint="leaver"}} {len(callers)}'
    eventually(lambda: gateway_metrics(platform), lambda text: in_flight in text)
    platform.cli("endpoint", "update", "leaver", "--replicas", "1")
    time.sleep(1.0)  # in which one that did not wait for its requests would have ended
    go.touch()
    for each in callers:
        each.join()
    assert len(set(answers)) == 2, answers
    assert all(each.startswith("leaver-") for each in answers)
    eventually(lambda: len(client.endpoints.replicas("leaver")), lambda left: left == 1)


def gateway_metrics(platform: RunningPlatform) -> str:
    request = urllib.request.Request(
        f"{platform.state.gateway_url}/metrics",
        headers={"Authorization": f"Bearer {platform.token}"},
    )
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        text: bytes = answer.read()
        return text.decode()
