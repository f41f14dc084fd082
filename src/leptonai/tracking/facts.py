"""What is known of a program that starts: its code, its environment, how it was called.

Values of environment variables are never recorded, and arguments that look like secrets are masked.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from leptonai.spec.runs import GitState

GIT_VARIABLE = "LEPTON_RUN_GIT"  # the state of the tree that a job's directory was shipped from
GIT_TIMEOUT_S = 5.0
MAX_ARGUMENTS = 200
MAX_ARGUMENT_CHARS = 1_000
MASK = "***"
PACKAGES = ("torch", "numpy", "tensorflow", "keras", "jax", "transformers", "lightning")

_SECRET_NAME = re.compile(
    r"(token|secret|passw(or)?d|passphrase|credential|(api|access|private|secret)[_-]?key|auth"
    r"|authorization)$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"(lepton_|hf_|sk-|gh[pousr]_|github_pat_|xox[abprs]-|AKIA|ASIA|eyJ|glpat-|AIza)[\w.-]{8,}"
)
_RANDOM = re.compile(r"[A-Za-z0-9_+-]{24,}=*")
_USER_OF_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def git_state(directory: Path) -> GitState | None:
    """Of the working tree around a directory; None where there is none, or no git."""
    try:
        commit = _git(directory, "rev-parse", "HEAD").strip()
        branch = _git(directory, "rev-parse", "--abbrev-ref", "HEAD").strip()
        status = _git(directory, "status", "--porcelain")
        diff = _git(directory, "diff", "--no-ext-diff", "HEAD") if status else ""
    except (OSError, subprocess.SubprocessError):
        return None
    digest = hashlib.sha256((status + diff).encode()).hexdigest()
    return GitState(
        commit=commit,
        branch="" if branch == "HEAD" else branch,
        dirty=bool(status),
        diff_digest=f"sha256:{digest}" if status else "",
    )


def shipped_git_state() -> GitState | None:
    """As who created the job said it."""
    try:
        return msgspec.json.decode(os.environ[GIT_VARIABLE], type=GitState)
    except (KeyError, msgspec.DecodeError):
        return None


def environment() -> dict[str, str]:
    """Versions and the machine."""
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "hostname": platform.node(),
        "cpus": str(len(os.sched_getaffinity(0))),
    }
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return facts


def command() -> list[str]:
    """How this process was called."""
    return masked(sys.orig_argv)


def script_directory() -> Path:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).absolute().parent if file else Path.cwd()


def masked(arguments: Sequence[str]) -> list[str]:
    """The arguments without what looks like a secret: by the name before it, or by itself."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments[:MAX_ARGUMENTS]:
        name, equals, value = argument.partition("=")
        if hide_next and not argument.startswith("-"):
            shown.append(MASK)
        elif equals and _names_secret(name):
            shown.append(f"{name}={MASK}")
        elif equals:
            shown.append(f"{_masked_value(name)}={_masked_value(value)}")
        else:
            shown.append(_masked_value(argument))
        hide_next = not equals and argument.startswith("-") and _names_secret(argument)
    return shown


def _names_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _masked_value(text: str) -> str:
    text = _USER_OF_URL.sub(MASK, text[:MAX_ARGUMENT_CHARS])
    text = _SECRET_VALUE.sub(MASK, text)
    looks_random = (
        _RANDOM.fullmatch(text) is not None
        and re.search(r"\d", text) is not None
        and re.search(r"[A-Za-z]", text) is not None
    )
    return MASK if looks_random and not Path(text).exists() else text


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(directory), *arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=GIT_TIMEOUT_S,
        check=True,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
    )
    return done.stdout.decode(errors="replace")
