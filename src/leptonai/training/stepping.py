"""One step: forward and back through pieces of a batch, then the optimiser.

A step's gradient is that of the mean over all samples of all ranks, however they are divided into
ranks and pieces. Only the last piece's backward pass exchanges gradients.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest
from leptonai.training import randomness
from leptonai.training.feeding import Pair, cut, rows
from leptonai.training.parallel import without_exchange
from leptonai.training.world import World

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[str, torch.dtype | None] = {
    "fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip


class Stepper:
    """Takes steps. `accumulation` may grow: when memory does not suffice."""

    def __init__(
        self,
        learner: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        optimizer: torch.optim.Optimizer,
        world: World,
        *,
        precision: Precision,
        accumulation: int,
        clip_norm: float | None,
        tell: Callable[[str], None],
    ) -> None:
        self._learner = learner
        self._loss = loss
        self._optimizer = optimizer
        self._world = world
        self._precision = precision
        self._device = world.device.type
        self.accumulation = accumulation
        self._clip_norm = clip_norm
        self._tell = tell
        self.scaler = torch.amp.GradScaler(self._device) if precision == "fp16" else None
        self._parameters = [each for group in optimizer.param_groups for each in group["params"]]
        self._clears_its_own_way = type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad

    def take(self, batch: Pair, of_all: int) -> Tensor:
        """One step. Returns this rank's share of the step's loss: the shares of all ranks add up
        to the mean over `of_all` samples.
        """
        while True:
            try:
                share = self._gradients(batch, of_all)
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._take_smaller_pieces(batch, error)
        self._update()
        return share

    def warm_up(self, batch: Pair, of_all: int) -> None:
        """Everything as in a step, but for the weights: afterwards all is as before.

        DDP puts gradients into buckets by the order in which they were ready in its first backward
        pass, and sums come out differently in other buckets. So that the first step of a process is
        like every other, its first pass is this one. Memory that does not suffice shows here, too,
        while no rank waits for another.
        """
        model = self._learner
        drawn = randomness.capture(self._world.device)
        kept = [buffer.detach().clone() for buffer in model.buffers()]
        try:
            while True:
                try:
                    with without_exchange(model):
                        self._gradients(batch, of_all)
                    break
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    self._take_smaller_pieces(batch, error)
            self._gradients(batch, of_all)
        finally:
            self._clear()
            with torch.no_grad():
                for buffer, before in zip(model.buffers(), kept, strict=True):
                    buffer.copy_(before)
            randomness.restore(drawn, self._world.device)

    def _gradients(self, batch: Pair, of_all: int) -> Tensor:
        if self.accumulation == 1 and self._world.size == 1:
            loss = self._value(batch)
            self._backward(loss)
            return loss.detach()
        count = rows(batch.inputs)
        total: Tensor | None = None
        bounds = list(_pieces(count, self.accumulation))
        for start, end in bounds:
            last = end == count
            piece = batch
            if len(bounds) > 1:
                piece = Pair(cut(batch.inputs, start, end), cut(batch.targets, start, end))
            with contextlib.nullcontext() if last else without_exchange(self._learner):
                loss = self._value(piece)
                share = loss.detach() * ((end - start) / of_all)
                # Ranks' gradients are averaged, and are to be added.
                weight = (end - start) * self._world.size / of_all
                self._backward(loss if weight == 1 else loss * weight)
            total = share if total is None else total + share
        assert total is not None, "a batch without rows"
        return total

    def _value(self, batch: Pair) -> Tensor:
        if self._precision == "fp32":  # a context costs microseconds
            return self._loss(call(self._learner, batch.inputs), batch.targets)
        with precisely(self._precision, self._device):
            return self._loss(call(self._learner, batch.inputs), batch.targets)

    def _backward(self, loss: Tensor) -> None:
        scaled: Any = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()

    def _update(self) -> None:
        if self.scaler is None:
            self._clip()
            self._optimizer.step()
        else:
            if self._clip_norm is not None:
                self.scaler.unscale_(self._optimizer)
                self._clip()
            self.scaler.step(self._optimizer)
            self.scaler.update()
        self._clear()

    def _clip(self) -> None:
        if self._clip_norm is not None:
            clip(self._parameters, self._clip_norm)

    def _clear(self) -> None:
        """What torch's own `zero_grad` does, but for its profiling, which takes as long as a small
        layer does."""
        if self._clears_its_own_way:
            self._optimizer.zero_grad()
            return
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _take_smaller_pieces(self, batch: Pair, error: Exception) -> None:
        """Raises:
        InvalidRequest: a piece is one sample already.
        """
        size = -(-rows(batch.inputs) // self.accumulation)
        self._clear()
        if self._device == "cuda":
            torch.cuda.empty_cache()
        if size <= 1:
            raise InvalidRequest(
                "memory does not suffice for a single sample",
                hint="use a smaller model, recompute=True, a lower precision or strategy='fsdp'",
            ) from error
        self.accumulation *= 2
        self._tell(
            f"memory does not suffice for {size} samples at once: going on with {-(-size // 2)}, "
            f"in {self.accumulation} pieces a batch"
        )


def precisely(precision: Precision, device: str) -> contextlib.AbstractContextManager[Any]:
    """Raises:
    InvalidRequest: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise InvalidRequest(
            f"there is no precision {precision!r}", hint=f"precisions are {', '.join(PRECISIONS)}"
        )
    type = PRECISIONS[precision]
    return contextlib.nullcontext() if type is None else torch.autocast(device, type)


def clip(parameters: Sequence[Tensor], most: float) -> None:
    """Scale all gradients down alike, so that their common norm is no larger.

    Those that are spread over ranks and those that are not cannot be in one call of torch's.
    """
    kinds: dict[bool, list[Tensor]] = {}
    for each in parameters:
        if each.grad is not None:
            kinds.setdefault(hasattr(each, "placements"), []).append(each)
    norms = [
        nn.utils.get_total_norm([each.grad for each in some if each.grad is not None])
        for some in kinds.values()
    ]
    # What is spread knows its norm only together.
    whole = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    total = torch.linalg.vector_norm(torch.stack(whole)) if len(whole) > 1 else whole[0]
    for some in kinds.values():
        nn.utils.clip_grads_with_norm_(some, most, total)


def call(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )


def _pieces(count: int, pieces: int) -> Iterator[tuple[int, int]]:
    """Bounds of at most so many pieces that differ by one row at the most."""
    pieces = min(pieces, count)
    for number in range(pieces):
        yield number * count // pieces, (number + 1) * count // pieces
