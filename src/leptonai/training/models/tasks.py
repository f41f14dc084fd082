"""What a model's outputs are: the classes of things, or values. By it go loss, score, prediction.

Shape letters in this file: B rows of a batch, K classes; … any axes between, such as tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from leptonai.errors import InvalidRequest
from leptonai.training.models import checks

IGNORED = (
    -100
)  # a target that teaches nothing, as torch has it: padding, tokens that were not masked


class Counted(NamedTuple):
    """Sums over targets, in float64, which add up over batches."""

    sums: Tensor
    targets: int  # how many there were


class Task(Protocol):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over the targets that count."""

    def check(self, targets: Tensor) -> None:
        """Raises InvalidRequest where targets are such that no model could learn them."""

    def prediction(self, outputs: Tensor) -> Tensor:
        """What people want to know, of what the model computes."""

    def count(self, outputs: Tensor, targets: Tensor) -> Counted: ...

    def score(self, sums: Tensor, count: int) -> float:
        """How good it is, from the sums of all batches; 1 is perfect."""


@dataclass(frozen=True, slots=True)
class Classes:
    """Outputs [B, …, K] score each class; targets [B, …] number the right ones.

    The score is the share that was right, a prediction the probability of each class.
    """

    classes: int
    smoothing: float = 0.0  # of the labels: how much goes to all classes alike

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._check_shape(outputs, targets)
        return functional.cross_entropy(
            outputs.reshape(-1, outputs.shape[-1]),
            targets.reshape(-1).long(),
            ignore_index=IGNORED,
            label_smoothing=self.smoothing,
        )

    def check(self, targets: Tensor) -> None:
        checks.numbers_below("the labels", targets, self.classes, ignored=IGNORED)

    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(-1)

    def count(self, outputs: Tensor, targets: Tensor) -> Counted:
        self._check_shape(outputs, targets)
        counts = targets != IGNORED
        right = (outputs.argmax(-1) == targets) & counts
        return Counted(right.sum().double()[None], int(counts.sum()))

    def score(self, sums: Tensor, count: int) -> float:
        return float(sums[0]) / count

    def _check_shape(self, outputs: Tensor, targets: Tensor) -> None:
        if targets.shape != outputs.shape[:-1]:
            raise InvalidRequest(
                f"expected labels of shape {list(outputs.shape[:-1])}, one for each row of scores, "
                f"got {list(targets.shape)}",
                hint="give the number of each class, not a row with a 1 at its place",
            )


@dataclass(frozen=True, slots=True)
class Values:
    """Outputs and targets are numbers of one shape.

    The loss is the mean squared error, in units of `unit` squared. The score is R²: 1 is perfect,
    and 0 what the mean of the targets would be worth.
    """

    unit: float = 1.0  # of the targets: about their standard deviation

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._check_shape(outputs, targets)
        return functional.mse_loss(outputs / self.unit, targets.to(outputs.dtype) / self.unit)

    def check(self, targets: Tensor) -> None:
        checks.finite("targets", targets)

    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs

    def count(self, outputs: Tensor, targets: Tensor) -> Counted:
        self._check_shape(outputs, targets)
        exact = targets.double()
        errors = outputs.double() - exact
        sums = torch.stack([(errors**2).sum(), exact.sum(), (exact**2).sum()])
        return Counted(sums, targets.numel())

    def score(self, sums: Tensor, count: int) -> float:
        squared_error, total, total_of_squares = sums.tolist()
        spread = total_of_squares - total * total / count
        return 1 - squared_error / spread if spread > 0 else float(squared_error == 0)

    def _check_shape(self, outputs: Tensor, targets: Tensor) -> None:
        if targets.shape != outputs.shape:
            raise InvalidRequest(
                f"expected targets of shape {list(outputs.shape)}, got {list(targets.shape)}"
            )
