"""Segments: workers of a gang that must be within one domain, for the speed at which they speak."""

import numpy as np

from leptonai.core.scheduler.columns import Ints
from leptonai.core.scheduler.nodes import Nodes


def segments_by_domain(copies: Ints, nodes: Nodes, segment: int) -> Ints:
    """How many whole segments fit, by domain.

    Args:
        copies: how many workers fit, by node.
    """
    return np.bincount(nodes.machines.domain, weights=copies).astype(np.int64) // segment


def deal(room: Ints, wanted: int) -> list[tuple[int, int]]:
    """How many segments go to which domains: to as few as possible, the roomiest first, and the
    rest to the tightest that holds it.

    Args:
        room: by domain, in segments; `wanted` of them in all at least.
    """
    assert room.sum() >= wanted
    dealt: list[tuple[int, int]] = []
    roomiest_first = np.lexsort((np.arange(len(room)), -room))
    for place, domain in enumerate(roomiest_first.tolist()):
        if room[domain] >= wanted:
            rest = roomiest_first[place:]
            tightest = rest[room[rest] >= wanted][-1]
            return [*dealt, (int(tightest), wanted)]
        dealt.append((domain, int(room[domain])))
        wanted -= int(room[domain])
    return dealt
