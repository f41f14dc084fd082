"""Roll-outs of an endpoint that is being called all the while."""

import http.client
import threading
from collections import Counter
from urllib.parse import urlsplit

import pytest
from benchmarks.rollouts import measure

from leptonai.testing.platform import RunningPlatform, eventually

SERVER = """\
import itertools, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

every = int(os.environ.get("FAILS_EVERY", "0"))
numbers = itertools.count(1)

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        number = next(numbers)
        self.send_response(500 if every and number % every == 0 else 200)
        body = os.environ["VERSION"].encode()
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
CALLERS = 3


class Callers:
    """Call on and on over a connection each, and count what each version answered."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self.answers: Counter[tuple[str, int]] = Counter()
        self.failures: list[Exception] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        connection = http.client.HTTPConnection(self._url.netloc, timeout=60)
        while not self._over.is_set():
            try:
                connection.request("GET", self._url.path + "/")
                answer = connection.getresponse()
                self.answers[answer.read().decode(), answer.status] += 1
            except Exception as failure:
                self.failures.append(failure)
        connection.close()


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("rollouts") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def client(platform):
    with platform.client() as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def url(platform, tmp_path_factory) -> str:
    """Of the endpoint `web`, which anybody may call."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "server.py").write_text(SERVER)
    options = ("--public", "--workdir", str(folder), "-e", "VERSION=one", "--wait")
    done = platform.cli("endpoint", "create", "-n", "web", *options, "--", "python3", "server.py")
    return done.stdout.strip()


def decided(platform) -> dict:
    return eventually(
        lambda: platform.answer("endpoint", "rollout", "status", "web", "-o", "json"),
        lambda rollout: rollout["state"] != "Progressing",
        within_s=120,
    )


def test_a_canary_that_fails_requests_is_rolled_back_by_itself(platform, client, url):
    with Callers(url) as callers:
        eventually(lambda: callers.answers["one", 200], lambda answered: answered > 200)
        changes = ("-e", "VERSION=two", "-e", "FAILS_EVERY=4")
        platform.cli("endpoint", "update", "web", *changes, "--canary", "20%")
        rollout = decided(platform)
        client.endpoints.wait_ready("web", 60)
    assert rollout["state"] == "RolledBack"
    assert "% of those to revision 1" in rollout["message"]
    assert callers.failures == []
    assert {version for version, status in callers.answers if status != 200} == {"two"}
    assert callers.answers["one", 200] > callers.answers["two", 200] > 0
    found = client.endpoints.get("web")
    assert [env.value for env in found.spec.envs or ()] == ["one"]
    assert found.status is not None
    assert found.status.message == rollout["message"]
    told = platform.answer("endpoint", "events", "web", "-o", "json")
    assert rollout["message"] in [each["message"] for each in told]


def test_a_good_one_is_promoted_by_itself_also_when_the_platform_is_killed(platform, client, url):
    with Callers(url) as callers:
        options = ("--canary", "30%,60%", "--step-seconds", "1")
        platform.cli("endpoint", "update", "web", "-e", "VERSION=three", *options)
        eventually(
            lambda: callers.answers["three", 200], lambda answered: answered > 50, within_s=60
        )
        shown = platform.cli("endpoint", "rollout", "status", "web").stdout
        platform.kill()
        platform.up()
        rollout = decided(platform)
        client.endpoints.wait_ready("web", 60)
        before = callers.answers["three", 200]
        eventually(lambda: callers.answers["three", 200], lambda answered: answered > before + 100)
    assert "30 % → 60 % → 100 %" in shown
    assert (rollout["state"], rollout["stable_revision"]) == ("Promoted", 1)
    assert callers.failures == []
    assert {status for _, status in callers.answers} == {200}
    assert [env.value for env in client.endpoints.get("web").spec.envs or ()] == ["three"]


def test_a_person_goes_back_and_is_told_what_cannot_be(platform, client, url):
    said = platform.cli("endpoint", "rollout", "rollback", "web").stdout
    assert said == "canary roll-out of revision 3 rolled back to 1: by admin\n"
    client.endpoints.wait_ready("web", 60)
    assert [env.value for env in client.endpoints.get("web").spec.envs or ()] == ["one"]
    refused = platform.cli("endpoint", "rollout", "promote", "web", check=False)
    assert refused.returncode == 1
    assert "error: revision 3 was rolled back: by admin" in refused.stderr
    nothing = ("endpoint", "update", "web", "--replicas", "1", "--strategy", "blue-green")
    assert "nothing to roll out" in platform.cli(*nothing, check=False).stderr


def test_blue_green_switches_at_once(platform, client, url):
    with Callers(url) as callers:
        options = ("--strategy", "blue-green", "--keep-seconds", "0")
        platform.cli("endpoint", "update", "web", "-e", "VERSION=four", *options)
        assert decided(platform)["state"] == "Promoted"
        client.endpoints.wait_ready("web", 60)
        eventually(lambda: callers.answers["four", 200], lambda answered: answered > 100)
    assert callers.failures == []
    assert {status for _, status in callers.answers} == {200}


def test_a_shadow_answers_nobody_and_is_reported(platform, client, url):
    with Callers(url) as callers:
        platform.cli("endpoint", "update", "web", "-e", "VERSION=five", "--shadow", "50%")
        rollout = eventually(
            lambda: client.endpoints.rollout("web"),
            lambda found: found.shadow is not None and found.shadow.compared > 20,
        )
    assert rollout.shadow is not None
    assert rollout.shadow.body_differs == rollout.shadow.compared
    assert set(callers.answers) == {("four", 200)}
    assert callers.failures == []
    shown = platform.cli("endpoint", "rollout", "status", "web").stdout
    assert "copies of 50 % of the requests" in shown


@pytest.mark.slow
def test_no_request_fails_while_versions_change_at_a_thousand_requests_a_second(tmp_path):
    with RunningPlatform(tmp_path / "home") as platform:
        found = measure(platform, tmp_path, rate=1_000, connections=64)
    assert [found[name]["how"] for name in ("rolling", "canary", "rollback")] == [{}, {}, {}]
    assert min(found[name]["answered"] for name in ("rolling", "canary", "rollback")) > 1_000
