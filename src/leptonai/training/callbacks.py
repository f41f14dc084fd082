"""What a training tells whoever listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leptonai.training.trainer import Trainer


class Callback:
    """Override what you want to hear of. All ranks call theirs, in the same order.

    `trainer.stop()` in any of them ends the training after this step, as early stopping does.
    """

    def on_start(self, trainer: Trainer) -> None:
        """Everything is made or read back; no step has been taken by this process."""

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        """Steps count from 1; the loss is that of all ranks. To listen to every step costs an
        exchange between ranks and a wait for the device at every step."""

    def on_epoch(self, trainer: Trainer, epoch: int, metrics: dict[str, float]) -> None:
        """Epochs count from 1."""

    def on_checkpoint(self, trainer: Trainer, step: int) -> None:
        """It is on the disk. Rank 0 alone calls this, from another thread."""

    def on_end(self, trainer: Trainer) -> None:
        """Also when it was stopped; not when it failed."""


def listens(callback: Callback, to: str) -> bool:
    return getattr(type(callback), to) is not getattr(Callback, to)
