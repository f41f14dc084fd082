"""Make `.venv` fit this checkout: `python3 tools/install.py [GROUP ...]`.

Installs Lepton with all its extras, and the named dependency groups of pyproject.toml. Silent when
there is nothing to do. Needs the standard library alone: it runs before anything is installed.
"""

import argparse
import ast
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "lepton.json"  # what was installed, from what; absent after an interruption
INPUTS = ("pyproject.toml", "constraints-cpu.txt", "constraints-cuda.txt", "tools/install.py")
OLDEST_PYTHON = (3, 11)
UV = "uv>=0.9"
PROBE_TIMEOUT_S = 60  # for asking what an install would fetch
TAIL_LINES = 25  # of a failed step's output


def main(groups: Sequence[str]) -> int:
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(
            f"Lepton needs Python 3.11 or newer, and {sys.executable} is {version()}\n"
            "hint: name another one: make PYTHON=/path/to/python3"
        )
    with one_at_a_time():
        want = wanted(groups)
        have = json.loads(STAMP.read_text()) if STAMP.exists() and runs(VENV_PYTHON) else {}
        if have == want | {"groups": have.get("groups", [])} and {*groups} <= {*have["groups"]}:
            return 0
        if have.get("interpreter") != want["interpreter"]:
            create_venv()
            have = {}
        STAMP.unlink(missing_ok=True)
        want["groups"] = sorted({*groups, *have.get("groups", [])})
        install_project(want["groups"])
        STAMP.write_text(json.dumps(want))
    return 0


def wanted(groups: Sequence[str]) -> dict[str, object]:
    """What an environment made now would be made from. It holds absolute paths, so a checkout
    that was moved needs a new one."""
    content = b"".join((ROOT / name).read_bytes() for name in INPUTS)
    return {
        "interpreter": [str(ROOT), sys.base_prefix, sys.version],
        "inputs": hashlib.sha256(content).hexdigest(),
        "groups": sorted(groups),
    }


def create_venv() -> None:
    with step(f"creating .venv with Python {version()}"):
        try:
            run([sys.executable, "-m", "venv", "--clear", str(VENV)])
        except StepFailed as failed:
            failed.hint = (
                "install your system's package for Python's venv (on Debian: python3-venv), or "
                "name another interpreter: make PYTHON=/path/to/python3"
            )
            raise
        run([str(VENV_PYTHON), "-m", "pip", "install", "--quiet", UV])


def version() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def install_project(groups: Sequence[str]) -> None:
    sources = find_links_and_index()
    torch = choose_torch(
        has_gpu=has_nvidia_gpu(), fetches_cuda=lambda torch: fetches_cuda(torch, sources)
    )
    if torch is CPU_AT_ANY_PRICE:
        say(NO_CPU_BUILD)
    tools = f" and what it takes to {' and '.join(groups)} it" if groups else ""
    with step(f"installing Lepton{tools}, with {torch.title}"):
        group_arguments = [word for group in groups for word in ("--group", group)]
        run([*UV_INSTALL, *torch.arguments, *sources, *group_arguments, "--editable", ".[all]"])


# --- which PyTorch -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Torch:
    """A way to get PyTorch."""

    title: str
    arguments: tuple[str, ...]  # for uv


CUDA = Torch("PyTorch for CUDA", ("--constraint", "constraints-cuda.txt"))
CPU = Torch("PyTorch for CPU", ("--constraint", "constraints-cpu.txt"))
CPU_BY_BACKEND = Torch("PyTorch for CPU", (*CPU.arguments, "--torch-backend", "cpu"))
CPU_AT_ANY_PRICE = Torch("PyTorch", CPU.arguments)

NO_CPU_BUILD = """\
NOTE: no CPU build of PyTorch is within reach, so this fetches the CUDA build, several gigabytes for
a GPU that this machine has not. To avoid it: stop here, put a CPU wheel of the version that stands
in constraints-cpu.txt into a directory, and set PIP_FIND_LINKS to that directory."""


def choose_torch(*, has_gpu: bool, fetches_cuda: Callable[[Torch], bool]) -> Torch:
    """The CUDA build where there is a GPU for it; anywhere else the first way that fetches none of
    CUDA's gigabytes, if there is one."""
    if has_gpu:
        return CUDA
    light = (way for way in (CPU, CPU_BY_BACKEND) if not fetches_cuda(way))
    return next(light, CPU_AT_ANY_PRICE)


def fetches_cuda(torch: Torch, sources: Sequence[str]) -> bool:
    """Whether the resolver would fetch it, or cannot tell: an index that is out of reach must fail
    at once, for there is another way."""
    try:
        plan = subprocess.run(
            [*UV_INSTALL, *torch.arguments, *sources, "--dry-run", "torch"],
            cwd=ROOT,
            env={**os.environ, "UV_HTTP_RETRIES": "0"},
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return True
    return plan.returncode != 0 or "nvidia-" in plan.stderr


def has_nvidia_gpu() -> bool:
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU" in listing.stdout


# --- uv ------------------------------------------------------------------------------------------

UV_INSTALL = (str(VENV / "bin" / "uv"), "pip", "install", "--python", str(VENV_PYTHON))


def find_links_and_index() -> list[str]:
    """pip's settings for where packages come from, which uv does not read."""
    listing = run([str(VENV_PYTHON), "-m", "pip", "config", "list"])
    settings = dict(line.split("=", 1) for line in listing.splitlines() if "=" in line)
    arguments = []
    for name in ("find-links", "index-url"):
        for scope in (":env:", "install", "global"):
            if (value := settings.get(f"{scope}.{name}")) is not None:
                for place in places(ast.literal_eval(value)):
                    arguments += [f"--{name}", place]
                break
    return arguments


def places(setting: str) -> list[str]:
    """pip separates them by blanks; a directory whose name has blanks is still one place."""
    alone = setting.strip()
    return [alone] if alone and Path(alone).exists() else alone.split()


# --- steps ---------------------------------------------------------------------------------------


class StepFailed(Exception):
    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output
        self.hint = "see the lines above; once that is mended, run the same command again"


def run(command: Sequence[str]) -> str:
    """Run a command quietly. Returns its stdout."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise StepFailed(done.stdout + done.stderr)
    return done.stdout


@contextmanager
def step(title: str) -> Iterator[None]:
    """One line for one step: what it does while it runs, how long it took when it is done."""
    print(f"{title} … ", end="", flush=True)
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    say(f"({time.monotonic() - begin:.0f} s)")


def say(line: str) -> None:
    print(line, flush=True)


def runs(python: Path) -> bool:
    """False for an environment whose interpreter has been removed."""
    return shutil.which(python) is not None


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two installs into one environment would spoil it; the second waits for the first."""
    with ROOT.joinpath("pyproject.toml").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP")
    try:
        sys.exit(main(parser.parse_args().groups))
    except StepFailed as failed:
        tail = "\n".join(failed.output.rstrip().splitlines()[-TAIL_LINES:])
        sys.exit(f"{tail}\n\nhint: {failed.hint}")
    except KeyboardInterrupt:
        sys.exit(130)
