"""What a training tells whoever listens."""

from __future__ import annotations

from collections.abc import Sequence
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


class Listeners:
    """Those of one training."""

    def __init__(self, callbacks: Sequence[Callback], trainer: Trainer) -> None:
        self._callbacks = tuple(callbacks)
        self._trainer = trainer
        self.hear_every_step = any(
            type(each).on_step is not Callback.on_step for each in self._callbacks
        )

    def start(self) -> None:
        for each in self._callbacks:
            each.on_start(self._trainer)

    def steps(self, first: int, losses: Sequence[float]) -> None:
        if self.hear_every_step:
            for step, loss in enumerate(losses, first):
                for each in self._callbacks:
                    each.on_step(self._trainer, step, loss)

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        for each in self._callbacks:
            each.on_epoch(self._trainer, epoch, metrics)

    def checkpoint(self, step: int) -> None:
        for each in self._callbacks:
            each.on_checkpoint(self._trainer, step)

    def end(self) -> None:
        for each in self._callbacks:
            each.on_end(self._trainer)
