"""Which of N things are nearly the same, without comparing each with each. Pure.

Each thing has several keys, made so that two that are near enough share at least one. So only
things that share a key are compared: sorted by it, they stand beside each other.
"""

from collections.abc import Callable, Iterable
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

HASH_BITS = 64
MAX_NEIGHBOURS = 256  # of one thing under one key: more share a key only if it says little
MAX_PAIRS = 2_000_000


def near_pairs(
    keys: Iterable[NDArray[Any]], same: Callable[[Indices, Indices], NDArray[np.bool_]]
) -> tuple[NDArray[np.int64], bool]:
    """Pairs [P, 2] of numbers, the smaller first, each once.

    Args:
        keys: each [N]; two things that have one in common are compared.
        same: says of pairs, given as two columns, which of them are near.

    Returns:
        The pairs; and whether all were looked for: no more than `MAX_NEIGHBOURS` things after it
        are compared with each under a key, and no more than `MAX_PAIRS` pairs are kept.

    Cost: a sort for each key, and a comparison for each pair that shares one.
    """
    found: list[NDArray[np.int64]] = []
    complete, kept = True, 0
    for key in keys:
        order = np.argsort(key, kind="stable")
        sorted_key = key[order]
        at = np.arange(len(key))
        for distance in range(1, MAX_NEIGHBOURS + 1):
            at = at[at + distance < len(key)]
            at = at[sorted_key[at] == sorted_key[at + distance]]
            if not len(at):
                break
            one, other = order[at], order[at + distance]
            near = same(one, other)
            if near.any():
                pair = np.stack([one[near], other[near]], axis=1)
                pair.sort(axis=1)
                found.append(pair)
                kept += len(pair)
        else:
            complete = False
        if kept > MAX_PAIRS:
            found, complete = [_each_once(found)[:MAX_PAIRS]], False
            kept = len(found[0])
    return _each_once(found), complete


def hamming_keys(hashes: NDArray[np.uint64], bits: int) -> Iterable[NDArray[np.uint64]]:
    """Keys for hashes that differ in at most so many bits: cut into `bits` + 2 pieces, two of
    those are equal (pigeonhole), so each two pieces are a key.

    Source: Norouzi, Punjani, Fleet 2012, "Fast Search in Hamming Space with Multi-Index Hashing",
        with two pieces in place of one, for shorter buckets.
    """
    edges = np.linspace(0, HASH_BITS, bits + 3).astype(int)
    pieces = [
        (hashes >> np.uint64(start)) & np.uint64((1 << (int(end) - int(start))) - 1)
        for start, end in pairwise(edges)
    ]
    for one, other in combinations(pieces, 2):
        yield (one << np.uint64(32)) | other


def bits_between(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits differ. (numpy counts bits itself from 2.0 on.)"""
    differ = one ^ other
    in_bytes = np.ascontiguousarray(differ).view(np.uint8).reshape(-1, 8)
    total: NDArray[np.int64] = _BITS_OF_BYTE[in_bytes].sum(axis=1, dtype=np.int64)
    return total


def bands(signatures_NK: NDArray[np.uint16], rows: int) -> Iterable[NDArray[np.uint64]]:
    """Keys for MinHash signatures: `rows` numbers of each at a time.

    Source: Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4.
    """
    assert rows * 16 <= HASH_BITS
    for start in range(0, signatures_NK.shape[1], rows):
        key = np.zeros(len(signatures_NK), np.uint64)
        for column in signatures_NK[:, start : start + rows].T:
            key = (key << np.uint64(16)) | column.astype(np.uint64)
        yield key


def _each_once(found: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    if not found:
        return np.zeros((0, 2), np.int64)
    return np.unique(np.concatenate(found), axis=0)


_BITS_OF_BYTE = np.array([number.bit_count() for number in range(256)], np.uint8)
