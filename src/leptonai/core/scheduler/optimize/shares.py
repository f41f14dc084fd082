"""How much of the time each gang should run on which type of GPU.

A GPU that is newest for everybody is not the best for everybody: a share of the time on each type
is decided for all gangs at once by a linear program. `leptonai.core.scheduler.rounds` then hands
out whole GPUs round by round so that these shares come true.

Source: Narayanan et al. 2020, "Heterogeneity-aware cluster scheduling policies for deep learning
    workloads" (Gavel), OSDI, section 4.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from leptonai.core.scheduler.optimize.model import TOLERANCE
from leptonai.errors import InvalidRequest, TooLarge, Unsatisfiable

if TYPE_CHECKING:
    from leptonai.core.scheduler.optimize.problem import Floats

TIME_LIMIT_S = 30.0  # of one linear program; 10,000 kinds of gangs take 6 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A gang that wants to run, and how fast it would.

    >>> Claim(id="resnet", gpus=4, rates={"p100": 10.4, "v100": 9.5}).gpus
    4
    """

    id: str
    gpus: int = 1  # of its whole gang, all of one type
    rates: Mapping[str, float]  # of the whole gang, by GPU type; without one, or 0: not there
    weight: float = 1.0  # twice the weight is due twice the share


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Fractions of the time, which together ask for no more than there is.

    `of[gang][type]` is left out where it is 0. Of one gang they add up to at most 1.

    >>> shares = Shares(of={"a": {"k80": 0.5, "v100": 0.25}}, value=1.0, bound=1.0)
    >>> shares.progress(Claim(id="a", rates={"k80": 2.0, "v100": 8.0}))
    3.0
    """

    of: Mapping[str, Mapping[str, float]]
    value: float  # of what was made the most (or the least) of
    bound: float  # proved: nothing is better

    def progress(self, claim: Claim) -> float:
        """Its rate on average over time."""
        return math.fsum(
            share * claim.rates[type_] for type_, share in self.of.get(claim.id, {}).items()
        )


def relative(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """The same gangs with rates between 0 and 1: how fast compared with its best type. So the steps
    of one job, which may be long, count as much as those of another.

    >>> relative([Claim(id="a", rates={"k80": 2.0, "v100": 8.0})])[0].rates
    {'k80': 0.25, 'v100': 1.0}
    """
    return tuple(
        replace(claim, rates={type_: rate / _fastest(claim) for type_, rate in claim.rates.items()})
        for claim in claims
    )


def equal_rate(claim: Claim, claims: Sequence[Claim], gpus: Mapping[str, int]) -> float:
    """What it would progress at if every gang had the same share of every type (and none more than
    all of its time)."""
    crowd = max(len(claims), sum(gpus.values()))
    return math.fsum(gpus[type_] / crowd * rate for type_, rate in _usable(claim, gpus).items())


def fair_share(
    claim: Claim, progress: float, claims: Sequence[Claim], gpus: Mapping[str, int]
) -> float:
    """How its progress compares with that of an equal split, for its weight. A gang of n GPUs is
    due an n-th of the time: GPU time is what is shared.

    >>> two = [Claim(id=name, rates={"v100": 8.0}) for name in "ab"]
    >>> fair_share(two[0], 6.0, two, {"v100": 1})  # an equal share would be half of the time: 4.0
    1.5
    """
    return progress * claim.gpus / (claim.weight * equal_rate(claim, claims, gpus))


def most_progress(claims: Sequence[Claim], gpus: Mapping[str, int]) -> Shares:
    """The largest sum of weight x rate. Rates are added up as they are: see `relative`.

    Gangs alike are one variable; of what they get together, the first by id get all of their time
    before the next get any, so that nobody is stopped only to let an equal run.

    >>> slow = Claim(id="slow", rates={"k80": 1.0, "v100": 1.5})
    >>> quick = Claim(id="quick", rates={"k80": 1.0, "v100": 9.0})
    >>> shares = most_progress([slow, quick], {"k80": 1, "v100": 1})
    >>> shares.value, shares.of
    (10.0, {'quick': {'v100': 1.0}, 'slow': {'k80': 1.0}})
    """
    program = _Program(claims, gpus)
    value, taken = program.solve(-program.worth, ())
    return Shares(of=program.handed_out(taken, evenly=False), value=-value, bound=-value)


def fairest(claims: Sequence[Claim], gpus: Mapping[str, int]) -> Shares:
    """The smallest `fair_share` as large as it can be; and with that kept, as much progress as can
    be, relative to each gang's best type. Gangs alike get the same.

    >>> jobs = [Claim(id=name, rates={"k80": 1.0, "v100": 2.0}) for name in ("a", "b")]
    >>> shares = fairest(jobs, {"k80": 1, "v100": 1})
    >>> round(shares.value, 6), shares.of["a"] == shares.of["b"] == {"k80": 0.5, "v100": 0.5}
    (1.0, True)
    """
    program = _Program(claims, gpus)
    smallest, _ = program.solve_fair()
    kept = smallest * (1 - TOLERANCE)
    _, taken = program.solve(-program.speed, (kept,))
    return Shares(of=program.handed_out(taken, evenly=True), value=smallest, bound=smallest)


def cheapest(
    claims: Sequence[Claim],
    gpus: Mapping[str, int],
    *,
    price: Mapping[str, float],
    at_least: float,
) -> Shares:
    """The least cost a second by which every gang has this `fair_share`. The price is of one GPU of
    a type for a second: money, or watts.

    Raises Unsatisfiable where no shares give everybody so much.

    >>> job = Claim(id="a", rates={"k80": 1.0, "v100": 4.0})
    >>> shares = cheapest([job], {"k80": 1, "v100": 1}, price={"k80": 1, "v100": 9}, at_least=0.4)
    >>> shares.value, shares.of
    (1.0, {'a': {'k80': 1.0}})
    """
    program = _Program(claims, gpus)
    most, _ = program.solve_fair()
    if at_least > most * (1 + TOLERANCE):
        raise Unsatisfiable(
            f"no shares give every gang {at_least:g} of an equal share",
            hint=f"the most that all can have is {most:g}",
        )
    value, taken = program.solve(program.costs(price), (min(at_least, most),))
    return Shares(of=program.handed_out(taken, evenly=True), value=value, bound=value)


class _Program:
    """One variable for each type that each kind of gang can use: GPU types' time that the gangs of
    that kind take together, in gangs."""

    def __init__(self, claims: Sequence[Claim], gpus: Mapping[str, int]) -> None:
        import numpy as np

        _check(claims, gpus)
        self._gpus = gpus
        kinds: dict[Any, list[Claim]] = defaultdict(list)
        for claim in sorted(claims, key=lambda claim: claim.id):
            kinds[claim.gpus, claim.weight, tuple(sorted(claim.rates.items()))].append(claim)
        self._kinds = list(kinds.values())
        pairs = [
            (at, type_, rate)
            for at, (first, *_) in enumerate(self._kinds)
            for type_, rate in sorted(_usable(first, gpus).items())
        ]
        self._kind = np.array([at for at, _, _ in pairs], dtype=np.int64)
        self._types = [type_ for _, type_, _ in pairs]
        rate = np.array([rate for _, _, rate in pairs])
        first = [kind[0] for kind in self._kinds]
        self._many = np.array([len(kind) for kind in self._kinds], dtype=float)
        self._width = np.array([claim.gpus for claim in first], dtype=float)[self._kind]
        self.worth: Floats = rate * np.array([claim.weight for claim in first])[self._kind]
        self.speed: Floats = rate / np.array([_fastest(claim) for claim in first])[self._kind]
        one = np.array([fair_share(claim, 1.0, claims, gpus) for claim in first])
        self._fair: Floats = rate * one[self._kind]

    def costs(self, price: Mapping[str, float]) -> Floats:
        import numpy as np

        try:
            each = np.array([price[type_] for type_ in self._types], dtype=float)
        except KeyError as missing:
            raise InvalidRequest(
                f"there is no price of {missing}", hint="give one for each type of GPU"
            ) from None
        cost: Floats = self._width * each
        return cost

    def solve_fair(self) -> tuple[float, Floats]:
        """The largest smallest fair share, as one more variable."""
        import numpy as np

        objective = np.zeros(len(self._types) + 1)
        objective[-1] = -1.0
        value, taken = self._run(objective, self._fair_rows(), np.zeros(len(self._kinds)))
        return -value, taken[:-1]

    def solve(self, objective: Floats, floor: tuple[float] | tuple[()]) -> tuple[float, Floats]:
        """The least of an objective; with a floor, everybody has at least this fair share."""
        rows = self._fair_rows()[:, :-1] if floor else None
        limits = -floor[0] * self._many if floor else None
        return self._run(objective, rows, limits)

    def _fair_rows(self) -> Any:
        """Of each kind: its gangs' fair shares, and their number times the smallest, not above."""
        import numpy as np
        from scipy.sparse import csr_array

        at = np.arange(len(self._types))
        kinds = np.arange(len(self._kinds))
        return csr_array(
            (
                np.concatenate([-self._fair, self._many]),
                (
                    np.concatenate([self._kind, kinds]),
                    np.concatenate([at, np.full(len(kinds), len(at))]),
                ),
            )
        )

    def _run(self, objective: Floats, rows: Any, limits: Any) -> tuple[float, Floats]:
        import numpy as np
        from scipy.optimize import linprog
        from scipy.sparse import csr_array, vstack

        at = np.arange(len(self._types))
        types = sorted(self._gpus)
        type_of = np.array([types.index(type_) for type_ in self._types], dtype=np.int64)
        most = np.array([self._gpus[type_] for type_ in types], dtype=float)
        columns = len(objective)
        ones = np.ones(len(at))
        blocks = [
            csr_array((ones, (self._kind, at)), shape=(len(self._kinds), columns)),
            csr_array((self._width, (type_of, at)), shape=(len(types), columns)),
        ]
        high = [self._many, most]
        if rows is not None:
            blocks.append(rows)
            high.append(limits)
        # A program whose numbers are near 1 is one that its solver is exact about.
        scale = float(np.abs(objective).max(initial=0.0)) or 1.0
        done = linprog(
            objective / scale,
            A_ub=vstack(blocks).tocsr(),
            b_ub=np.concatenate(high),
            method="highs-ipm",  # with thousands of gangs several times faster than the simplex
            options={"time_limit": TIME_LIMIT_S},
        )
        if done.status != 0:  # what it has got by then need not be shares at all
            raise TooLarge(
                f"the shares of {len(self._kinds)} kinds of gangs were not found"
                f" in {TIME_LIMIT_S:g} s",
                hint="give gangs that are alike the same rates",
            )
        taken = np.clip(done.x, 0.0, None)
        return float(objective @ taken), taken

    def handed_out(self, taken: Floats, *, evenly: bool) -> dict[str, dict[str, float]]:
        """What each gang of a kind gets of that: the same, or the first all of its time."""
        shares: dict[str, dict[str, float]] = {claim.id: {} for k in self._kinds for claim in k}
        of_kind: dict[int, list[list[Any]]] = defaultdict(list)
        for at, type_, time in zip(self._kind.tolist(), self._types, taken.tolist(), strict=True):
            if time > TOLERANCE:
                of_kind[at].append([type_, time])
        for at, left in of_kind.items():
            for number, claim in enumerate(self._kinds[at]):
                unused = 1.0
                for entry in left:
                    part = entry[1] / (len(self._kinds[at]) - number)
                    time = part if evenly else min(unused, entry[1])
                    if time > TOLERANCE:
                        shares[claim.id][entry[0]] = time
                        entry[1] -= time
                        unused -= time
        return shares


def _usable(claim: Claim, gpus: Mapping[str, int]) -> dict[str, float]:
    """The types that have enough GPUs for the whole gang, and its rates there."""
    return {
        type_: rate
        for type_, rate in claim.rates.items()
        if rate > 0 and gpus.get(type_, 0) >= claim.gpus
    }


def _fastest(claim: Claim) -> float:
    return max(claim.rates.values(), default=0.0) or 1.0


def _check(claims: Sequence[Claim], gpus: Mapping[str, int]) -> None:
    seen: set[str] = set()
    for claim in claims:
        where = f"gang {claim.id!r}"
        if claim.id in seen:
            raise InvalidRequest(f"{where} is there twice", hint="each needs its own id")
        seen.add(claim.id)
        for what, number in (*claim.rates.items(), ("weight", claim.weight)):
            if not math.isfinite(number) or number < 0:
                raise InvalidRequest(
                    f"{where} has {what} {number}", hint="it must be a finite number, 0 or more"
                )
        if claim.gpus < 1 or claim.weight == 0:
            raise InvalidRequest(
                f"{where} has {claim.gpus} GPUs and weight {claim.weight:g}",
                hint="a gang has at least one GPU, and a weight above 0",
            )
        if not _usable(claim, gpus):
            raise Unsatisfiable(
                f"{where} can run on no type of GPU",
                hint=f"give its rate on a type with at least {claim.gpus} GPUs, or leave it out",
            )
    if not claims:
        raise InvalidRequest("there is no gang to share between", hint="give at least one")
