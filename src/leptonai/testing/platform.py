"""A whole platform for a test: started as users start it, in a home of its own, on free ports."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from leptonai.client import LeptonClient
from leptonai.home import Home, PlatformState

COMMAND_TIMEOUT_S = 300  # a training that imports PyTorch in each of its workers is one command
PATIENCE_S = 60.0  # with what takes a second on a machine that has nothing else to do
LOOK_S = 0.05

T = TypeVar("T")


def eventually(
    look: Callable[[], T], right: Callable[[T], object] = bool, *, within_s: float = PATIENCE_S
) -> T:
    """Look until what is seen is right, and return it."""
    deadline = time.monotonic() + within_s
    while not right(seen := look()):
        assert time.monotonic() < deadline, f"after {within_s:g} s it still is {seen!r}"
        time.sleep(LOOK_S)
    return seen


class RunningPlatform:
    """`leptonai up -d` in a home; `leptonai down` at the end."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = Home(home)
        self._options = options
        self._ports = ("--port", "0", "--gateway-port", "0")

    def __enter__(self) -> "RunningPlatform":
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            for path in (self.home.control_log, self.home.gateway_log):
                if path.exists():
                    sys.stderr.write(f"--- {path}\n{path.read_text()[-8_000:]}\n")
        self.cli("down", check=False)

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to find this platform, and no other."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("LEPTON_")}
        return clean | {"LEPTON_HOME": str(self.home.path)}

    @property
    def state(self) -> PlatformState:
        state = self.home.state()
        assert state is not None, "the platform does not run"
        return state

    @property
    def token(self) -> str:
        return self.home.token_file.read_text().strip()

    def client(self, *, retry_for_s: float = 10.0) -> LeptonClient:
        state = self.state
        url = f"{state.url}/api/v2/workspaces/{state.workspace}"
        return LeptonClient(url=url, token=self.token, retry_for_s=retry_for_s)

    def cli(
        self, *arguments: str, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run `leptonai …` as a user would."""
        done = subprocess.run(
            [sys.executable, "-m", "leptonai.cli", *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"leptonai {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}")
        return done

    def answer(self, *arguments: str) -> Any:
        """What `leptonai …` prints as JSON; `-o json` is among the arguments."""
        return json.loads(self.cli(*arguments).stdout)

    def up(self) -> PlatformState:
        """Start it; again on the ports it had before."""
        answer = self.cli("up", "-d", "-o", "json", *self._ports, *self._options)
        state = PlatformState(**json.loads(answer.stdout))
        self._ports = ("--port", _port(state.url), "--gateway-port", _port(state.gateway_url))
        return state

    def files_that_hold(self, text: str) -> list[str]:
        """The files of the home that do, by their paths in it. It may be in use meanwhile."""
        found = []
        for folder, _, names in os.walk(self.home.path):  # passes over what goes while it looks
            for path in (Path(folder, name) for name in names):
                with suppress(FileNotFoundError):
                    if path.is_file() and text.encode() in path.read_bytes():
                        found.append(str(path.relative_to(self.home.path)))
        return sorted(found)

    def kill(self) -> None:
        """`kill -9` of the control plane, and wait until it is gone."""
        os.kill(self.state.pid, signal.SIGKILL)
        eventually(self.home.state, lambda state: state is None)

    def terminate(self) -> None:
        """SIGTERM to the control plane, and wait until it is gone."""
        os.kill(self.state.pid, signal.SIGTERM)
        eventually(self.home.state, lambda state: state is None)


def _port(url: str) -> str:
    return url.rpartition(":")[2]
