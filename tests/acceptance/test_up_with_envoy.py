"""`leptonai up --gateway envoy`: Envoy takes the requests, and comes and goes with the platform."""

import json
import os
import signal
import urllib.error
import urllib.request
from contextlib import suppress

import pytest

from leptonai.errors import NotFound
from leptonai.main.envoy_process import find_envoy
from leptonai.testing.platform import RunningPlatform, eventually


@pytest.fixture
def platform(tmp_path):
    try:
        find_envoy()
    except NotFound as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(missing.hint)
        pytest.skip(f"no Envoy here: {missing.hint}")
    with RunningPlatform(tmp_path / "home", "--gateway", "envoy") as running:
        yield running


def envoy_of(platform):
    return json.loads(platform.home.envoy_record.read_text())["pid"]


def status_of(url, token=None):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:  # nobody listens, or whoever did ends
        return None


def test_envoy_serves_is_kept_up_and_ends_with_the_platform(platform):
    token = platform.home.token_file.read_text().strip()
    serve = "python -m http.server $PORT"
    made = platform.cli(
        *("endpoint", "create", "-n", "files", "--port", "8000", "--replicas", "2"),
        *("--command", serve, "--wait"),
    )
    url = made.stdout.strip() + "/"
    assert (status_of(url), status_of(url, token)) == (401, 200)
    for path in platform.home.envoy.iterdir():
        with suppress(FileNotFoundError):  # it may be replaced meanwhile
            assert path.lstat().st_mode & 0o077 == 0, path
            assert path.is_socket() or token not in path.read_text()

    first = envoy_of(platform)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: envoy_of(platform) != first and status_of(url, token) == 200)

    platform.kill()  # what serves goes on …
    second = envoy_of(platform)
    assert status_of(url, token) == 200
    platform.up()  # … and is found again
    assert (envoy_of(platform), status_of(url, token)) == (second, 200)

    platform.cli("down")
    assert status_of(url, token) is None
    port = url.split("/")[2].rpartition(":")[2]
    platform.cli("up", "-d", "--port", "0", "--gateway-port", port)  # without Envoy, as well
    eventually(lambda: status_of(url, token) == 200)
