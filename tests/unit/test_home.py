import json
import os
import signal
import subprocess
from dataclasses import replace

import pytest

from leptonai.home import Home, PlatformState

STATE = PlatformState(
    url="http://127.0.0.1:1",
    gateway_url="http://127.0.0.1:2",
    workspace="default",
    pid=os.getpid(),
    version="1",
    token_file="/nowhere",
)


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.make()
    return home


def test_the_state_of_a_platform_that_runs_is_told_until_it_is_forgotten(home):
    assert home.state() is None
    home.write_state(STATE)
    assert home.state() == STATE
    home.forget_state()
    assert home.state() is None


def test_a_crashed_platform_whose_number_somebody_else_has_now_does_not_run(home):
    home.write_state(STATE)
    facts = json.loads(home.state_file.read_text())
    home.state_file.write_text(json.dumps(facts | {"started": "1"}))
    assert home.state() is None


def test_a_crashed_platform_that_nobody_has_looked_after_does_not_run(home):
    with subprocess.Popen(["sleep", "600"]) as process:
        home.write_state(replace(STATE, pid=process.pid))
        assert home.state() is not None
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert home.state() is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"pid": 1}', "not JSON"])
def test_a_state_that_cannot_be_read_is_none(home, text):
    home.state_file.write_text(text)
    assert home.state() is None
