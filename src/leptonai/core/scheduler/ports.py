"""Which ports of nodes are taken, and which a worker gets."""

from collections.abc import Iterable, Sequence, Set
from zlib import crc32

from leptonai.core.scheduler.columns import column
from leptonai.core.scheduler.values import ANY_PORT, NodeView


class Ports:
    def __init__(self, views: Sequence[NodeView]) -> None:
        self._views = views
        self._taken: list[set[int]] = [set() for _ in views]
        self.left = column(view.ports_to - view.ports_from for view in views)  # by node

    def take(self, at: int, port: int) -> None:
        if port not in self._taken[at]:
            self._taken[at].add(port)
            if self._views[at].ports_from <= port < self._views[at].ports_to:
                self.left[at] -= 1

    def give(self, at: int, port: int) -> None:
        if port in self._taken[at]:
            self._taken[at].discard(port)
            if self._views[at].ports_from <= port < self._views[at].ports_to:
                self.left[at] += 1

    def are_free(self, at: int, ports: Iterable[int]) -> bool:
        return self._taken[at].isdisjoint(ports)

    def choose(self, at: int, wishes: Sequence[int], of: str, now_ms: int) -> tuple[int, ...]:
        """What is wished where that is free; there must be so many.

        Args:
            of: whose they will be.
        """
        if not wishes:
            return ()
        taken = set(self._taken[at])
        ports = []
        for wish in wishes:
            if wish == ANY_PORT:
                port = self._changing(at, taken, of, now_ms)
            else:
                port = self._lowest_free(at, taken) if wish in taken else wish
            taken.add(port)
            ports.append(port)
        return tuple(ports)

    def choose_any(self, at: int, of: str, now_ms: int) -> int:
        return self._changing(at, self._taken[at], of, now_ms)

    def _changing(self, at: int, taken: Set[int], of: str, now_ms: int) -> int:
        """A free port that is another one at every try: the last may have been taken by a stranger,
        or by a process that lingers."""
        view = self._views[at]
        span = view.ports_to - view.ports_from
        port = view.ports_from + crc32(f"{of}@{now_ms}".encode()) % span
        while port in taken:
            port = port + 1 if port + 1 < view.ports_to else view.ports_from
        return port

    def _lowest_free(self, at: int, taken: Set[int]) -> int:
        port = self._views[at].ports_from
        while port in taken:
            port += 1
        return port
