"""Answers many calls of a model with few passes through it."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from leptonai.errors import InvalidRequest
from leptonai.serving.inputs import MAX_BATCH


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of each an input, in the order of the inputs."""

    labels: list[str] = []
    probabilities: list[list[float]] = []  # of the classes, in the order of the signature
    values: list[Any] = []  # of a model that does not tell classes


Predict = Callable[[Any], Sequence[Prediction]]  # one of each input; raises InvalidRequest


def answer_together(calls: Sequence[Any], predict: Predict) -> list[Prediction | Exception]:
    """The answer to each call, which may hold several inputs.

    Inputs of one shape go through the model together. Where some are wrong each call goes alone,
    so that it is told what is wrong with its own, and its neighbours are answered.
    """
    answers: list[Any] = [None] * len(calls)
    inputs = [[call] if isinstance(call, Mapping | str) else call for call in calls]
    for group in _groups(inputs):
        try:
            found = predict(
                calls[group[0]]  # as it is: it may be wrong
                if len(group) == 1
                else [each for at in group for each in inputs[at]]
            )
        except InvalidRequest as refused:
            if len(group) == 1:
                answers[group[0]] = refused
            else:
                for at in group:
                    answers[at] = answer_together([calls[at]], predict)[0]
            continue
        starts = [0]
        for at in group:
            starts.append(starts[-1] + len(inputs[at]))
        for at, (start, end) in zip(group, pairwise(starts), strict=True):
            answers[at] = _joined(found[start:end])
    return answers


def _groups(inputs: Sequence[Any]) -> list[list[int]]:
    """Which calls go together: their inputs look alike, and are not too many."""
    groups: list[list[int]] = []
    open_groups: dict[Any, tuple[list[int], int]] = {}
    for at, given in enumerate(inputs):
        if not isinstance(given, list) or not 0 < len(given) <= MAX_BATCH:
            groups.append([at])  # it is wrong, and shall be told so
            continue
        looks = _looks(given[0])
        group, count = open_groups.get(looks, ([], MAX_BATCH))
        if count + len(given) > MAX_BATCH:
            group, count = [], 0
            groups.append(group)
        group.append(at)
        open_groups[looks] = group, count + len(given)
    return groups


def _looks(value: Any) -> Any:
    """The shape of an input, as its first elements tell it."""
    if hasattr(value, "shape"):
        return (*value.shape,)
    lengths: list[Any] = []
    while isinstance(value, list):
        lengths.append(len(value))
        if not value:
            break
        value = value[0]
    if not isinstance(value, int | float | list):
        lengths.append(type(value))
    return tuple(lengths)


def _joined(found: Sequence[Prediction]) -> Prediction:
    if len(found) == 1:
        return found[0]
    return Prediction(
        labels=[label for each in found for label in each.labels],
        probabilities=[likely for each in found for likely in each.probabilities],
        values=[value for each in found for value in each.values],
    )
