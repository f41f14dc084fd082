"""What templates take of each node's memory, and which of them give way to who waits for it."""

import asyncio
from collections.abc import Mapping

from leptonai.control.mirror import Key, Mirror
from leptonai.core.lifecycle.warmth import template_key
from leptonai.core.records import Replica
from leptonai.core.scheduler import Spare
from leptonai.ports.engine import Engine, Loaded, Loading, TemplateState
from leptonai.ports.store import Fence


class TemplateMemory:
    """As of the last look at each node. A template that loads counts with what it is expected to
    take."""

    def __init__(self, mirror: Mirror, engine: Engine, fence: Fence) -> None:
        self._mirror = mirror
        self._engine = engine
        self._fence = fence
        self._taken: dict[str, dict[str, int]] = {}  # bytes, by node and key
        self._expected: dict[str, int] = {}  # bytes, by key
        self._endpoints: dict[str, Key] = {}  # by key
        self._changed: set[str] = set()  # nodes
        self._waiting: list[asyncio.Event] = []

    def wake(self, news: asyncio.Event) -> None:
        """Set it whenever something changes."""
        self._waiting.append(news)

    def take_changed(self) -> set[str]:
        """The nodes of which something has changed."""
        changed, self._changed = self._changed, set()
        return changed

    def expect(self, replica: Replica, held_bytes: int) -> bool:
        """Whether a template of this server would fit beside it, as far as is known; if so it
        counts from now on.

        Args:
            held_bytes: by all that was placed on its node.
        """
        node, key = replica.node, template_key(replica)
        total = {one.id: one.capacity.memory_bytes for one in self._mirror.nodes.values()}
        # What one took before, or else what a server of it may take.
        needed = self._expected.setdefault(key, replica.program.needs.memory_bytes)
        if needed > total.get(node, 0) - held_bytes - self.taken(node):
            return False
        self._note(node, {**self._taken.get(node, {}), key: needed})
        return True

    def belongs(self, key: str, endpoint: Key) -> None:
        self._endpoints[key] = endpoint

    def see(self, node: str, templates: Mapping[str, TemplateState]) -> None:
        there = {}
        for key, state in templates.items():
            if isinstance(state, Loaded):
                self._expected[key] = state.memory_bytes
            if isinstance(state, Loaded | Loading):
                there[key] = self._expected.get(key, 0)
        self._note(node, there)

    def taken(self, node: str) -> int:
        return sum(self._taken.get(node, {}).values())

    def spares(self) -> list[Spare]:
        """All of them."""
        return [
            Spare(node, key, taken, self._wanted_at_ms(key))
            for node, templates in sorted(self._taken.items())
            for key, taken in sorted(templates.items())
        ]

    async def end(self, spare: Spare) -> None:
        await self._engine.cool(spare.node, spare.key, epoch=self._fence.epoch)
        left = {k: taken for k, taken in self._taken[spare.node].items() if k != spare.key}
        self._note(spare.node, left)

    def _note(self, node: str, taken: dict[str, int]) -> None:
        if taken != self._taken.get(node, {}):
            self._taken[node] = taken
            self._changed.add(node)
            for news in self._waiting:
                news.set()

    def _wanted_at_ms(self, key: str) -> int:
        workspace, endpoint = self._endpoints.get(key, ("", ""))
        servers = self._mirror.replicas_of(workspace, f"endpoint/{endpoint}")
        return max((server.created_at_ms for server in servers), default=0)
