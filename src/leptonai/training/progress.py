"""`Progress`: how far a training has come, but for its tensors. A checkpoint holds it as JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leptonai.training.schedules import Plateau


@dataclass
class Progress:
    step: int = 0
    epoch: int = 0  # those that are done
    loss_sum: float = 0.0  # of the steps of the epoch that is going on
    loss_steps: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    plateau: Plateau = field(default_factory=Plateau)
    best: float = math.inf  # of what is watched
    epochs_since_best: int = 0
    trained_s: float = 0.0

    def add_losses(self, losses: list[float]) -> None:
        for loss in losses:  # one by one: a sum of sums would be another number after a resume
            self.loss_sum += loss
        self.loss_steps += len(losses)

    def end_epoch(self, validated: Mapping[str, float]) -> dict[str, float]:
        """The metrics of the epoch."""
        metrics = {"loss": self.loss_sum / max(1, self.loss_steps)}
        metrics |= {f"val_{name}": value for name, value in validated.items()}
        self.epoch += 1
        self.loss_sum, self.loss_steps = 0.0, 0
        watched = metrics.get("val_loss", metrics["loss"])
        self.plateau = self.plateau.after(watched)
        if watched < self.best:
            self.best, self.epochs_since_best = watched, 0
        else:
            self.epochs_since_best += 1
        self.epochs.append(metrics)
        return metrics

    @property
    def watched(self) -> float | None:
        """Of the last epoch; smaller is better."""
        if not self.epochs:
            return None
        last = self.epochs[-1]
        return last.get("val_loss", last["loss"])

    def to_facts(self) -> dict[str, Any]:
        """A copy: another thread writes it down while training goes on."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "loss_sum": self.loss_sum,
            "loss_steps": self.loss_steps,
            "epochs": [dict(epoch) for epoch in self.epochs],
            "plateau": _finite(self.plateau._asdict()),
            "best": self.best if math.isfinite(self.best) else None,
            "epochs_since_best": self.epochs_since_best,
            "trained_s": self.trained_s,
            "watched": self.watched,
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Progress":
        plateau = {name: value for name, value in facts["plateau"].items() if value is not None}
        return cls(
            step=facts["step"],
            epoch=facts["epoch"],
            loss_sum=facts["loss_sum"],
            loss_steps=facts["loss_steps"],
            epochs=facts["epochs"],
            plateau=Plateau(**plateau),
            best=math.inf if facts["best"] is None else facts["best"],
            epochs_since_best=facts["epochs_since_best"],
            trained_s=facts["trained_s"],
        )


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity; what is left out is the default."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
