"""A model's layers, what they give and how much there is to learn in them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_HEADINGS = ("layer", "kind", "output shape", "parameters")


@dataclass(frozen=True, slots=True)
class Layer:
    name: str
    kind: str
    output_shape: tuple[int, ...] | None  # None: it was not used by itself
    parameters: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Printed, it is a table."""

    layers: tuple[Layer, ...]
    parameters: int
    trainable: int

    def __str__(self) -> str:
        rows = [
            _HEADINGS,
            *(
                (
                    layer.name,
                    layer.kind,
                    str(list(layer.output_shape)) if layer.output_shape else "",
                    f"{layer.parameters:,}",
                )
                for layer in self.layers
            ),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
        lines = [
            "  ".join(
                [cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
                + [row[-1].rjust(widths[-1])]
            )
            for row in rows
        ]
        total = f"{self.parameters:,} parameters, {self.trainable:,} of them trainable"
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", total])


def summarise(model: nn.Module, example: Any) -> Summary:
    """Of the layers that have no others inside, as they are used on `example`."""
    layers = {
        module: name for name, module in model.named_modules() if name and not [*module.children()]
    }
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor):
            shapes[module] = tuple(first.shape)

    hooks = [module.register_forward_hook(note) for module in layers]
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(example)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return Summary(
        tuple(
            Layer(
                name,
                type(module).__name__,
                shapes.get(module),
                sum(weight.numel() for weight in module.parameters()),
            )
            for module, name in layers.items()
        ),
        sum(size for size, _ in sizes),
        sum(size for size, trainable in sizes if trainable),
    )
