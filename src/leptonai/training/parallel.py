"""How a model is spread over ranks, by torch's own means.

A model may say how it is best divided, with a method ``plan()`` that gives a `Plan`.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import nn

from leptonai.errors import InvalidRequest
from leptonai.training.sections import Section, sections_of
from leptonai.training.world import World

Strategy: TypeAlias = Literal["auto", "ddp", "fsdp", "tensor", "pipeline"]
STRATEGIES = ("auto", "ddp", "fsdp", "tensor", "pipeline")


@dataclass(frozen=True)
class Plan:
    """How a model is divided."""

    # Those that are gathered, or computed again, as a whole: the layers of a transformer, say.
    blocks: Sequence[nn.Module] = ()
    # Name of a module -> how it is cut over ranks; see torch.distributed.tensor.parallel.
    tensor: Mapping[str, Any] = field(default_factory=dict)
    # What one after the other computes what the model does: where it may be cut into stages.
    pipeline: Sequence[nn.Module | Section] = ()


def plan_of(model: nn.Module) -> Plan:
    plan = getattr(model, "plan", None)
    found = plan() if callable(plan) else None
    return found if isinstance(found, Plan) else Plan()


class Spread(NamedTuple):
    learner: nn.Module  # what is called in the model's place to learn
    evaluated: nn.Module  # and to evaluate; gives None where another rank has the outputs
    sharing: World  # the ranks that share the data: each of its parts is one rank's
    adding: World  # the ranks whose shares of a loss add up to it
    in_lockstep: bool  # a forward pass needs all ranks


def spread(model: nn.Module, strategy: Strategy, world: World) -> Spread:
    """Every rank then has rank 0's weights, or its part of them.

    Raises:
        InvalidRequest: there is no such strategy, or the model does not say how to cut it.
    """
    if strategy not in STRATEGIES:
        raise InvalidRequest(
            f"there is no strategy {strategy!r}", hint=f"strategies are {', '.join(STRATEGIES)}"
        )
    if strategy == "auto":
        strategy = "ddp"
    if world.size == 1 and strategy != "fsdp":
        return unspread(model, world)
    if strategy == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        ids = [world.device.index] if world.device.type == "cuda" else None
        learner = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
        # To evaluate, not the learner: its forward pass may wait for all ranks.
        return unspread(model, world)._replace(learner=learner)
    align([*model.parameters(), *model.buffers()], world)
    alone = World(0, 1, world.device)  # all ranks read the same samples
    if strategy == "pipeline":
        from leptonai.training.pipelining import Pipeline

        line = Pipeline(model, sections_of(plan_of(model).pipeline), world)
        return Spread(line, line, alone, world, in_lockstep=True)
    mesh = _mesh(world)
    if strategy == "tensor":
        from torch.distributed.tensor.parallel import parallelize_module

        plan = plan_of(model).tensor
        if not plan:
            raise InvalidRequest(
                f"{type(model).__name__} does not say how its tensors are cut",
                hint="give it a method plan() -> Plan(tensor=…), or use another strategy",
            )
        cut = parallelize_module(model, mesh, dict(plan))
        return Spread(cut, cut, alone, alone, in_lockstep=True)
    from torch.distributed.fsdp import fully_shard

    for block in plan_of(model).blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return unspread(model, world)._replace(in_lockstep=True)


def unspread(model: nn.Module, world: World) -> Spread:
    """Every rank has all of the model, and its part of the data."""
    return Spread(model, model, world, world, in_lockstep=False)


def without_exchange(learner: nn.Module) -> AbstractContextManager[None]:
    """Gradients of a backward pass within are added up on this rank alone."""
    if isinstance(learner, nn.parallel.DistributedDataParallel):
        return learner.no_sync()
    if hasattr(learner, "set_requires_gradient_sync"):
        return _Deferred(learner)
    return nullcontext()


def recompute_blocks(model: nn.Module) -> None:
    """Blocks keep only what goes in, and are computed again on the way back: less memory, a third
    more work.

    Raises:
        InvalidRequest: the model names no blocks.
    """
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        apply_activation_checkpointing,
    )

    blocks = {id(block) for block in plan_of(model).blocks}
    if not blocks:
        raise InvalidRequest(
            f"{type(model).__name__} does not say what its blocks are",
            hint="give it a method plan() -> Plan(blocks=…)",
        )
    apply_activation_checkpointing(model, check_fn=lambda module: id(module) in blocks)


def align(tensors: Iterable[torch.Tensor], world: World) -> None:
    """All ranks have those of rank 0."""
    import torch.distributed as dist

    if world.size > 1:
        with torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


def _mesh(world: World) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(world.device.type, (world.size,))


class _Deferred(AbstractContextManager[None]):
    def __init__(self, learner: Any) -> None:
        self._learner = learner

    def __enter__(self) -> None:
        self._learner.set_requires_gradient_sync(False)

    def __exit__(self, *_: object) -> None:
        self._learner.set_requires_gradient_sync(True)
