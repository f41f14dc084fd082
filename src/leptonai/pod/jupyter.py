"""JupyterLab in the pod: installed when it is first wanted, into the pod's own environment."""

import asyncio
import contextlib
import json
import signal
import sys
import time
import urllib.request
import venv
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from leptonai.pod.channel import Channel
from leptonai.pod.commands import signal_group
from leptonai.pod.place import ENVIRONMENT, Place
from leptonai.pod.report import Report
from leptonai.spec.pods import JUPYTER_PORT, JupyterProgress, PodPlan

REQUIREMENT = "jupyterlab>=4"
INSTALL_S = 1_800.0
START_S = 120.0
LOOK_S = 0.2
ASK_S = 5.0
MAX_ANSWER_BYTES = 4 << 20
END_S = 3.0
INSTALLING, STARTING, RUNNING, FAILED = "installing", "starting", "running", "failed"


class _Failed(Exception):
    pass


class Jupyter:
    def __init__(self, place: Place, plan: PodPlan, report: Report) -> None:
        self._place = place
        self._path = plan.jupyter_path
        self._report = report
        self._port = place.ports[JUPYTER_PORT]
        self._process: Process | None = None
        self._work: asyncio.Task[None] | None = None
        self._because = ""

    async def see_to_it(self) -> None:
        """Have it run; returns when it does, or cannot."""
        if self._work is None or (self._work.done() and self._report.jupyter != RUNNING):
            self._work = asyncio.create_task(self._install_and_start())
        await asyncio.shield(self._work)

    async def tell(self, channel: Channel) -> None:
        """Have it run, and tell how that goes. Raises Gone."""
        work = asyncio.create_task(self.see_to_it())
        try:
            before = ""
            while not work.done():
                if self._report.jupyter != before:
                    before = self._report.jupyter
                    await channel.send(JupyterProgress(state=before))
                await asyncio.wait({work}, timeout=LOOK_S)
        finally:
            work.cancel()  # the work itself goes on
        await channel.send(JupyterProgress(state=self._report.jupyter, message=self._because))

    async def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        process = self._process
        if process is not None and process.returncode is None:
            signal_group(process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await process.wait()

    async def kernels(self, report: Report) -> int:
        """How many compute; and when one last did."""
        if report.jupyter != RUNNING:
            return 0
        try:
            found = await asyncio.to_thread(self._ask, "api/kernels")
            for kernel in found:
                then = datetime.fromisoformat(kernel["last_activity"])
                report.use(max(0.0, time.time() - then.timestamp()))
            return sum(kernel["execution_state"] == "busy" for kernel in found)
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    async def _install_and_start(self) -> None:
        try:
            if not self._program.exists():
                self._become(INSTALLING)
                began = time.monotonic()
                self._report.note(
                    "JupyterInstalling", f"installing JupyterLab into ~/{ENVIRONMENT}"
                )
                await self._install()
                seconds = round(time.monotonic() - began)
                self._report.note("JupyterInstalled", f"JupyterLab was installed in {seconds} s")
            self._become(STARTING)
            await self._start()
        except (_Failed, OSError) as error:
            self._because = str(error)
            self._become(FAILED)
            self._report.note("JupyterFailed", f"JupyterLab does not run: {error}", "Warning")

    def _become(self, state: str) -> None:
        self._report.jupyter = state
        self._report.change()

    @property
    def _program(self) -> Path:
        """The last thing that an installation makes."""
        return self._place.python.with_name("jupyter-lab")

    async def _install(self) -> None:
        await asyncio.to_thread(make_environment, self._place)
        process = await asyncio.create_subprocess_exec(
            *(str(self._place.python), "-m", "pip", "install", "--quiet", "--no-input"),
            *("--disable-pip-version-check", REQUIREMENT),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            cwd=self._place.home,
            env=self._place.installing,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(INSTALL_S):
                said, _ = await process.communicate()
        except TimeoutError:
            raise _Failed(f"its installation took longer than {INSTALL_S:g} s") from None
        finally:
            if process.returncode is None:
                signal_group(process.pid, signal.SIGKILL)
        if process.returncode:
            raise _Failed(_last_line(said) or "its installation failed")

    async def _start(self) -> None:
        log = self._place.folder / "jupyter.log"
        with log.open("wb") as output:
            process = self._process = await asyncio.create_subprocess_exec(
                str(self._program),
                "--no-browser",
                "--allow-root",
                "--ServerApp.ip=127.0.0.1",
                f"--ServerApp.port={self._port}",
                "--ServerApp.port_retries=0",
                f"--ServerApp.base_url={self._path}",
                # It is asked by the names that the gateway is known by; the token decides.
                "--ServerApp.allow_remote_access=True",
                f"--ServerApp.root_dir={self._place.home}",
                "--ServerApp.use_redirect_file=False",
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                cwd=self._place.home,
                env={**self._place.environment, "JUPYTER_TOKEN": self._place.key},
                start_new_session=True,
            )
        asking = asyncio.create_task(self._until_it_answers())
        ending = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({asking, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                raise _Failed(_last_line(log.read_bytes()) or "it ended at once")
            await asking
        except TimeoutError:
            signal_group(process.pid, signal.SIGKILL)
            raise _Failed(f"it does not answer after {START_S:g} s") from None
        finally:
            asking.cancel()
        self._become(RUNNING)
        self._report.note("JupyterRunning", f"JupyterLab runs; it keeps its log in {log}")
        ending.add_done_callback(lambda _: self._ended(process))

    def _ended(self, process: Process) -> None:
        if process is self._process:
            self._because = f"it ended with {process.returncode}"
            self._become(FAILED)

    async def _until_it_answers(self) -> None:
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(OSError, ValueError):
                    await asyncio.to_thread(self._ask, "api/status")
                    return
                await asyncio.sleep(LOOK_S)

    def _ask(self, what: str) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{self._path}{what}",
            headers={"Authorization": f"token {self._place.key}"},
        )
        with urllib.request.urlopen(request, timeout=ASK_S) as answer:  # noqa: S310
            return json.loads(answer.read(MAX_ANSWER_BYTES))


def make_environment(place: Place) -> None:
    """A virtual environment in the pod's home, that also sees what the platform's Python has."""
    home = place.home / ENVIRONMENT
    if place.python.exists():
        return
    venv.create(home, with_pip=find_spec("pip") is None, symlinks=True)
    (site,) = (home / "lib").glob("python*/site-packages")
    seen = [entry for entry in sys.path if entry and Path(entry).is_dir()]
    (site / "platform.pth").write_text("\n".join(seen) + "\n")


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
