"""What is told of a model besides its loss: metrics by name.

A metric is a sum over samples and what is made of it, so that batches and ranks add up exactly.
Shape letters: B rows, K classes, T tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from leptonai.errors import InvalidRequest
from leptonai.training.losses import IGNORED


class Metric(NamedTuple):
    sums: Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> float64 [S]
    value: Callable[[list[float]], float]  # of S sums over all samples


def metric_named(name: str) -> Metric:
    """Raises:
    InvalidRequest: there is no such metric.
    """
    metric = METRICS.get(name.strip().lower().replace("_", " "))
    if metric is None:
        raise InvalidRequest(
            f"there is no metric {name!r}", hint=f"metrics are {', '.join(METRICS)}"
        )
    return metric


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of classes the most likely one; of one score, its sign."""
    if outputs.shape == targets.shape:
        hits, counted = (outputs > 0) == (targets > 0.5), torch.ones_like(targets, dtype=torch.bool)
    else:
        counted = targets != IGNORED
        hits = (outputs.argmax(-1) == targets) & counted
    return torch.stack([hits.sum(), counted.sum()]).double()


def _right_of_five(outputs: Tensor, targets: Tensor) -> Tensor:
    best = outputs.topk(min(5, outputs.shape[-1]), dim=-1).indices
    counted = targets != IGNORED
    hits = (best == targets.unsqueeze(-1)).any(-1) & counted
    return torch.stack([hits.sum(), counted.sum()]).double()


def _confusion(outputs: Tensor, targets: Tensor) -> Tensor:
    """[3 K]: of each class the hits, how often it was said, how often it was true."""
    classes = outputs.shape[-1]
    counted = targets.flatten() != IGNORED
    true = targets.flatten()[counted].long()
    said = outputs.flatten(0, -2).argmax(-1)[counted]
    hits = torch.bincount(true[said == true], minlength=classes)
    of_said, of_true = (torch.bincount(each, minlength=classes) for each in (said, true))
    return torch.cat([hits, of_said, of_true]).double()


def _f1(sums: list[float]) -> float:
    """The mean over the classes that occur."""
    classes = len(sums) // 3
    hits, said, true = (sums[at * classes : (at + 1) * classes] for at in range(3))
    each = [2 * h / (s + t) for h, s, t in zip(hits, said, true, strict=True) if s + t]
    return sum(each) / len(each) if each else float("nan")


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    gap = outputs.reshape(targets.shape).double() - targets.double()
    true = targets.double()
    count = torch.tensor(float(gap.numel()), dtype=torch.float64, device=gap.device)
    return torch.stack(
        [gap.square().sum(), gap.abs().sum(), true.sum(), true.square().sum(), count]
    )


def _r2(sums: list[float]) -> float:
    squared, _, total, total_squared, count = sums
    spread = total_squared - total * total / count if count else 0.0
    return 1 - squared / spread if spread > 0 else float("nan")


def _share(sums: list[float]) -> float:
    return sums[0] / sums[1] if sums[1] else float("nan")


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_right, _share),
    "top 5 accuracy": Metric(_right_of_five, _share),
    "f1": Metric(_confusion, _f1),
    "mae": Metric(_squared, lambda sums: sums[1] / sums[4]),
    "mse": Metric(_squared, lambda sums: sums[0] / sums[4]),
    "rmse": Metric(_squared, lambda sums: (sums[0] / sums[4]) ** 0.5),
    "r2": Metric(_squared, _r2),
}
