"""Measuring things in turns, so that whatever else the machine does hits all of them."""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

Row = dict[str, str]


class Took(NamedTuple):
    cpu_s: float  # of all threads of this process
    wall_s: float


def in_turns(
    acts: Mapping[str, Callable[[], object]], turns: int, *, warm: bool = True
) -> dict[str, list[Took]]:
    """Each act once a turn, forwards in one turn and backwards in the next: what one leaves behind
    (warm caches, a slower clock) then helps and hurts all alike."""
    if warm:
        for act in acts.values():
            act()
    took: dict[str, list[Took]] = {name: [] for name in acts}
    for turn in range(turns):
        for name in [*acts][:: -1 if turn % 2 else 1]:
            gc.collect()  # what the acts before left behind is not this one's to sweep
            took[name].append(timed(acts[name]))
    return took


def timed(act: Callable[[], object]) -> Took:
    cpu, wall = time.process_time(), time.perf_counter()
    act()
    return Took(time.process_time() - cpu, time.perf_counter() - wall)


def speed(ours: Sequence[Took], theirs: Sequence[Took], *, by_wall: bool = False) -> float:
    """Our speed in theirs, by the best turn of each: others on the machine only ever add."""
    which = 1 if by_wall else 0
    return min(each[which] for each in theirs) / min(each[which] for each in ours)


def middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def row(what: str, measured: str, goal: str = "") -> Row:
    return {"what": what, "goal": goal, "measured": measured}


@contextmanager
def part(about: str | None) -> Iterator[tuple[bool, list[Row]]]:
    """A script that prints its rows as JSON; whether it is to be quick."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs, no more")
    rows: list[Row] = []
    yield parser.parse_args().quick, rows
    print(json.dumps({"rows": rows}, indent=2, ensure_ascii=False))
