"""What went wrong in a model, said so that a person can act on it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest, first_line
from leptonai.training.feeding import Pair, cut, tensors_in
from leptonai.training.stepping import call, is_out_of_memory

SHOWN_SAMPLES = 20


class NotANumber(InvalidRequest):
    """The loss is infinite or none at all; the last checkpoint is from before."""

    code = "not_a_number"


def not_a_number(
    *, step: int, epoch: int, loss: float, samples: Sequence[int], checkpoint: str
) -> NotANumber:
    shown = ", ".join(map(str, samples[:SHOWN_SAMPLES]))
    more = ", …" if len(samples) > SHOWN_SAMPLES else ""
    whose = f", in a batch with the samples {shown}{more}" if samples else ""
    kept = f"; the last good checkpoint is {checkpoint}" if checkpoint else ""
    return NotANumber(
        f"the loss is {loss} at step {step} of epoch {epoch}{whose}{kept}",
        hint="look at these samples; else lower the learning rate, or set clip_norm",
    )


@contextmanager
def explained(
    model: nn.Module, batch: Pair, rehearse: Callable[[Any], Any] | None = None
) -> Iterator[None]:
    """Errors of a model's first step say which layer, what it expected, and what it got.

    Args:
        rehearse: takes inputs through the model once more, if to call it will not do.
    """
    try:
        yield
    except InvalidRequest:
        raise
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        if told := _of_labels(error, batch):
            raise told from error
        if told := _of_layer(error, model, batch, rehearse):
            raise told from error
        raise


def _of_labels(error: Exception, batch: Pair) -> InvalidRequest | None:
    if "out of bounds" not in str(error) or not isinstance(batch.targets, Tensor):
        return None
    low, high = int(batch.targets.min()), int(batch.targets.max())
    return InvalidRequest(
        f"labels go from {low} to {high}, and the model has not as many classes: "
        f"{first_line(error)[:300]}",
        hint="labels are numbers from 0 to num_classes - 1",
    )


def _of_layer(
    error: Exception, model: nn.Module, batch: Pair, rehearse: Callable[[Any], Any] | None
) -> InvalidRequest | None:
    """Runs one sample through the model again and sees how far it comes."""
    reached: list[tuple[str, nn.Module, list[list[int]]]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            reached.append((name, module, [list(each.shape) for each in tensors_in(inputs)]))

        return hook

    hooks = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if name and not any(True for _ in module.children())
    ]
    try:
        with torch.no_grad():
            few = cut(batch.inputs, 0, 2)
            rehearse(few) if rehearse is not None else call(model, few)
    except Exception:
        if not reached:
            return None
        name, module, shapes = reached[-1]
        got = " and ".join(map(str, shapes)) or "nothing"
        return InvalidRequest(
            f"the layer {name}, {_described(module)}, cannot take an input of shape {got}: "
            f"{first_line(error)[:300]}",
            hint="make the data's shape, or the layer's, fit",
        )
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _described(module: nn.Module) -> str:
    return str(module).splitlines()[0][:120]
