"""Dividing samples into those that teach and those that examine."""

from collections.abc import Hashable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 1 << 18  # keys that are mixed at once

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


def divide(
    keys: "NDArray[np.uint64]",
    shares: Mapping[str, float],
    *,
    seed: int,
    labels: "NDArray[np.int64] | None" = None,
) -> dict[str, "NDArray[np.int64]"]:
    """Divide samples by numbers that were drawn from their contents.

    Equal contents come to the same side, so that nobody is examined on what they were taught; the
    order of the samples does not matter; and samples that are added later move few of the others.

    Args:
        keys: [N], equal where the contents are.
        shares: of each side; they add up to 1.
        labels: [N]: every class is divided by these shares, where this is given.

    Returns:
        The numbers of each side's samples, ascending. Every sample is on one side.

    Raises:
        InvalidRequest: the shares do not add up to 1.
    """
    import numpy as np

    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        told = ", ".join(f"{name}={share:g}" for name, share in shares.items())
        raise InvalidRequest(
            f"the shares {told or '(none)'} are not positive numbers that add up to 1",
            hint="for example train=0.8, test=0.2",
        )
    drawn = mixed(keys, seed)
    del keys  # of a long table each of these is large
    sides = np.zeros(len(drawn), np.uint16)
    until = np.cumsum(list(shares.values()))[:-1]
    classes = [None] if labels is None else np.unique(labels)
    for each in classes:
        members = slice(None) if labels is None else np.flatnonzero(labels == each)
        own = drawn[members]
        side = np.zeros(len(own), np.uint16)
        for share in until:
            before = int(np.round(share * len(own)))  # as many are on the sides up to here
            # Beyond the last of these are the next sides': so equal ones stay together.
            side += own > np.partition(own, before - 1)[before - 1] if before else 1
        sides[members] = side
    del drawn
    return {name: np.flatnonzero(sides == number) for number, name in enumerate(shares)}


def mixed(keys: "NDArray[np.uint64]", seed: int) -> "NDArray[np.uint64]":
    """SplitMix64: every bit of key and seed moves every bit of the answer.

    Source: Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators".
    """
    import numpy as np

    made = np.empty_like(keys, np.uint64)
    step = np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % (1 << 64))
    for at in range(0, len(keys), BLOCK):  # so that little is needed besides the answer
        block = keys[at : at + BLOCK] + step
        block = (block ^ (block >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        block = (block ^ (block >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        made[at : at + BLOCK] = block ^ (block >> np.uint64(31))
    return made
