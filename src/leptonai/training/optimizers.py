"""Optimisers by name, with the settings that most people would choose."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest

MakeOptimizer: TypeAlias = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
FUSED = frozenset({"SGD", "Adam", "AdamW"})  # where torch has one kernel for all parameters


class Lion(torch.optim.Optimizer):
    """Steps by the sign of its momentum: half of AdamW's memory.

    Source: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms".
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            gradients = [each.grad for each in parameters]
            for each in parameters:
                if not self.state[each]:
                    self.state[each]["momentum"] = torch.zeros_like(each)
            momenta = [self.state[each]["momentum"] for each in parameters]
            if not parameters:
                continue
            first, second = group["betas"]
            updates = torch._foreach_lerp(momenta, gradients, 1 - first)
            torch._foreach_sign_(updates)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - second)
        return loss


OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "adafactor": (torch.optim.Adafactor, {}),
    "lion": (Lion, {}),
}


def make_optimizer(
    named: str | MakeOptimizer, model: nn.Module, *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Of all parameters that learn. Weight decay is for matrices: biases and what normalises are
    left to themselves.

    Args:
        named: one of `OPTIMIZERS`, or what makes one of groups of parameters.

    Raises:
        InvalidRequest: there is no such optimiser, or nothing to learn.
    """
    groups = _groups(model.named_parameters(), weight_decay)
    if not groups:
        raise InvalidRequest(
            "the model has no parameters that learn", hint="set requires_grad on some"
        )
    if callable(named):
        return named(groups)
    found = OPTIMIZERS.get(named.strip().lower())
    if found is None:
        raise InvalidRequest(
            f"there is no optimizer {named!r}", hint=f"optimizers are {', '.join(OPTIMIZERS)}"
        )
    kind, options = found
    make: Any = kind
    made: torch.optim.Optimizer = make(groups, lr=learning_rate, **options, **_fused(kind, groups))
    return made


def _groups(parameters: Iterable[tuple[str, Tensor]], weight_decay: float) -> list[dict[str, Any]]:
    """By decay; and what is spread over ranks apart from what is not, which no kernel mixes."""
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for _, each in parameters:
        if each.requires_grad and not each.is_meta:  # what lies there is another rank's
            decay = weight_decay if each.ndim >= 2 else 0.0
            groups.setdefault((hasattr(each, "placements"), decay), []).append(each)
    return [{"params": some, "weight_decay": decay} for (_, decay), some in groups.items()]


def _fused(kind: type[torch.optim.Optimizer], groups: list[dict[str, Any]]) -> dict[str, bool]:
    """One kernel in the place of dozens: on a CPU and on CUDA alike."""
    parameters = [each for group in groups for each in group["params"]]
    fits = all(
        each.device.type in ("cpu", "cuda") and each.is_floating_point() for each in parameters
    )
    return {"fused": True} if kind.__name__ in FUSED and fits else {}
