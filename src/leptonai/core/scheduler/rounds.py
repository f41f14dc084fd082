"""Shares of time made true: who runs on which type of GPU in the next round.

Time is cut into rounds of some minutes. A share of 0.25 then means a quarter of the rounds, on
whole GPUs, with the whole gang. Each gang has on each of its types a *tag*: a round that it runs
moves it on by 1 / share, the time in which one round is its due. The smallest tag goes first, so
that everybody is behind by about the same time, whatever its share; and when switching costs more
than was planned for, everybody loses the same part. A gang that runs goes on until its tag is
`STINT_ROUNDS` later than another's, because to stop and to start again costs it time.

Shares may change between any two rounds: what was owed is still owed. Who is new begins with the
smallest tag of its type, as if it had had its due until now.

Sources: the tags are those of start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996); rounds
    that follow a linear program's shares are Gavel's (Narayanan et al., OSDI 2020, section 5).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from leptonai.core.scheduler.optimize.shares import Claim, Shares

STINT_ROUNDS = 8  # by which one that runs may get ahead of one that waits: 2 % of 400 rounds
GAP_GPUS = 256  # of gangs that run, and of gangs that wait, that a gap may be closed with


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What must be remembered from one round to the next."""

    tags: Mapping[tuple[str, str], float] = field(default_factory=dict)  # by gang and GPU type
    running: Mapping[str, str] = field(default_factory=dict)  # gang: its type in the last round


def next_round(
    claims: Sequence[Claim], shares: Shares, gpus: Mapping[str, int], ledger: Ledger
) -> dict[str, str]:
    """The type of GPU on which each gang runs; those left out wait. Never more than there are, and
    never a part of a gang. What nobody is due is given to those who wait, where they are quickest.

    With n pairs of a gang and a type O(n log n), and for each type where gangs of several widths
    leave a gap at most GAP_GPUS x GAP_GPUS in arrays.

    >>> jobs = [Claim(id="a", rates={"v100": 1.0}), Claim(id="b", rates={"v100": 1.0})]
    >>> third = Shares(of={"a": {"v100": 1 / 3}, "b": {"v100": 2 / 3}}, value=1.0, bound=1.0)
    >>> ledger, order = Ledger(), ""
    >>> for _ in range(30):
    ...     placed = next_round(jobs, third, {"v100": 1}, ledger)
    ...     ledger = settle(ledger, third, placed)
    ...     order += "".join(placed)
    >>> order, order.count("a")
    ('aaabbbbbbbbbbbbaaaaaabbbbbbbbb', 9)
    """
    tags = _tags(ledger, shares)
    wanted = [
        _Wanted(tags[claim.id, type_] - stays, claim, type_)
        for claim in claims
        for type_ in shares.of.get(claim.id, {})
        for stays in [STINT_ROUNDS if ledger.running.get(claim.id) == type_ else 0]
    ]
    wanted.sort(key=lambda one: (one.tag, -one.claim.gpus, one.claim.id, one.type))
    round_ = _Round(gpus)
    for one in wanted:
        round_.take(one.claim, one.type)
    for type_ in sorted(gpus):
        if round_.left[type_]:
            _close_gaps(round_, type_, wanted)
    for one in wanted:
        round_.take(one.claim, one.type)
    spare = [
        (ledger.running.get(claim.id) != type_, -rate / best, -claim.gpus, claim.id, type_, claim)
        for claim in claims
        if claim.id not in round_.placed
        for best in [max(claim.rates.values(), default=0.0)]
        for type_, rate in claim.rates.items()
        if rate > 0 and claim.gpus <= round_.left.get(type_, 0)
    ]
    for *_, type_, claim in sorted(spare, key=lambda entry: entry[:5]):
        round_.take(claim, type_)
    return round_.placed


def settle(
    ledger: Ledger, shares: Shares, placed: Mapping[str, str], *, start_cost: float = 0.0
) -> Ledger:
    """The ledger after a round. A gang that did not run on this type before lost a part of the
    round, `start_cost`, to load and to warm up: it is owed that again."""
    tags = _tags(ledger, shares)
    for gang, type_ in placed.items():
        if (gang, type_) in tags:
            gained = 1.0 if ledger.running.get(gang) == type_ else 1.0 - start_cost
            tags[gang, type_] += gained / shares.of[gang][type_]
    return Ledger(tags=tags, running=dict(placed))


def _tags(ledger: Ledger, shares: Shares) -> dict[tuple[str, str], float]:
    pairs = [(gang, type_) for gang, of in shares.of.items() for type_ in of]
    first: dict[str, float] = {}
    for gang, type_ in pairs:
        if (gang, type_) in ledger.tags:
            tag = ledger.tags[gang, type_]
            first[type_] = min(first.get(type_, tag), tag)
    return {pair: ledger.tags.get(pair, first.get(pair[1], 0.0)) for pair in pairs}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A gang on one of the types that it has a share of."""

    tag: float
    claim: Claim
    type: str


class _Round:
    """Who is placed so far, and the GPUs that are left."""

    def __init__(self, gpus: Mapping[str, int]) -> None:
        self.left = dict(gpus)
        self.placed: dict[str, str] = {}

    def take(self, claim: Claim, type_: str) -> None:
        if claim.id not in self.placed and claim.gpus <= self.left.get(type_, 0):
            self.placed[claim.id] = type_
            self.left[type_] -= claim.gpus

    def give_back(self, claim: Claim) -> None:
        if claim.id in self.placed:
            self.left[self.placed.pop(claim.id)] += claim.gpus


def _close_gaps(round_: _Round, type_: str, wanted: Sequence[_Wanted]) -> None:
    """Choose again who runs on a type, where wide gangs did not fit into what was left: those that
    together are worth the most. A GPU is worth the more the later its gang is (squared, so that
    the latest does not wait for the good of many); to leave it empty is as bad as to give it to
    one that is a stint ahead of the mean.

    Whoever has the most weight together, each time, gets through any load that can be got through
    (Tassiulas and Ephremides 1992). A knapsack, solved exactly.
    """
    of_type = [one for one in wanted if one.type == type_]
    runs = [one for one in of_type if round_.placed.get(one.claim.id) == type_]
    waits = [one for one in of_type if one.claim.id not in round_.placed]
    if not waits:
        return
    may = [*_first(runs[::-1]), *_first(waits)]
    for one in may:
        round_.give_back(one.claim)
    mean = sum(one.tag for one in may) / len(may)
    late = [max(mean - one.tag + STINT_ROUNDS, 0.01) for one in may]
    sizes = [one.claim.gpus for one in may]
    worth = [size * rounds**2 for size, rounds in zip(sizes, late, strict=True)]
    for at in _knapsack(sizes, worth, round_.left[type_]):  # the room is theirs and the gap
        round_.take(may[at].claim, type_)


def _first(ones: Sequence[_Wanted]) -> list[_Wanted]:
    """Those that a gap is closed with: the nearest to the border between running and waiting."""
    total = list(accumulate(one.claim.gpus for one in ones))
    return [one for one, gpus in zip(ones, total, strict=True) if gpus <= GAP_GPUS]


def _knapsack(sizes: Sequence[int], worth: Sequence[float], room: int) -> list[int]:
    """Which ones fit and are worth the most together."""
    import numpy as np

    best = np.zeros(room + 1)  # by the room that may be used
    chosen = np.zeros((len(sizes), room + 1), dtype=bool)
    for at, (size, value) in enumerate(zip(sizes, worth, strict=True)):
        if size <= room:
            with_it = best[: room + 1 - size] + value
            chosen[at, size:] = with_it > best[size:]
            best[size:] = np.maximum(with_it, best[size:])
    found = []
    for at in reversed(range(len(sizes))):
        if chosen[at, room]:
            found.append(at)
            room -= sizes[at]
    return found
