"""The newest epoch that the engine was asked with."""

from pathlib import Path

from leptonai.errors import StaleEpoch


class EpochFile:
    """The newest epoch that this engine was asked with, across restarts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest = int(path.read_text()) if path.exists() else 0

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
