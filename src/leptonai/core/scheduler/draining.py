"""Short gangs first, and yet all are done about as early as can be.

To serve the shortest first gives the least mean time to completion, and leaves a few long gangs to
the end, which then run on a nearly empty cluster. What they hold back is known: nothing ends before
the longest gang has had its time, nor before all GPUs together have done the work. A gang that
needs nearly as long as that by itself is *critical*: to let it wait is to let everything wait.
So critical gangs go first, wide ones before narrow ones, and the others shortest first.

As work is done the bound falls, and gangs that wait become critical one after the other: so a long
one is passed by short ones only as long as that delays nothing. What arrives later is not known;
when it arrives it raises the bound.
"""

from collections.abc import Iterable

# Of the bound. Nearer to 1 short gangs win a little and the end is later; nearer to 0 it
# is longest first. Between 0.5 and 0.9 both change by some per cent, on every trace that was tried.
CRITICAL = 0.75


def critical_from(work: Iterable[tuple[float, float]], gpus: float) -> float:
    """How much time a gang must have left to be critical.

    Args:
        work: of every gang that waits or runs, the time that it has left, and its GPUs.
        gpus: of the cluster.

    >>> critical_from([(100, 1), (40, 1), (40, 1), (40, 1)], gpus=2)  # the bound: 220 / 2
    82.5
    """
    longest = total = 0.0
    for left, width in work:
        longest = max(longest, left)
        total += left * width
    return CRITICAL * max(longest, total / gpus)


def drain_rank(left: float, gpus: float, critical: float) -> float:
    """Smaller goes first.

    >>> gangs = {"long": (100, 1), "wide": (90, 8), "short": (10, 1), "middling": (40, 2)}
    >>> critical = critical_from(gangs.values(), gpus=16)
    >>> sorted(gangs, key=lambda name: drain_rank(*gangs[name], critical))
    ['wide', 'long', 'short', 'middling']
    """
    return -gpus if left >= critical else left
