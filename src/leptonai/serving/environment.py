"""An environment with a photon's requirements, beside the packages that are installed already."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from leptonai.errors import InvalidRequest, Unavailable

_READY = "ready"  # a file: everything is installed


def python_with(requirements: Sequence[str], cache: Path | None = None) -> Path:
    """The interpreter of an environment that meets them; made at the first use, then kept.

    It sees the packages of the current one, so that what is installed is not fetched again, and no
    network is needed where everything is.

    Args:
        requirements: lines for pip.
        cache: where environments are kept; $XDG_CACHE_HOME/leptonai/environments unless given.

    Raises:
        InvalidRequest: a line is none for pip.
        Unavailable: pip could not install them.
    """
    for line in requirements:
        if line.startswith(("-", "uninstall ")):
            raise InvalidRequest(
                f"the requirement {line!r} is none", hint='name packages: "numpy>=2"'
            )
    kept = cache or _default_cache()
    told = "\n".join((sys.prefix, sys.version, *sorted(requirements)))
    place = kept / hashlib.sha256(told.encode()).hexdigest()[:32]
    if not (place / _READY).exists():
        _make(place, requirements)
    return place / "bin" / "python"


def _make(place: Path, requirements: Sequence[str]) -> None:
    """Where it is to stay, for environments cannot be moved; one that was interrupted goes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        if (place / _READY).exists():
            return  # somebody else made it meanwhile
        shutil.rmtree(place, ignore_errors=True)
        try:
            venv.create(place, with_pip=find_spec("pip") is None, symlinks=True)
        except subprocess.CalledProcessError as failed:
            raise Unavailable(
                f"no environment can be made in {place}: {failed}",
                hint="install pip, or ensurepip (python3-venv on Debian)",
            ) from None
        (site,) = (place / "lib").glob("python*/site-packages")
        seen = [entry for entry in sys.path if entry and Path(entry).is_dir()]
        (site / "parent.pth").write_text("\n".join(seen) + "\n")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as lines:
            lines.write("\n".join(requirements) + "\n")
            lines.flush()
            pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--no-input", "-q"]
            done = subprocess.run(
                [*pip, "--disable-pip-version-check", "-r", lines.name],
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise Unavailable(
                f"pip could not install {', '.join(requirements)}: {said[-1] if said else ''}",
                hint="is the package index reachable, and does it have them?",
            )
        (place / _READY).touch()


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One process at a time makes an environment."""
    descriptor = os.open(place.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "leptonai" / "environments"
