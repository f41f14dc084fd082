"""Where a model's forward pass may be divided, and which rank takes which stretch of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from leptonai.errors import InvalidRequest


@dataclass(frozen=True)
class Section:
    """A stretch of the forward pass that one rank takes as a whole."""

    # (what the section before gave, the model's inputs) -> a tensor, or a tuple of them.
    run: Callable[[Any, Any], Any]
    uses: Sequence[nn.Module | nn.Parameter]  # all that it computes with


def sections_of(pipeline: Sequence[nn.Module | Section]) -> list[Section]:
    """Modules that follow each other are sections: each is called with what the one before gave."""
    return [
        each if isinstance(each, Section) else Section(_calling(each), (each,)) for each in pipeline
    ]


def _calling(module: nn.Module) -> Callable[[Any, Any], Any]:
    def run(given: Any, inputs: Any) -> Any:
        if given is None:
            return module(**inputs) if isinstance(inputs, dict) else module(inputs)
        return module(*given) if isinstance(given, tuple) else module(given)

    return run


def tensors_used(section: Section) -> Iterator[Tensor]:
    """Its parameters and buffers."""
    for each in section.uses:
        if isinstance(each, nn.Module):
            yield from each.parameters()
            yield from each.buffers()
        else:
            yield each


def stages_of(model: nn.Module, sections: Sequence[Section], ranks: int) -> list[range]:
    """The sections of each rank: those of one follow each other.

    Raises:
        InvalidRequest: there are not enough of them, or they leave something out.
    """
    name = type(model).__name__
    if not sections:
        raise InvalidRequest(
            f"{name} does not say how it is cut into stages",
            hint="give it a method plan() -> Plan(pipeline=…), or use another strategy",
        )
    used = {id(tensor) for section in sections for tensor in tensors_used(section)}
    kept = [*model.named_parameters(), *model.named_buffers()]
    if missing := [each for each, tensor in kept if id(tensor) not in used]:
        raise InvalidRequest(
            f"no section of {name}'s pipeline uses {', '.join(missing[:3])}",
            hint="name in each Section(…, uses=…) what it computes with",
        )
    learning = [
        sum(tensor.numel() for tensor in tensors_used(section) if tensor.requires_grad)
        for section in sections
    ]
    if sum(1 for size in learning if size) < ranks:
        raise InvalidRequest(
            f"{name} has {sum(1 for size in learning if size)} sections that learn, too few for "
            f"{ranks} workers",
            hint="use fewer workers, or cut the pipeline of its plan() finer",
        )
    stages = divided(learning, ranks)
    assert all(any(learning[at] for at in stage) for stage in stages)
    return stages


def divided(sizes: Sequence[int], parts: int) -> list[range]:
    """Into so many parts that follow each other, each with something in it, the largest as small
    as can be."""
    low, high = max(sizes), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        if _filled(sizes, parts, middle) is None:
            low = middle + 1
        else:
            high = middle
    found = _filled(sizes, parts, low)
    assert found is not None, "fewer things than parts"
    return found


def _filled(sizes: Sequence[int], parts: int, most: int) -> list[range] | None:
    """No part larger than this; None where that is impossible."""
    left = [*accumulate((1 if size else 0 for size in reversed(sizes)), initial=0)][::-1]
    bounds, start = [], 0
    for part in range(parts):
        end, total = start, 0
        others = parts - part - 1  # each of them needs one that is not empty
        while end < len(sizes) and total + sizes[end] <= most and left[end + 1] >= others:
            total += sizes[end]
            end += 1
        if not total:
            return None
        bounds.append(range(start, end))
        start = end
    return bounds if start == len(sizes) else None
