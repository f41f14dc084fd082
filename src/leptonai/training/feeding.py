"""From whatever a user holds to batches of (inputs, targets), on the device.

Inputs and targets are trees: tensors, and tuples, lists and dicts of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from leptonai.data.loader import DataLoader
from leptonai.errors import InvalidRequest
from leptonai.training.world import World

Tree: TypeAlias = Any

TARGETS = ("labels", "label", "targets", "target", "y")  # what a dict of a batch may call them


class Pair(NamedTuple):
    inputs: Tree
    targets: Tree


def loader_of(
    data: Any,
    world: World,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    pipeline: Any,
    to_learn: bool = True,
) -> Any:
    """This rank's part, with ``batch_size`` samples of all ranks together in a batch.

    A loader of another kind is used as it is.

    Args:
        to_learn: all ranks have equally many batches; else every sample is in one.

    Raises:
        InvalidRequest: there are no samples, or fewer than ranks, or this is no data.
    """
    if not isinstance(data, DataLoader):
        if isinstance(data, Iterable) and not hasattr(data, "__getitem__") and not _is_set(data):
            return data
        if isinstance(data, tuple | list) and len(data) == 2:
            data = tuple(
                each.numpy(force=True) if isinstance(each, Tensor) else each for each in data
            )
        options = {"pipeline": pipeline} if pipeline is not None else {}
        data = DataLoader(data, batch_size, shuffle, seed=seed, **options)
    _check_length(data.dataset_length, data.batch_size, world if to_learn else None)
    if world.size == 1:
        return data
    return data.shared(world.rank, world.size, in_lockstep=to_learn)


def dataset_of(data: Any) -> Any:
    """What a loader reads from; or the data itself."""
    return getattr(data, "dataset", data)


def pipeline_of(data: Any) -> Any:
    """What a loader does to its samples, as its user gave it."""
    given = getattr(data, "pipeline", None)
    return getattr(given, "pipeline", given)


def pair_of(batch: Any) -> Pair:
    """Raises:
    InvalidRequest: nobody can tell what of the batch the model is to find out.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return Pair(*batch)
    if isinstance(batch, Mapping):
        for name in TARGETS:
            if name in batch:
                return Pair({key: batch[key] for key in batch if key != name}, batch[name])
    raise InvalidRequest(
        f"a batch is {_told(batch)}, and training needs inputs and targets",
        hint=f"give (inputs, targets), or a dict with one of {', '.join(TARGETS)}",
    )


def rows(tree: Tree) -> int:
    """How many samples there are in it."""
    return int(_first(tree).shape[0])


def cut(tree: Tree, start: int, end: int) -> Tree:
    """Some rows of it; nothing is copied."""
    if isinstance(tree, Tensor):
        return tree[start:end]
    if isinstance(tree, Mapping):
        return {name: cut(each, start, end) for name, each in tree.items()}
    if isinstance(tree, tuple | list):
        return _alike(tree, [cut(each, start, end) for each in tree])
    return tree


def moved(tree: Tree, device: torch.device) -> Tree:
    if isinstance(tree, Tensor):
        return tree if tree.device == device else tree.to(device, non_blocking=True)
    if isinstance(tree, tuple | list):
        return _alike(tree, [moved(each, device) for each in tree])
    if isinstance(tree, Mapping):
        return {name: moved(each, device) for name, each in tree.items()}
    return tree


def tensors_in(tree: Tree) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for each in tree.values():
            yield from tensors_in(each)
    elif isinstance(tree, tuple | list):
        for each in tree:
            yield from tensors_in(each)


def unsound_rows(tree: Tree) -> Sequence[int]:
    """Of samples that hold a number that is none."""
    bad: set[int] = set()
    for tensor in tensors_in(tree):
        if tensor.is_floating_point() and tensor.ndim:
            sound = torch.isfinite(tensor).reshape(len(tensor), -1).all(1)
            bad |= {*torch.nonzero(~sound).flatten().tolist()}
    return sorted(bad)


def _alike(tree: Tree, parts: list[Tree]) -> Tree:
    if hasattr(tree, "_fields"):
        return type(tree)(*parts)
    return type(tree)(parts)


def _first(tree: Tree) -> Tensor:
    found = next(tensors_in(tree), None)
    if found is None or not found.ndim:
        raise InvalidRequest(
            f"the inputs of a batch are {_told(tree)}, and not tensors",
            hint="turn texts into numbers with a pipeline",
        )
    return found


def _is_set(data: Any) -> bool:
    return hasattr(data, "as_columns") or (hasattr(data, "read") and hasattr(data, "__len__"))


def _check_length(samples: int, batch_size: int, world: World | None) -> None:
    if samples == 0:
        raise InvalidRequest("the data set is empty", hint="give it samples")
    if world is None:
        return
    if samples < world.size or batch_size < world.size:
        raise InvalidRequest(
            f"{samples} samples in batches of {batch_size} are too few for {world.size} workers",
            hint="use fewer workers, or larger batches",
        )


def _told(tree: Tree) -> str:
    if isinstance(tree, Tensor):
        return f"a tensor of shape {list(tree.shape)}"
    if isinstance(tree, Mapping):
        return f"a dict of {', '.join(map(str, tree)) or 'nothing'}"
    if isinstance(tree, tuple | list):
        return f"a {type(tree).__name__} of {len(tree)}"
    return f"a {type(tree).__name__}"
