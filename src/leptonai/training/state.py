"""What a training is made of, as named tensors: the model, its optimiser, its average.

Each is told by its name and not by its number, so that what was saved on four ranks is read on two.
What lies on the device "meta" is another rank's, and passed over.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest
from leptonai.training.checkpoints import Part, Saved

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

SHOWN = 3  # differences of two models

WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")

MODEL, OPTIMIZER, AVERAGE = "model/", "optimizer/", "average/"


def tensors_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """By name, as they are on this rank; nothing is copied."""
    found = {
        MODEL + name: tensor
        for name, tensor in model.state_dict(keep_vars=False).items()
        if not tensor.is_meta
    }
    found |= {
        f"{OPTIMIZER}{name}/{key}": value
        for name, key, value in _optimizer_state(model, optimizer)
        if isinstance(value, Tensor)
    }
    return found | {AVERAGE + name: tensor for name, tensor in average.items()}


def facts_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What of the optimiser is no tensor, by name under "state", and what the model looks like."""
    plain = {
        f"{name}/{key}": value
        for name, key, value in _optimizer_state(model, optimizer)
        if isinstance(value, int | float | bool)
    }
    return {"optimizer": type(optimizer).__name__, "state": plain, "model": identity(model)}


def parameters_of(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Those that this rank has something of, by the names that `state_dict` gives them: without
    what torch's wrappers put in between."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        yield name, parameter


def identity(model: nn.Module) -> str:
    """Equal for models of the same parameters."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:32]


def restore(
    saved: Saved,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
) -> None:
    """All or nothing of it.

    Raises:
        InvalidRequest: it is a checkpoint of another model or optimiser; says where they differ.
    """
    _check(saved, model, optimizer)
    names = saved.names()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_meta:
                fill(tensor, saved, MODEL + name)
        for name, tensor in average.items():
            fill(tensor, saved, AVERAGE + name if AVERAGE + name in names else MODEL + name)
        plain: Mapping[str, Any] = saved.facts["state"]
        for group in optimizer.param_groups:
            on_device = bool(group.get("fused") or group.get("capturable"))
            for parameter, name in _named(model, group["params"]):
                prefix = f"{OPTIMIZER}{name}/"
                state = optimizer.state[parameter]
                state.clear()
                for key in sorted(
                    each.removeprefix(prefix) for each in names if each.startswith(prefix)
                ):
                    state[key] = _like(parameter, saved, prefix + key, on_device)
                state |= {
                    key.removeprefix(f"{name}/"): value
                    for key, value in plain.items()
                    if key.rpartition("/")[0] == name
                }


def part_of(tensor: Tensor, copied: Tensor) -> Part:
    """Where `copied`, which holds what this rank has of a tensor, belongs in the whole."""
    if _is_distributed(tensor):
        at, _ = _block_of(tensor)
        return Part(copied, at, tuple(tensor.shape))
    return Part.all_of(copied)


def local_of(tensor: Tensor) -> Tensor:
    """What this rank has of it."""
    local: Tensor = tensor.to_local() if _is_distributed(tensor) else tensor
    return local.detach()


def is_mine(tensor: Tensor, rank: int) -> bool:
    """Whether this rank writes it: of what all have, only rank 0."""
    return rank == 0 or (
        _is_distributed(tensor) and any(each.is_shard() for each in tensor.placements)
    )


def fill(tensor: Tensor, saved: Saved, name: str) -> None:
    if _is_distributed(tensor):
        at, shape = _block_of(tensor)
        local_of(tensor).copy_(saved.read(name, at, shape))
    else:
        tensor.copy_(saved.read(name))


def _like(parameter: Tensor, saved: Saved, name: str, on_device: bool) -> Tensor:
    """A tensor of the optimiser, where the optimiser expects it."""
    if saved.shape(name) == tuple(parameter.shape):
        fresh = torch.empty_like(parameter, requires_grad=False)
        fill(fresh, saved, name)
        return fresh
    value = saved.read(name)
    at_parameter = value.ndim > 0 or on_device
    return value.to(parameter.device) if at_parameter else value


def _check(saved: Saved, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {
        name.removeprefix(MODEL): saved.shape(name)
        for name in saved.names()
        if name.startswith(MODEL)
    }
    differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    if differing:
        told = "; ".join(
            f"{name} is {_told(theirs.get(name))} there and {_told(ours.get(name))} here"
            for name in differing[:SHOWN]
        )
        raise InvalidRequest(
            f"the checkpoint {saved.path} is of another model: {told}",
            hint="name another directory of checkpoints, or build the model as it was",
        )
    if saved.facts["optimizer"] != type(optimizer).__name__:
        raise InvalidRequest(
            f"the checkpoint {saved.path} was written with {saved.facts['optimizer']}, and this "
            f"trains with {type(optimizer).__name__}",
            hint="use the same optimizer, or another directory of checkpoints",
        )


def _told(shape: tuple[int, ...] | None) -> str:
    return "not" if shape is None else str(list(shape))


def _optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, str, Any]]:
    for group in optimizer.param_groups:
        for parameter, name in _named(model, group["params"]):
            for key, value in optimizer.state.get(parameter, {}).items():
                yield name, key, value


def _named(model: nn.Module, parameters: list[Tensor]) -> Iterator[tuple[Tensor, str]]:
    name_of = {id(parameter): name for name, parameter in parameters_of(model)}
    for parameter in parameters:
        yield parameter, name_of[id(parameter)]


def _is_distributed(tensor: Tensor) -> "TypeGuard[DTensor]":
    return type(tensor).__name__ == "DTensor" or hasattr(tensor, "placements")


def _block_of(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where this rank's block begins, and its shape."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, at = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return tuple(at), tuple(shape)
