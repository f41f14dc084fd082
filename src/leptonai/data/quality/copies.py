"""Samples that are there more than once: in one split, in two, or with two labels. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leptonai.data.quality.report import MAX_EXAMPLES, Example, Found, Skipped


@dataclass(frozen=True)
class Samples:
    """What is known of each of N samples without its bytes."""

    content: NDArray[np.uint64]  # equal where the samples are, apart from their labels
    where: Callable[[int], str]  # file, or file:row
    labels: NDArray[np.int64] | None = None
    label_names: Sequence[str] = ()
    splits: NDArray[Any] | None = None
    split_names: Sequence[str] = ()  # those that teach before those that examine; "" is none


def duplicates(samples: Samples) -> list[Found]:
    """Copies that have the same label; those with another one are conflicts."""
    total = len(samples.content)
    earlier = _first_equal(samples.content, samples.labels)
    copies = np.flatnonzero(earlier != np.arange(total))
    return [
        Found(
            "duplicates",
            len(copies) / total,
            f"{len(copies):,} of {total:,} samples are copies of earlier ones",
            hint="remove the copies: they weigh more than their share, and leak between splits",
            examples=_as_pairs(samples, copies, earlier),
        )
    ]


def label_conflicts(samples: Samples) -> list[Found | Skipped]:
    labels, total = samples.labels, len(samples.content)
    if labels is None:
        return [Skipped("label-conflicts", "there are no labels")]
    first = _first_equal(samples.content)
    differs = labels != labels[first]
    of_conflict = np.zeros(total, bool)
    of_conflict[first[differs]] = True
    of_conflict = of_conflict[first]
    count = int(np.count_nonzero(of_conflict))
    names = samples.label_names
    return [
        Found(
            "label-conflicts",
            count / total,
            f"{count:,} of {total:,} samples have equals with another label",
            hint="decide on one label for each, or add what tells them apart",
            examples=tuple(
                Example(
                    samples.where(at),
                    f"{names[labels[at]]}, but {samples.where(int(first[at]))} is "
                    f"{names[labels[first[at]]]}",
                )
                for at in np.flatnonzero(differs)[:MAX_EXAMPLES].tolist()
            ),
        )
    ]


def leakage(samples: Samples) -> list[Found | Skipped]:
    """Equal contents in two splits, whatever their labels."""
    if reason := no_splits(samples):
        return [Skipped("leakage", reason)]
    group = np.unique(samples.content, return_inverse=True)[1]
    return [*_leaks("leakage", samples, group, None)]


def near_duplicates(samples: Samples, pairs: NDArray[np.int64], alike: str) -> list[Found]:
    """
    Args:
        pairs: [P, 2] of samples that are near each other; equal ones need not be among them.
        alike: what near means, in words.
    """
    first = _first_equal(samples.content)
    distinct = pairs[samples.content[pairs[:, 0]] != samples.content[pairs[:, 1]]]
    earlier = np.arange(len(samples.content))
    np.minimum.at(earlier, distinct[:, 1], distinct[:, 0])
    # Of equal ones only the first counts here: the others are duplicates already.
    near = np.flatnonzero((earlier != np.arange(len(earlier))) & (first == np.arange(len(first))))
    total = len(samples.content)
    return [
        Found(
            "near-duplicates",
            len(near) / total,
            f"{len(near):,} of {total:,} samples {alike} an earlier one",
            hint="look at the pairs; keep one of each, and keep them in one split",
            examples=_as_pairs(samples, near, earlier),
        )
    ]


def near_leakage(samples: Samples, pairs: NDArray[np.int64]) -> list[Found | Skipped]:
    """Samples that are near ones of an earlier split. Equal ones count as well."""
    if reason := no_splits(samples):
        return [Skipped("near-leakage", reason)]
    group = np.unique(samples.content, return_inverse=True)[1]
    return [*_leaks("near-leakage", samples, group, group[pairs])]


def no_splits(samples: Samples) -> str:
    """Why there is nothing to leak; "" if there is."""
    named = [number for number, name in enumerate(samples.split_names) if name]
    if samples.splits is None or not named:
        return "the data has no splits"
    filled = [n for n in named if bool((samples.splits == n).any())]
    if len(filled) > 1:
        return ""
    return f"all samples are in {samples.split_names[filled[0]]}" if filled else "none has a split"


def _leaks(
    gate: str,
    samples: Samples,
    group: NDArray[np.int64],
    linked: NDArray[np.int64] | None,
) -> list[Found]:
    """
    Args:
        group: [N]: equal contents have one number.
        linked: [P, 2] of groups that are near each other.
    """
    splits = samples.splits
    assert splits is not None
    group = group.reshape(-1)
    count = int(group.max()) + 1
    # Of each group and each split, the first sample; N where there is none.
    none = len(group)
    first = np.full((count, len(samples.split_names)), none, np.int64)
    np.minimum.at(first, (group, splits.astype(np.int64)), np.arange(none))
    nearest = first
    if linked is not None:
        nearest = first.copy()
        for one, other in ((0, 1), (1, 0)):
            np.minimum.at(nearest, linked[:, one], first[linked[:, other]])
    found = []
    for later, name in enumerate(samples.split_names):
        members = np.flatnonzero(splits == later)
        if not name or not len(members):
            continue
        for earlier, teaches in enumerate(samples.split_names[:later]):
            if not bool((splits == earlier).any()):
                continue
            counterpart = nearest[group[members], earlier]
            leaked = members[counterpart < none]
            partner = np.full(none, -1)
            partner[members] = counterpart
            verb = "are" if linked is None else "are, or look like something,"
            found.append(
                Found(
                    gate,
                    len(leaked) / len(members),
                    f"{len(leaked):,} of {len(members):,} samples of {name} {verb} in {teaches}",
                    where=name,
                    hint=f"take them out of {name}, or divide again: Dataset.split keeps equal "
                    "samples together",
                    examples=_as_pairs(samples, leaked, partner),
                )
            )
    return found


def _first_equal(
    content: NDArray[np.uint64], labels: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """[N]: the first sample that is equal to each."""
    _, first, group = np.unique(content, return_index=True, return_inverse=True)
    if labels is not None:
        both = group.reshape(-1).astype(np.int64) * (int(labels.max(initial=0)) + 1) + labels
        _, first, group = np.unique(both, return_index=True, return_inverse=True)
    found: NDArray[np.int64] = first[group.reshape(-1)]
    return found


def _as_pairs(
    samples: Samples, at: NDArray[np.int64], partner: NDArray[np.int64]
) -> tuple[Example, ...]:
    return tuple(
        Example(samples.where(one), f"as {samples.where(int(partner[one]))}")
        for one in at[:MAX_EXAMPLES].tolist()
    )
