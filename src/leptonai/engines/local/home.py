"""What the engine keeps in `$LEPTON_HOME` beside the attempts: the lock and the epoch."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from leptonai.errors import Conflict, StaleEpoch


class HomeLock:
    """Held until `release`, or until this process is gone, however it goes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def lock_home(home: Path) -> HomeLock:
    """Become the one control plane of a home.

    Raises:
        Conflict: another process is; the hint names it.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Not inherited by what we start (PEP 446): a workload that outlives us must not hold our lock.
    fd = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise Conflict(
            f"another control plane runs in {home}",
            hint=f"it is process {holder}: use it, or stop it with `leptonai down --keep`",
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return HomeLock(fd)


class EpochFile:
    """The newest epoch that this engine was asked with, across restarts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # A broken one is begun anew: the lease's own epoch still only grows.
        self._newest = 0
        with suppress(FileNotFoundError, ValueError):
            self._newest = int(path.read_bytes())

    def admit(self, epoch: int) -> None:
        """Let an ask of this epoch in, and none that is older from now on.

        Raises:
            StaleEpoch: there was a newer one.
        """
        if epoch < self._newest:
            raise StaleEpoch(
                f"epoch {epoch} is over: this engine has been asked with epoch {self._newest}",
                hint="another control plane has taken over; let this one stop",
            )
        if epoch > self._newest:
            draft = self._path.with_suffix(".draft")
            draft.write_text(str(epoch))
            draft.replace(self._path)
            self._newest = epoch
