"""Where a model can be cut, for those who train it on more than one device."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed.tensor.parallel import ParallelStyle


@dataclass(frozen=True, slots=True)
class Plan:
    """Names of modules, as ``model.get_submodule`` takes them.

    ::

        for name in plan.blocks:
            fully_shard(model.get_submodule(name), mesh=mesh)
        fully_shard(model, mesh=mesh)

        parallelize_module(model, mesh, dict(plan.tensor_parallel))
    """

    # The model's repeated parts, in the order in which they run: each is sharded by itself, and its
    # activations may be computed again instead of kept.
    blocks: tuple[str, ...] = ()
    # Empty where a model cannot be cut inside its layers.
    tensor_parallel: "Mapping[str, ParallelStyle]" = field(
        default_factory=lambda: MappingProxyType({})
    )
