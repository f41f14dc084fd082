"""A model as a pipeline of ranks: each computes a stretch of it, on one piece of a batch after the
other, by ``torch.distributed.pipelining``.

Every rank reads the same batches and knows the whole model's form, so what goes from rank to rank
is known beforehand, and only activations and their gradients travel. What a rank does not compute
with lies on the device "meta", where it takes no memory; when the training is over all have all.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from leptonai.errors import InvalidRequest, Unavailable
from leptonai.training.feeding import Pair, cut, rows, tensors_in
from leptonai.training.sections import Section, stages_of, tensors_used
from leptonai.training.stepping import Precision, Stepper, precisely
from leptonai.training.world import World

_RunSection: TypeAlias = Callable[[Any, Any], Any]

MAX_SCHEDULES = 8  # of different shapes of pieces; each holds room for what arrives


class Pipeline(nn.Module):
    """A model of which this rank has one stage. All ranks call the same, in the same order."""

    def __init__(self, model: nn.Module, sections: Sequence[Section], world: World) -> None:
        """
        Raises:
            InvalidRequest: there are fewer sections than ranks, or they leave something out.
        """
        super().__init__()
        self.model = model
        self.world = world
        self._chain = [section.run for section in sections]
        stages = stages_of(model, sections, world.size)
        self._stages = stages
        users: dict[int, list[int]] = {}  # of each tensor, the ranks that compute with it
        for rank, stage in enumerate(stages):
            for section in (sections[at] for at in stage):
                for tensor in tensors_used(section):
                    ranks = users.setdefault(id(tensor), [])
                    if rank not in ranks:
                        ranks.append(rank)
        named = _tensors_of(model)
        self._users = {name: users[id(tensor)] for name, tensor in named.items()}
        self._groups = {
            ranks: dist.new_group(list(ranks))
            for ranks in sorted({tuple(each) for each in users.values() if len(each) > 1})
        }
        others = {
            name: _empty(tensor, "meta")
            for name, tensor in named.items()
            if world.rank not in self._users[name]
        }
        _replace(model, others)
        self._stage = _Stage([self._chain[at] for at in stages[world.rank]], world)
        self._schedules: OrderedDict[Any, _Schedule] = OrderedDict()

    def forward(self, inputs: Any) -> Any:
        """The outputs on the last rank, and None on the others. Learns nothing."""
        with torch.no_grad():
            found = [
                self._schedule(inputs, run, learns=False).outputs(inputs, run)
                for run in _runs(rows(inputs), self.world.size)
            ]
        if found[0] is None:
            return None
        return pytree.tree_map(lambda *parts: torch.cat(parts), *found)

    def learn(
        self,
        batch: Pair,
        of_all: int,
        pieces: int,
        loss: Callable[[Any, Any], Tensor],
        precision: Precision,
    ) -> Tensor:
        """Forward and back; returns the loss on the last rank, and nothing of it on the others."""
        self._stage.precision = precision
        total = torch.zeros((), device=self.world.device)
        for run in _runs(rows(batch.inputs), pieces):
            schedule = self._schedule(batch.inputs, run, learns=True)
            total = total + schedule.learn(batch, run, loss, of_all)
        with torch.no_grad():
            self._add_up_gradients()
        return total

    def rehearse(self, inputs: Any) -> list[tuple[Tensor, ...]]:
        """What goes from section to section, as examples without content. Computes with shapes
        alone, of the whole model: an error is the same on all ranks, and leaves nobody waiting."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        with _silent("torch._subclasses.fake_tensor"), FakeTensorMode(allow_non_fake_inputs=True):
            kept = {
                f"model.{name}": _empty(each, self.world.device)
                for name, each in _tensors_of(self.model).items()
            }
            fake = pytree.tree_map_only(Tensor, torch.empty_like, inputs)
            chain = _Chain(self.model, self._chain, self._stage)
            given = torch.func.functional_call(chain, kept, (fake,))
        return [tuple(map(_example, each)) for each in given]

    def clip(self, parameters: Sequence[Tensor], most: float) -> None:
        """By the norm over all ranks; what several compute with counts once."""
        mine = [
            each.grad
            for name, each in self.model.named_parameters()
            if each.grad is not None and self._users[name][0] == self.world.rank
        ]
        norm = nn.utils.get_total_norm(mine).to(self.world.device)
        total = self.world.sums(norm.double().square()[None])[0].sqrt()
        nn.utils.clip_grads_with_norm_(parameters, most, total.to(norm.dtype))

    @torch.no_grad()
    def complete(self) -> None:
        """All ranks have the whole model."""
        whole = {
            name: _empty(each, self.world.device) if each.is_meta else each
            for name, each in _tensors_of(self.model).items()
        }
        for name, each in whole.items():
            dist.broadcast(each.data, src=self._users[name][0])
        _replace(self.model, whole)
        self._schedules.clear()

    def compile(self, *options: Any, **more: Any) -> None:
        self._stage.through = torch.compile(self._stage.through, *options, **more)

    def _schedule(self, inputs: Any, run: "_Run", *, learns: bool) -> "_Schedule":
        piece = cut(inputs, run.start, run.start + run.size)
        shapes = tuple((tuple(each.shape), each.dtype) for each in tensors_in(piece))
        key = (learns, run.pieces, shapes, self._stage.precision)
        found = self._schedules.pop(key, None)
        if found is None:
            given, mine = self.rehearse(piece), self._stages[self.world.rank]
            received = given[mine.start - 1] if mine.start else ()
            found = _Schedule(
                self._stage, self.world, received, given[mine.stop - 1], run.pieces, learns=learns
            )
        self._schedules[key] = found
        if len(self._schedules) > MAX_SCHEDULES:
            self._schedules.popitem(last=False)
        return found

    def _add_up_gradients(self) -> None:
        """Of weights that several ranks compute with; so they stay alike."""
        for name, each in self.model.named_parameters():
            ranks = self._users[name]
            if len(ranks) > 1 and self.world.rank in ranks and each.requires_grad:
                each.grad = torch.zeros_like(each) if each.grad is None else each.grad
                dist.all_reduce(each.grad, group=self._groups[tuple(ranks)])


class PipelineStepper(Stepper):
    """The pieces of a batch are those that fill the pipeline: one for each rank at least."""

    _learner: Pipeline

    def _gradients(self, batch: Pair, of_all: int) -> Tensor:
        pieces = max(self.accumulation, self._learner.world.size)
        try:
            return self._learner.learn(batch, of_all, pieces, self._loss, self._precision)
        except RuntimeError as error:
            if "onnection closed" in str(error) or "onnection reset" in str(error):
                raise Unavailable(
                    "another worker of the pipeline ended in the middle of a step",
                    hint="see the logs of the other workers",
                ) from None
            # torch tells of a stage that failed, with what it was given.
            raise error.__cause__ or error from None

    def _clip(self) -> None:
        if self._clip_norm is not None:
            self._learner.clip(self._parameters, self._clip_norm)

    def _take_smaller_pieces(self, batch: Pair, error: Exception) -> None:
        """The other ranks are in the middle of their part, and would wait."""
        pieces = max(self.accumulation, self._learner.world.size)
        raise InvalidRequest(
            f"memory does not suffice for {-(-rows(batch.inputs) // pieces)} samples at once",
            hint=f"take smaller pieces: accumulation={2 * pieces}",
        ) from error


class _Run(NamedTuple):
    """Pieces of one size, one after the other."""

    start: int
    pieces: int
    size: int

    def cut(self, tree: Any) -> Iterator[Any]:
        for number in range(self.pieces):
            start = self.start + number * self.size
            yield cut(tree, start, start + self.size)


def _runs(count: int, pieces: int) -> Iterator[_Run]:
    """Pieces that differ by one row at the most: torch's schedules take those of one size."""
    pieces = min(pieces, count)
    size, larger = divmod(count, pieces)
    if larger:
        yield _Run(0, larger, size + 1)
    yield _Run(larger * (size + 1), pieces - larger, size)


class _Stage(nn.Module):
    """What this rank computes of a piece. It is told which one by number."""

    def __init__(self, sections: Sequence[_RunSection], world: World) -> None:
        super().__init__()
        self._sections = sections
        self._is_first, self._is_last = world.is_first, world.rank == world.size - 1
        self._device = world.device.type
        self.precision: Precision = "fp32"
        self.pieces: list[Any] = []
        self.through: Callable[[Any, Any], Any] = self._through

    def forward(self, *received: Tensor, number: Tensor) -> Any:
        inputs = self.pieces[int(number)]
        given: Any = None if self._is_first else received if len(received) > 1 else received[0]
        with precisely(self.precision, self._device):
            given = self.through(given, inputs)
        if self._is_last:
            return given
        return tuple(each.contiguous() for each in _as_tuple(given))

    def _through(self, given: Any, inputs: Any) -> Any:
        for section in self._sections:
            given = section(given, inputs)
        return given


class _Chain(nn.Module):
    """All sections one after the other, and what each gave."""

    def __init__(self, model: nn.Module, sections: Sequence[_RunSection], stage: _Stage) -> None:
        super().__init__()
        self.model = model
        self._sections, self._stage = sections, stage

    def forward(self, inputs: Any) -> list[tuple[Tensor, ...]]:
        given, found = None, []
        with precisely(self._stage.precision, self._stage._device):
            for section in self._sections:
                given = section(given, inputs)
                found.append(_as_tuple(given))
        return found


class _Schedule:
    """Takes a number of pieces of one shape through the pipeline, forward or also back."""

    def __init__(
        self,
        stage: _Stage,
        world: World,
        received: Sequence[Tensor],
        given: Sequence[Tensor],
        count: int,
        *,
        learns: bool,
    ) -> None:
        """
        Args:
            received, given: examples of what comes to the stage and leaves it.
        """
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

        self._stage = stage
        self._numbers = torch.arange(count)
        self._is_first = world.is_first
        one = PipelineStage(
            stage,
            world.rank,
            world.size,
            world.device,
            input_args=tuple(received) or self._numbers[:1],
            output_args=tuple(given),
        )
        # One forward, one back: no more pieces are remembered than there are stages.
        kind = Schedule1F1B if learns and count >= world.size else ScheduleGPipe
        self._schedule = kind(one, count, self._share if learns else None, scale_grads=False)
        self._targets: list[Any] = []
        self._loss: Callable[[Any, Any], Tensor]
        self._weight = 1.0

    def learn(
        self, batch: Pair, run: _Run, loss: Callable[[Any, Any], Tensor], of_all: int
    ) -> Tensor:
        self._targets = [*run.cut(batch.targets)]
        self._loss, self._weight = loss, run.size / of_all
        shares: list[Tensor] = []
        self._take(batch.inputs, run, target=self._numbers, losses=shares, return_outputs=False)
        return sum((each.detach() for each in shares), torch.zeros(()))

    def outputs(self, inputs: Any, run: _Run) -> Any:
        return self._take(inputs, run)

    def _take(self, inputs: Any, run: _Run, **options: Any) -> Any:
        self._stage.pieces = [*run.cut(inputs)]
        received = (self._numbers,) if self._is_first else ()
        try:
            return self._schedule.step(*received, number=self._numbers, **options)
        finally:
            self._stage.pieces, self._targets = [], []

    def _share(self, outputs: Any, number: Tensor) -> Tensor:
        """Of this piece in the step's loss."""
        with precisely(self._stage.precision, self._stage._device):
            return self._loss(outputs, self._targets[int(number)]) * self._weight


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])


def _replace(model: nn.Module, new: dict[str, Tensor]) -> None:
    """Also where the model has a tensor under several names."""
    old = _tensors_of(model)
    by_id = {id(old[name]): each for name, each in new.items()}
    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            for name, each in [*kept.items()]:
                if each is not None and id(each) in by_id:
                    kept[name] = by_id[id(each)]  # type: ignore[assignment]


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """What this logger says is an error here is told as ours."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _as_tuple(given: Any) -> tuple[Tensor, ...]:
    found = given if isinstance(given, tuple) else (given,)
    if strange := [type(each).__name__ for each in found if not isinstance(each, Tensor)]:
        raise InvalidRequest(
            f"a section of the model's pipeline gives a {strange[0]}",
            hint="let it give a tensor, or a tuple of them",
        )
    return found


def _example(tensor: Tensor) -> Tensor:
    return torch.empty(
        tensor.shape, dtype=tensor.dtype, device="meta", requires_grad=tensor.requires_grad
    )


def _empty(like: Tensor, device: torch.device | str) -> Tensor:
    empty = torch.empty_like(like, device=device, requires_grad=False)
    if isinstance(like, nn.Parameter):
        return nn.Parameter(empty, requires_grad=like.requires_grad)
    return empty
