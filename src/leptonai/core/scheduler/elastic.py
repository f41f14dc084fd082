"""How many workers each elastic gang gets: least shares first, then by marginal return.

A gang with `min_workers` may run with any number of its workers from there on. `allot` decides the
numbers, and `schedule` the nodes. The marginal return of a further step is the time it saves each
GPU, in relation to what the gang has left: so short gangs and those that scale well grow first,
which is what keeps the average completion time low (Berg, Vesilo & Harchol-Balter 2020, "heSRPT:
Parallel scheduling to minimize mean slowdown", arXiv:1903.09346).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heappop, heappush

from leptonai.core.scheduler.values import Gang

KEEPS = 2.0  # a step that a gang already has counts so much more: no swapping for a little
PAYS_BACK = 2.0  # a running gang grows if that saves so many times what the restart costs it
MAX_CURVES = 4_096  # remembered at the same time


@dataclass(frozen=True, slots=True)
class Curve:
    """The numbers of workers that are worth having, and how fast the gang is with each.

    Both rise strictly. Speed 1 is that of all its workers, which `Gang.remaining_ms` is told for:
    a gang that fewer workers serve better has speeds above 1.
    """

    workers: tuple[int, ...]
    speeds: tuple[float, ...]

    @classmethod
    def of(cls, gang: Gang) -> "Curve":
        return _curve(len(gang.least), len(gang.workers), gang.speedup)

    def speed(self, workers: int) -> float:
        """With a number of workers that may be none of those worth having; 0 below the least."""
        fast = 0.0
        for many, speed in zip(self.workers, self.speeds, strict=True):
            if many > workers:
                break
            fast = speed
        return fast


@lru_cache(maxsize=MAX_CURVES)
def _curve(least: int, most: int, speedup: tuple[float, ...]) -> Curve:
    assert not speedup or len(speedup) >= most, (speedup, most)
    whole = speedup[most - 1] if speedup else float(most)
    workers: list[int] = []
    speeds: list[float] = []
    for many in range(least, most + 1):
        speed = (speedup[many - 1] if speedup else float(many)) / whole
        if speed > (speeds[-1] if speeds else 0.0):
            workers.append(many)
            speeds.append(speed)
    assert workers, (least, most, speedup)
    return Curve(tuple(workers), tuple(speeds))


@lru_cache(maxsize=MAX_CURVES)
def _hull(curve: Curve) -> Curve:
    """Only the numbers from which each further worker brings less than those before it (the upper
    concave hull from 0 on), but always the least: a step over a plateau is taken whole."""
    points = [(0, 0.0)]
    for point in zip(curve.workers, curve.speeds, strict=True):
        while len(points) > 2 and _bends_up(points[-2], points[-1], point):
            points.pop()
        points.append(point)
    return Curve(tuple(many for many, _ in points[1:]), tuple(speed for _, speed in points[1:]))


def _bends_up(a: tuple[int, float], b: tuple[int, float], c: tuple[int, float]) -> bool:
    return _slope(a, b) < _slope(b, c) * (1 - 1e-9)


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A gang that wants room, as `allot` looks at it."""

    id: str
    curve: Curve
    size: float  # of a worker, in GPUs
    left_ms: float  # of its work, at speed 1
    has: int = 0  # workers, now
    promised: int = 0  # workers it must have for its deadline …
    due_ms: int = 0  # … from then on
    turn: int = 0  # smaller goes first: nothing of a later turn costs an earlier one a worker


def allot(claims: Sequence[Claim], gpus: float, *, restart_ms: float = 0.0) -> dict[str, int]:
    """How many workers each gang has from now on; those that get none are not in the answer.

    What is promised comes first; then, turn by turn, the least of each gang, by marginal
    return (what runs goes on before something new starts in its place, if it is nearly as good);
    then further workers, turn by turn. So nobody has to stop while another has more than its least.
    A gang changes its size only if that pays for the restart.

    Args:
        gpus: free, or held by these gangs.
        restart_ms: what a change of size costs a gang that runs.

    Cost: O((gangs + GPUs) log gangs): 1,000 gangs on 1,000 GPUs take some 10 ms.
    """
    room = _Room(gpus)
    having: dict[str, int] = {}
    for claim in sorted(claims, key=lambda claim: (claim.due_ms, claim.id)):
        if claim.promised and room.take(claim.promised * claim.size):
            having[claim.id] = claim.promised
    starts = [(claim.turn, -_gain(claim, 0), claim.id, claim) for claim in claims]
    for _, _, id, claim in sorted(starts, key=lambda start: start[:3]):
        if id not in having and room.take(claim.curve.workers[0] * claim.size):
            having[id] = claim.curve.workers[0]
    _grow([claim for claim in claims if claim.id in having], having, room)
    if restart_ms:
        _keep_what_does_not_pay(claims, having, room, restart_ms)
    return having


class _Room:
    def __init__(self, gpus: float) -> None:
        self.free = gpus

    def take(self, gpus: float) -> bool:
        if gpus > self.free + 1e-9:
            return False
        self.free -= gpus
        return True


def _grow(claims: Sequence[Claim], having: dict[str, int], room: _Room) -> None:
    steps = [step for claim in claims if (step := _step(claim, having[claim.id]))]
    heapify(steps)
    while steps and room.free > 1e-9:
        _, _, id, to, claim = heappop(steps)
        fits = having[id] + int((room.free + 1e-9) // claim.size)
        if fits < to:  # not all of a step over a plateau
            to = max((many for many in claim.curve.workers if many <= fits), default=0)
        if to > having[id] and room.take((to - having[id]) * claim.size):
            having[id] = to
            if (step := _step(claim, to)) is not None:
                heappush(steps, step)


def _step(claim: Claim, workers: int) -> tuple[int, float, str, int, Claim] | None:
    """The next one: the turn, less the marginal return, the id, and up to how many workers."""
    hull = _hull(claim.curve)
    to = next((many for many in hull.workers if many > workers), None)
    return None if to is None else (claim.turn, -_gain(claim, workers), claim.id, to, claim)


def _gain(claim: Claim, workers: int) -> float:
    """Of the next step: speed for each GPU, in relation to the work that is left."""
    hull = _hull(claim.curve)
    before = after = (0, 0.0)
    for after in zip(hull.workers, hull.speeds, strict=True):
        if after[0] > workers:
            break
        before = after
    gain = _slope(before, after) / (claim.size * max(1.0, claim.left_ms)) if before != after else 0
    return gain * KEEPS if after[0] <= claim.has else gain


def _keep_what_does_not_pay(
    claims: Sequence[Claim], having: dict[str, int], room: _Room, restart_ms: float
) -> None:
    for claim in claims:
        to = having.get(claim.id, 0)
        if not claim.has or to == claim.has or to < claim.has:
            continue
        now, then = claim.curve.speed(claim.has), claim.curve.speed(to)
        if now and claim.left_ms * (1 / now - 1 / then) < PAYS_BACK * restart_ms:
            having[claim.id] = claim.has
            room.free += (to - claim.has) * claim.size
    for claim in claims:  # nobody shrinks for room that is not used
        to = having.get(claim.id, 0)
        if 0 < to < claim.has and room.take((claim.has - to) * claim.size):
            having[claim.id] = claim.has
