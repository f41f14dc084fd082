"""`History`: what became of a training, epoch by epoch."""

from dataclasses import dataclass, field
from typing import Literal

Ended = Literal["finished", "stopped early", "stopped"]


@dataclass
class History:
    """Values by name, one an epoch: "loss", and with validation data "val_loss", "val_accuracy"."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    ended: Ended = "finished"
    resumed_from: int | None = None  # the step of the checkpoint that it went on from
    samples_per_s: float = 0.0
    registered: str = ""  # NAME@VERSION of the model that was registered at its end

    def __getitem__(self, name: str) -> list[float]:
        """One curve."""
        return [epoch[name] for epoch in self.epochs if name in epoch]

    @property
    def last(self) -> dict[str, float]:
        return self.epochs[-1] if self.epochs else {}
