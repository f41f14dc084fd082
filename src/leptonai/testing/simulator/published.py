"""Published autoscalers to compare with, as their sources have them and with their defaults."""

import math
from collections import deque

from leptonai.testing.simulator.autoscale import Measured


class Static:
    """Always the same number."""

    interval_s = 60.0

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def initial(self) -> int:
        return self._replicas

    def desired(self, measured: Measured) -> int:
        return self._replicas


class Kpa:
    """Knative's pod autoscaler, on concurrency.

    Source: knative/serving pkg/autoscaler/scaling/autoscaler.go, `Scale`, and its defaults in
    config/core/configmaps/autoscaler.yaml: a stable window of 60 s, a panic window of a tenth of it
    that panics at 200 %, at most 1,000 times up and half down at a time, decided every 2 s.
    Concurrency counts what waits, as its queue proxies and activator do. The last replica stays:
    scaling to zero is not simulated.
    """

    interval_s = 2.0
    stable_s, panic_s = 60.0, 6.0
    panic_threshold = 2.0
    max_up, max_down = 1000.0, 2.0

    def __init__(
        self, target: float, *, slots: int, initial: int, least: int = 1, most: int = 1000
    ):
        self._per_pod = target * slots
        self._initial, self._least, self._most = initial, least, most
        self._seen: deque[float] = deque(maxlen=round(self.stable_s / self.interval_s))
        self._panic_since: float | None = None
        self._panic_pods = 0

    def initial(self) -> int:
        return self._initial

    def desired(self, measured: Measured) -> int:
        self._seen.append((measured.busy_s + measured.waited_s) / measured.window_s)
        recent = list(self._seen)[-round(self.panic_s / self.interval_s) :]
        ready = max(1, measured.ready)
        most, least = math.ceil(self.max_up * ready), math.floor(ready / self.max_down)
        stable = math.ceil(sum(self._seen) / len(self._seen) / self._per_pod)
        panic = math.ceil(sum(recent) / len(recent) / self._per_pod)
        over = panic / ready >= self.panic_threshold
        stable = min(max(stable, least), most)
        panic = min(max(panic, least), most)
        if over:
            self._panic_since = measured.now_s
        elif self._panic_since is not None and measured.now_s > self._panic_since + self.stable_s:
            self._panic_since, self._panic_pods = None, 0
        wanted = stable
        if self._panic_since is not None:
            self._panic_pods = max(self._panic_pods, stable, panic)
            wanted = self._panic_pods
        return min(max(wanted, self._least), self._most)


class Hpa:
    """Kubernetes' horizontal pod autoscaler, on utilisation of the slots.

    Source: kubernetes/kubernetes pkg/controller/podautoscaler, `GetResourceReplicas` of
    replica_calculator.go and the default behaviour of autoscaling/v2: every 15 s, tolerance 0.1,
    up by the larger of 100 % and 4 pods a 15 s, down to the most that was recommended in 300 s.
    Pods that are not ready count as idle when it scales up, and not at all when it scales down.
    """

    interval_s = 15.0
    tolerance = 0.1
    down_s = 300.0

    def __init__(
        self, target: float, *, slots: int, initial: int, least: int = 1, most: int = 1000
    ):
        self._target, self._slots = target, slots
        self._initial, self._least, self._most = initial, least, most
        self._recommended: deque[tuple[float, int]] = deque()

    def initial(self) -> int:
        return self._initial

    def desired(self, measured: Measured) -> int:
        current = measured.ready + len(measured.starting_since_s)
        wanted = self._recommend(measured, current)
        self._recommended.append((measured.now_s, wanted))
        while self._recommended[0][0] < measured.now_s - self.down_s:
            self._recommended.popleft()
        if wanted < current:
            wanted = min(current, max(value for _, value in self._recommended))
        wanted = min(wanted, max(2 * current, current + 4))
        return min(max(wanted, self._least), self._most)

    def _recommend(self, measured: Measured, current: int) -> int:
        ready, unready = measured.ready, len(measured.starting_since_s)
        if not ready:
            return current
        busy = measured.busy_s / measured.window_s / self._slots  # pods' worth
        ratio = busy / ready / self._target
        if not (unready and ratio > 1.0):
            if abs(1.0 - ratio) <= self.tolerance:
                return current
            return math.ceil(ratio * ready)
        with_unready = busy / (ready + unready) / self._target
        if abs(1.0 - with_unready) <= self.tolerance or with_unready < 1:
            return current
        return max(current, math.ceil(with_unready * (ready + unready)))
