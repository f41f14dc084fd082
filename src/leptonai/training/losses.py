"""What is made small: losses by name. Each is the mean over the batch's rows.

Shape letters: B rows, K classes, T tokens.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from leptonai.errors import InvalidRequest

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> a scalar: the mean over rows

IGNORED = -100  # a target that does not count: padding, or a token that is not to be predicted
FOCUS = 2.0


def loss_named(name: str) -> Loss:
    """`cross entropy`, `cross_entropy` and `Cross-Entropy` are one.

    Raises:
        InvalidRequest: there is no such loss.
    """
    loss = LOSSES.get(name.strip().lower().replace("_", " ").replace("-", " "))
    if loss is None:
        raise InvalidRequest(f"there is no loss {name!r}", hint=f"losses are {', '.join(LOSSES)}")
    return loss


def usual_loss(targets: object) -> Loss:
    """Of classes cross entropy, of other numbers the squared error."""
    numbers = isinstance(targets, Tensor) and targets.is_floating_point()
    return mean_squared_error if numbers else cross_entropy


def cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Scores [B, K] against classes [B], or [B, T, K] against tokens [B, T]; `IGNORED` counts
    not."""
    _check_rows(scores, targets, scores.shape[:-1], "classes")
    if scores.ndim > 2:
        scores, targets = scores.flatten(0, -2), targets.flatten()
    return functional.cross_entropy(scores, targets.long(), ignore_index=IGNORED)


def binary_cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Scores before the sigmoid [B] or [B, K], against 0 and 1 of the same shape."""
    scores = _same_shape(scores, targets)
    return functional.binary_cross_entropy_with_logits(scores, targets.to(scores.dtype))


def focal(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy that looks less at what is right already.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", with a focus of 2.
    """
    _check_rows(scores, targets, scores.shape[:-1], "classes")
    each = functional.cross_entropy(scores, targets.long(), reduction="none")
    return ((1 - (-each).exp()) ** FOCUS * each).mean()


def mean_squared_error(values: Tensor, targets: Tensor) -> Tensor:
    values = _same_shape(values, targets)
    return functional.mse_loss(values, targets.to(values.dtype))


def mean_absolute_error(values: Tensor, targets: Tensor) -> Tensor:
    values = _same_shape(values, targets)
    return functional.l1_loss(values, targets.to(values.dtype))


def huber(values: Tensor, targets: Tensor) -> Tensor:
    values = _same_shape(values, targets)
    return functional.huber_loss(values, targets.to(values.dtype))


LOSSES: dict[str, Loss] = {
    "cross entropy": cross_entropy,
    "bce": binary_cross_entropy,
    "focal": focal,
    "mse": mean_squared_error,
    "mae": mean_absolute_error,
    "huber": huber,
}


def _same_shape(values: Tensor, targets: Tensor) -> Tensor:
    """[B, 1] against [B] is the mistake that broadcasting hides."""
    if values.shape == targets.shape:
        return values
    if values.ndim == targets.ndim + 1 and values.shape[-1] == 1:
        values = values.squeeze(-1)
    if values.shape != targets.shape:
        raise InvalidRequest(
            f"the model gives {list(values.shape)}, and the targets are {list(targets.shape)}",
            hint="make the model's last layer as wide as a target",
        )
    return values


def _check_rows(scores: Tensor, targets: Tensor, expected: object, what: str) -> None:
    if targets.shape != expected:
        raise InvalidRequest(
            f"the model gives scores of shape {list(scores.shape)}, and the targets are of shape "
            f"{list(targets.shape)}",
            hint=f"targets are the numbers of {what}, one for each row of scores",
        )
