"""Layers upon layers: for rows of numbers.

Shape letters in this file: B rows, F numbers of a row, K classes, V values.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest
from leptonai.training.models import checks
from leptonai.training.models.base import Model
from leptonai.training.models.scaling import Scaling
from leptonai.training.models.tasks import Classes, Values
from leptonai.training.parallel import Plan

MAX_INPUTS = 1 << 24


class MLP(Model, format="torch-mlp"):
    """Rows of `input_shape` in; scores of the classes [B, K], or values [B, V], out.

    Hidden weights begin as Kaiming's normal ones, biases at 0.

    Args:
        input_shape: of a row, or F alone; more axes are flattened.
        num_classes: K; or else
        num_values: V.
        hidden: width of each hidden layer.
        dropout: share of each hidden layer that training leaves out.
        input_mean, input_std: of the raw numbers: one for all, or one for each of F.
        value_mean, value_std: of the targets, where the outputs are values.
        classes: their names.
    """

    def __init__(
        self,
        input_shape: int | Sequence[int],
        num_classes: int | None = None,
        *,
        num_values: int | None = None,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        input_mean: float | Sequence[float] = 0.0,
        input_std: float | Sequence[float] = 1.0,
        value_mean: float = 0.0,
        value_std: float = 1.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.input_shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
        if not self.input_shape:
            raise InvalidRequest("expected input_shape of at least one axis, got ()")
        inputs = 1
        for side in self.input_shape:
            inputs *= checks.whole("an axis of input_shape", side, 1, MAX_INPUTS)
        checks.whole("the numbers of a row", inputs, 1, MAX_INPUTS)
        if (num_classes is None) == (num_values is None):
            raise InvalidRequest("expected num_classes or num_values, and not both")
        if len(hidden) > checks.MAX_LAYERS:
            raise InvalidRequest(f"expected at most {checks.MAX_LAYERS} hidden layers")
        self.num_classes, self.num_values = num_classes, num_values
        self.hidden = tuple(
            checks.whole("a hidden width", width, 1, checks.MAX_WIDTH) for width in hidden
        )
        self.dropout = checks.share("dropout", dropout)
        self.input_mean, self.input_std = input_mean, input_std
        checks.scale("value", value_mean, value_std)
        self.value_mean, self.value_std = value_mean, value_std
        self.classes = checks.class_names(num_classes, classes) if num_classes else None
        self.task = Classes(num_classes) if num_classes else Values(value_std)
        self.scaling = Scaling(input_mean, input_std, inputs)
        layers: list[nn.Module] = []
        for width in self.hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(
            inputs, checks.whole("num_values", num_classes or num_values, 1, checks.MAX_CLASSES)
        )
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, rows: Tensor) -> Tensor:
        checks.shape(self, "rows", rows, ("B", *self.input_shape))
        outputs: Tensor = self.head(self.layers(self.scaling(rows.flatten(1))))
        return outputs if self.num_classes else outputs * self.value_std + self.value_mean

    def example(self, count: int = 1) -> Tensor:
        return torch.zeros((count, *self.input_shape))

    def check_inputs(self, inputs: Any) -> None:
        checks.shape(self, "rows", inputs, ("B", *self.input_shape))
        checks.finite("rows", inputs)

    def plan(self) -> Plan:
        return Plan(blocks=(self.layers, self.head))
