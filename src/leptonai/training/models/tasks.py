"""What a model's outputs are: the classes of things, or values. By it go loss, metric, prediction.

Shape letters in this file: B rows of a batch, K classes; … any axes between, such as tokens.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from leptonai.training.losses import IGNORED, cross_entropy, mean_squared_error
from leptonai.training.models import checks


class Task(Protocol):
    metric: ClassVar[str]  # the one of `leptonai.training.metrics` that is "accuracy" here

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over the targets that count."""

    def check(self, targets: Tensor) -> None:
        """Raises InvalidRequest where targets are such that no model could learn them."""

    def prediction(self, outputs: Tensor) -> Tensor:
        """What people want to know, of what the model computes."""


@dataclass(frozen=True, slots=True)
class Classes:
    """Outputs [B, …, K] score each class; targets [B, …] number the right ones.

    A prediction is the probability of each class, the metric the share that was right.
    """

    metric: ClassVar[str] = "accuracy"
    classes: int

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def check(self, targets: Tensor) -> None:
        checks.numbers_below("the labels", targets, self.classes, ignored=IGNORED)

    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(-1)


@dataclass(frozen=True, slots=True)
class Values:
    """Outputs and targets are numbers of one shape.

    The loss is the mean squared error, in units of `unit` squared. The metric is R²: 1 is perfect,
    and 0 what the mean of the targets would be worth.
    """

    metric: ClassVar[str] = "r2"
    unit: float = 1.0  # of the targets: about their standard deviation

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return mean_squared_error(outputs / self.unit, targets / self.unit)

    def check(self, targets: Tensor) -> None:
        checks.finite("targets", targets)

    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs
