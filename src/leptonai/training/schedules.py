"""How the learning rate goes: pure functions of the step, so that there is nothing to save.

Only `Plateau` looks at what came out; what it remembers is a value.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from leptonai.errors import InvalidRequest

Factor = Callable[[int], float]  # step, from 0 -> what the learning rate is multiplied by

START_FACTOR = 1 / 25  # of a one-cycle schedule
END_FACTOR = 1e-4
RISING_SHARE = 0.3


def constant(steps: int, warmup: int) -> Factor:
    return lambda step: _rise(step, warmup)


def linear(steps: int, warmup: int) -> Factor:
    """Up to the peak, then straight down to nothing."""
    left = max(1, steps - warmup)
    return lambda step: _rise(step, warmup) * max(0.0, 1 - max(0, step - warmup) / left)


def cosine(steps: int, warmup: int) -> Factor:
    """Source: Loshchilov and Hutter 2017, "SGDR", without restarts."""
    left = max(1, steps - warmup)

    def factor(step: int) -> float:
        done = min(1.0, max(0, step - warmup) / left)
        return _rise(step, warmup) * (1 + math.cos(math.pi * done)) / 2

    return factor


def one_cycle(steps: int, warmup: int) -> Factor:
    """Up and down again, both along a cosine; `warmup` of 0 rises for 30 % of the steps.

    Source: Smith and Topin 2018, "Super-Convergence".
    """
    rising = warmup or max(1, round(RISING_SHARE * steps))
    falling = max(1, steps - rising)

    def factor(step: int) -> float:
        if step < rising:
            return _between(START_FACTOR, 1.0, step / rising)
        return _between(1.0, START_FACTOR * END_FACTOR, min(1.0, (step - rising) / falling))

    return factor


SCHEDULES: dict[str, Callable[[int, int], Factor]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "one cycle": one_cycle,
}
PLATEAU = "plateau"


def schedule_named(name: str | None, *, steps: int, warmup: int) -> Factor:
    """Raises:
    InvalidRequest: there is no such schedule.
    """
    plain = (name or "constant").strip().lower().replace("_", " ").replace("-", " ")
    if plain == PLATEAU:
        plain = "constant"  # the rest is `Plateau`'s
    make = SCHEDULES.get(plain)
    if make is None:
        raise InvalidRequest(
            f"there is no schedule {name!r}",
            hint=f"schedules are {', '.join([*SCHEDULES, PLATEAU])}",
        )
    return make(steps, warmup)


class Plateau(NamedTuple):
    """Multiplies the learning rate by `cut` when a loss has not fallen for `patience` looks."""

    cut: float = 0.1
    patience: int = 3
    factor: float = 1.0
    best: float = math.inf
    looks: int = 0  # since the best

    def after(self, loss: float) -> "Plateau":
        if loss < self.best:
            return self._replace(best=loss, looks=0)
        if self.looks + 1 <= self.patience:
            return self._replace(looks=self.looks + 1)
        return self._replace(factor=self.factor * self.cut, looks=0)


def _rise(step: int, warmup: int) -> float:
    return 1.0 if step >= warmup else (step + 1) / (warmup + 1)


def _between(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
