"""The loss and the metrics of a model over a whole data set, on all ranks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest
from leptonai.training.feeding import moved, pair_of, rows
from leptonai.training.losses import Loss, usual_loss
from leptonai.training.metrics import Metric
from leptonai.training.stepping import call
from leptonai.training.world import World


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Any,
    loss: Loss | None,
    metrics: Mapping[str, Metric],
    world: World,
    *,
    in_lockstep: bool = False,
) -> dict[str, float]:
    """Every sample counts once, however the ranks share them: sums are added up exactly.

    Args:
        model: is put into evaluation mode meanwhile. What gives None has its outputs on another
            rank.
        loss: the usual one of such targets if not given.
        in_lockstep: a forward pass needs all ranks, so one without samples left computes along.

    Raises:
        InvalidRequest: there are no samples.
    """
    was_training = model.training
    model.eval()
    try:
        losses, count, batches = 0.0, 0, 0
        sums: dict[str, Tensor] = {}
        inputs = None
        for batch in loader:
            inputs, targets = moved(pair_of(batch), world.device)
            outputs = call(model, inputs)
            batches += 1
            if outputs is None:
                continue
            loss = loss or usual_loss(targets)
            here = rows(inputs)
            losses += loss(outputs, targets).item() * here
            count += here
            for name, metric in metrics.items():
                found = metric.sums(outputs.float(), targets).cpu()
                sums[name] = sums[name] + found if name in sums else found
        if in_lockstep:
            for _ in range(int(world.most([batches])[0]) - batches):
                if inputs is None:
                    raise InvalidRequest(
                        f"there are fewer samples to validate with than {world.size} workers",
                        hint="use more of them, or fewer workers",
                    )
                call(model, inputs)
    finally:
        model.train(was_training)
    total, samples = world.sums(torch.tensor([losses, float(count)], dtype=torch.float64)).tolist()
    if not samples:
        raise InvalidRequest("there are no samples to evaluate with", hint="give it some")
    result = {"loss": total / samples}
    for name, metric in metrics.items():
        width = int(world.most([sums[name].numel() if name in sums else 0])[0])
        mine = sums.get(name, torch.zeros(width, dtype=torch.float64))
        result[name] = metric.value(world.sums(mine).tolist())
    return result
