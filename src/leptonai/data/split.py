"""Dividing samples into those that teach and those that examine."""

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Generic, NamedTuple, TypeVar

Id = TypeVar("Id", int, str)


class Split(NamedTuple, Generic[Id]):
    train: tuple[Id, ...]
    held_out: tuple[Id, ...]


def split(
    ids: Sequence[Id], labels: Sequence[Hashable], *, seed: int, held_out: float
) -> Split[Id]:
    """Hold out the same share of every class, chosen by the samples' ids.

    The same ids, labels and seed give the same split, in whatever order they come: a sample's place
    depends on its id alone, so samples that are added later move few of the others.

    Args:
        ids: one a sample, each only once.
        labels: the class of each sample, in the order of `ids`.
        held_out: the share to hold out, between 0 and 1. A class of two or more samples has at
            least one on each side; a class of one is trained on.

    Returns:
        Both sides in ascending order of the ids.

    Raises:
        ValueError: an id is there twice, a label is missing, or the share is out of range.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is a share between 0 and 1, not {held_out}")
    if len(ids) != len(labels):
        raise ValueError(f"there are {len(ids)} ids, but {len(labels)} labels")
    if len(set(ids)) != len(ids):
        twice = next(sample for row, sample in enumerate(ids) if sample in ids[:row])
        raise ValueError(f"the id {twice!r} is there more than once")
    by_class: dict[Hashable, list[Id]] = {}
    for sample, label in zip(ids, labels, strict=True):
        by_class.setdefault(label, []).append(sample)
    train: list[Id] = []
    out: list[Id] = []
    for members in by_class.values():
        members.sort(key=lambda sample: (blake2b(f"{seed}:{sample}".encode()).digest(), sample))
        count = round(len(members) * held_out)
        count = max(1, min(count, len(members) - 1)) if len(members) > 1 else 0
        out += members[:count]
        train += members[count:]
    return Split(tuple(sorted(train)), tuple(sorted(out)))
