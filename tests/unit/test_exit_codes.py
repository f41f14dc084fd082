"""How a script of a job ends whose error nobody caught."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit
from leptonai import errors
from leptonai.training.exits import exit_by_error
exit_by_error()
atexit.register(print, "cleaned up")
raise {error}
"""


@pytest.mark.parametrize(
    ("error", "job", "code", "said"),
    [
        ("errors.InvalidRequest('wrong', hint='mend it')", "job", 78, "error: wrong\nhint: mend"),
        ("errors.NotFound('gone')", "job", 78, "error: gone"),
        ("errors.Conflict('the port is held')", "job", 1, "error: the port is held"),
        ("errors.Unavailable('not yet')", "job", 1, "error: not yet"),
        ("ValueError('a bug')", "job", 1, "Traceback"),
        ("SystemExit(5)", "job", 5, ""),
        ("errors.InvalidRequest('wrong')", "", 1, "Traceback"),
    ],
)
def test_what_has_to_be_changed_first_ends_a_job_for_good(error, job, code, said, monkeypatch):
    monkeypatch.delenv("LEPTON_JOB_NAME", raising=False)
    if job:
        monkeypatch.setenv("LEPTON_JOB_NAME", job)
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(error=error)], capture_output=True, text=True
    )
    assert ended.returncode == code
    assert said in ended.stderr
    assert ("Traceback" in ended.stderr) == (said == "Traceback")
    assert "cleaned up" in ended.stdout
