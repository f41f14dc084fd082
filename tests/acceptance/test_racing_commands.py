"""Two people, two scripts or two homes ask for the same platform at the same time."""

import json
import subprocess
import sys

from leptonai.testing.platform import RunningPlatform, eventually

UP = ("up", "-d", "-o", "json", "--port", "0", "--gateway-port", "0")


def begin(platform: RunningPlatform, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "leptonai.cli", *arguments],
        env=platform.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_up_twice_at_once_gives_one_platform_and_both_are_told_where_it_is(tmp_path):
    platform = RunningPlatform(tmp_path / "home")
    try:
        answers = [each.communicate(timeout=60) for each in [begin(platform, *UP) for _ in "ab"]]
        assert [err for _, err in answers] == ["", ""]
        first, second = (json.loads(out) for out, _ in answers)
        assert first == second == platform.state.shown
    finally:
        platform.cli("down", check=False)


def test_down_ends_a_platform_that_is_still_starting(tmp_path):
    platform = RunningPlatform(tmp_path / "home")
    up = begin(platform, *UP)
    eventually(lambda: platform.home.path.exists() and platform.home.is_locked)
    told = platform.answer("down", "-o", "json")
    up.communicate(timeout=60)
    assert told == {"stopped": True, "workloads_ended": 0, "kept": False}
    assert platform.home.state() is None
    assert not platform.home.is_locked


def test_another_home_on_the_same_database_is_refused_and_changes_nothing_in_it(tmp_path):
    with RunningPlatform(tmp_path / "home") as platform:
        other = RunningPlatform(tmp_path / "other")
        told = other.cli(*UP, "--database", f"sqlite:///{platform.home.database}", check=False)
        assert (told.returncode, told.stdout) == (1, "")
        assert told.stderr.startswith(
            f"error: this database belongs to the platform in {platform.home.path} on "
        )
        assert other.answer("down", "-o", "json")["workloads_ended"] == 0
        id = platform.cli("job", "create", "-n", "hello", "--", "true").stdout.strip()
        assert platform.client().jobs.wait(id, timeout_s=60).status.state == "Completed"
