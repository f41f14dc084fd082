"""Replay requests against an endpoint whose replicas an autoscaler starts and stops.

What is modelled: one queue, first come, first served; each replica takes `slots` requests at once,
for as long as each needs; it serves `cold_start_s` after it was asked for; one that is to go takes
nothing new and leaves when it has answered what it has. Those that are still starting go first.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Requests:
    """What arrives: sorted times, and for how long each needs a slot."""

    arrived_s: NDArray[np.float64]
    service_s: NDArray[np.float64]
    until_s: float  # end of what is simulated

    def __post_init__(self) -> None:
        assert len(self.arrived_s) == len(self.service_s)


@dataclass(frozen=True, slots=True)
class Measured:
    """What gateway and engine saw since the autoscaler was asked last, and what is there now."""

    now_s: float
    window_s: float
    arrived: int
    ended: int
    waited_s: float  # request-seconds in the queue
    busy_s: float  # slot-seconds
    queued: int
    in_flight: int
    ready: int
    starting_since_s: tuple[float, ...]  # when each was asked for, the oldest first


class Autoscaler(Protocol):
    """Decides how many replicas there are to be."""

    interval_s: float  # between two decisions

    def initial(self) -> int: ...
    def desired(self, measured: Measured) -> int: ...


@dataclass(frozen=True, slots=True)
class Autoscaled:
    waited_s: NDArray[np.float64]  # by request; NaN: still in the queue at the end
    arrived_s: NDArray[np.float64]
    busy_replica_s: float  # what the requests need at least
    replica_s: float  # what there was, starting and draining included
    direction_changes: int
    max_queue: int
    decisions: int
    times_s: NDArray[np.float64]  # of each decision
    ready: NDArray[np.int64]
    replicas: NDArray[np.int64]  # ready, starting and draining
    desired: NDArray[np.int64]
    queued: NDArray[np.int64]
    busy_slots: NDArray[np.float64]  # mean since the decision before
    until_s: float

    def miss_ratio(self, limit_s: float) -> float:
        """Of the requests that had the limit's time, those that waited for longer."""
        waited = self.waited_s[self.arrived_s <= self.until_s - limit_s]
        return float(np.mean(~(waited <= limit_s))) if len(waited) else 0.0

    def measures(self, limit_s: float) -> dict[str, Any]:
        served = self.waited_s[~np.isnan(self.waited_s)]
        return {
            "requests": len(self.arrived_s),
            "slo_s": limit_s,
            "slo_miss_ratio": self.miss_ratio(limit_s),
            "cost_ratio": self.cost_ratio,
            "direction_changes": self.direction_changes,
            "max_queue": self.max_queue,
            "p50_wait_s": float(np.quantile(served, 0.5)) if len(served) else 0.0,
            "p99_wait_s": float(np.quantile(served, 0.99)) if len(served) else 0.0,
            "replica_hours": self.replica_s / 3_600,
            "max_replicas": int(self.replicas.max()),
        }

    @property
    def cost_ratio(self) -> float:
        """Replica time as a multiple of what the requests keep busy at least."""
        return self.replica_s / self.busy_replica_s if self.busy_replica_s else 0.0


def simulate_autoscale(
    requests: Requests,
    autoscaler: Autoscaler,
    *,
    cold_start_s: float,
    slots: int,
    progress: Callable[[float], None] | None = None,
) -> Autoscaled:
    """Cost: about 3 µs a request and what the autoscaler takes."""
    arrivals = requests.arrived_s.tolist()
    arrivals.append(float("inf"))
    services = requests.service_s.tolist()
    waited = [float("nan")] * len(services)
    until = requests.until_s
    interval = autoscaler.interval_s

    busy: list[tuple[float, int]] = []  # a heap of (end, replica)
    free: deque[int] = deque()  # a replica for each free slot, the longest idle first
    held: dict[int, int] = {}  # of each ready or draining replica: slots in use
    draining: set[int] = set()
    starting: deque[tuple[float, int]] = deque()  # (asked for, replica)
    queue: deque[int] = deque()
    pop, push = heapq.heappop, heapq.heappush

    numbered = autoscaler.initial()
    for replica in range(numbered):
        held[replica] = 0
        free.extend([replica] * slots)

    at = 0
    replica_s = 0.0
    direction = changes = most_queued = 0
    last_target = numbered
    log: list[tuple[float, int, int, int, int, float]] = []
    now = 0.0
    while now < until:
        tick = min(now + interval, until)
        window = tick - now
        first, ended = at, 0
        waited_area = busy_area = 0.0
        last = now
        # The cost of this window: all that stands at its beginning, less what leaves meanwhile.
        replica_s += window * (len(held) + len(starting))
        while True:
            ready_at = starting[0][0] + cold_start_s if starting else tick
            arrival = arrivals[at]
            end = busy[0][0] if busy else tick
            if end <= arrival and end <= ready_at:
                moment = end
            else:
                moment = arrival if arrival <= ready_at else ready_at
            if moment >= tick:
                break
            step = moment - last
            waited_area += step * len(queue)
            busy_area += step * len(busy)
            last = moment
            if moment == end and busy:
                _, replica = pop(busy)
                ended += 1
                if replica in draining:
                    held[replica] -= 1
                    if not held[replica]:
                        del held[replica]
                        draining.discard(replica)
                        replica_s -= tick - moment
                    continue
                if queue:
                    request = queue.popleft()
                    waited[request] = moment - arrivals[request]
                    push(busy, (moment + services[request], replica))
                else:
                    held[replica] -= 1
                    free.append(replica)
            elif moment == arrival:
                if free:
                    replica = free.popleft()
                    held[replica] += 1
                    waited[at] = 0.0
                    push(busy, (moment + services[at], replica))
                else:
                    queue.append(at)
                    if len(queue) > most_queued:
                        most_queued = len(queue)
                at += 1
            else:
                _, replica = starting.popleft()
                held[replica] = 0
                for _ in range(slots):
                    if queue:
                        request = queue.popleft()
                        waited[request] = moment - arrivals[request]
                        push(busy, (moment + services[request], replica))
                        held[replica] += 1
                    else:
                        free.append(replica)
        waited_area += (tick - last) * len(queue)
        busy_area += (tick - last) * len(busy)
        now = tick
        ready = len(held) - len(draining)
        target = autoscaler.desired(
            Measured(
                now_s=now,
                window_s=window,
                arrived=at - first,
                ended=ended,
                waited_s=waited_area,
                busy_s=busy_area,
                queued=len(queue),
                in_flight=len(busy),
                ready=ready,
                starting_since_s=tuple(since for since, _ in starting),
            )
        )
        there = ready + len(starting)
        if target != last_target:
            turned = 1 if target > last_target else -1
            changes += direction not in (0, turned)
            direction, last_target = turned, target
        while there < target:
            starting.append((now, numbered))
            numbered += 1
            there += 1
        while there > target and starting:
            starting.pop()
            there -= 1
        if there > target:
            serving = [replica for replica in held if replica not in draining]
            leaving = sorted(serving, key=lambda replica: (held[replica], -replica))
            gone = set(leaving[: there - target])
            for replica in gone:
                if held[replica]:
                    draining.add(replica)
                else:
                    del held[replica]
            free = deque(replica for replica in free if replica not in gone)
        log.append((now, ready, len(held) + len(starting), target, len(queue), busy_area / window))
        if progress is not None:
            progress(now)
    columns = list(zip(*log, strict=True))
    return Autoscaled(
        waited_s=np.array(waited),
        arrived_s=requests.arrived_s,
        busy_replica_s=float(requests.service_s.sum()) / slots,
        replica_s=replica_s,
        direction_changes=changes,
        max_queue=most_queued,
        decisions=len(log),
        times_s=np.array(columns[0]),
        ready=np.array(columns[1]),
        replicas=np.array(columns[2]),
        desired=np.array(columns[3]),
        queued=np.array(columns[4]),
        busy_slots=np.array(columns[5]),
        until_s=until,
    )
