"""The published client, as somebody uses it who only has its documentation: a clean environment, a
cache of its own, and a platform whose URL and token it was given."""

import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leptonai.testing.platform import RunningPlatform, eventually

COMMAND_TIMEOUT_S = 120
WIDE = "500"  # columns: the client breaks lines, of JSON too


class Lep:
    """`lep …` against one platform."""

    def __init__(self, program: str, platform: RunningPlatform, cache: Path) -> None:
        self._program, self._platform = program, platform
        cache.mkdir(parents=True, exist_ok=True)
        # Younger than a day, or every command asks the package index for news.
        (cache / "latest_version_check").write_text(str(int(time.time())))
        self.cache = cache
        state = platform.state
        self.url = f"{state.url}/api/v2/workspaces/{state.workspace}"
        self.workspace = state.workspace
        self.token = platform.token

    def environment(self, *, logged_in: bool) -> Mapping[str, str]:
        kept = {"PATH", "HOME", "LANG", "TMPDIR"}
        clean = {name: value for name, value in os.environ.items() if name in kept}
        known = {"LEPTON_CACHE_DIR": str(self.cache), "COLUMNS": WIDE, "NO_COLOR": "1"}
        if not logged_in:
            return clean | known
        return clean | known | {
            "LEPTON_WORKSPACE_ID": self.workspace,
            "LEPTON_WORKSPACE_TOKEN": self.token,
            "LEPTON_WORKSPACE_URL": self.url,
        }  # fmt: skip

    def __call__(
        self, *arguments: str, code: int = 0, stdin: str = "", logged_in: bool = True
    ) -> str:
        """What it prints, both streams together.

        Raises:
            AssertionError: it exits with another code, or left something of an answer out.
        """
        done = subprocess.run(
            [self._program, *arguments],
            env=self.environment(logged_in=logged_in),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        shown = f"lep {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}"
        assert done.returncode == code, shown
        assert "[lepton-error]" not in done.stdout, shown  # an item of a list was not understood
        assert "Traceback" not in done.stdout, shown
        return done.stdout

    def answer(self, *arguments: str) -> Any:
        """The JSON in what it prints."""
        return json.loads(_json_of(self(*arguments)))

    def until(self, word: str, *arguments: str) -> str:
        """Ask again until it prints `word`."""
        return eventually(lambda: self(*arguments), lambda said: word in said)


def id_in(said: str) -> str:
    """The id that `lep job create` prints."""
    found = re.search(r"ID: (\S+)", said)
    assert found, said
    return found[1]


def _json_of(said: str) -> str:
    start = min(at for at in (said.find("{\n"), said.find("[\n")) if at >= 0)
    return said[start : max(said.rfind("}"), said.rfind("]")) + 1]
