"""The newest epoch that the engine was asked with."""

from contextlib import suppress
from pathlib import Path

from leptonai.errors import StaleEpoch


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

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)
        self._newest = 0
