"""Jobs, endpoints and Ray clusters: brings each one's replicas to what its lifecycle says."""

import asyncio

from leptonai.control.mirror import Mirror, Watch
from leptonai.control.owners import OwnerKey, Owners, owner_of
from leptonai.core.records import Endpoint, Job, RayCluster, Replica
from leptonai.errors import VersionConflict
from leptonai.ports.clock import Clock


class OwnersLoop:
    name = "owners"

    def __init__(self, mirror: Mirror, owners: Owners, clock: Clock) -> None:
        self.watch: Watch = mirror.watch(Job, Endpoint, RayCluster, Replica)
        self._owners = owners
        self._clock = clock
        self._wakes: dict[OwnerKey, int] = {}  # when to look at each again, in clock ms

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        due = dict.fromkeys(key for key, at_ms in self._wakes.items() if at_ms <= now_ms)
        due |= dict.fromkeys(owner_of(record) for record in self.watch.take())
        for key in due:
            self._wakes[key] = now_ms  # until it was advanced, whatever happens
        await asyncio.gather(*(self._advance(key) for key in due))
        if any(self._wakes.get(key) == now_ms for key in due):
            raise VersionConflict("some owners changed while they were advanced")
        return min(self._wakes.values(), default=None)

    async def _advance(self, key: OwnerKey) -> None:
        try:
            wake_at_ms = await self._owners.advance(key)
        except VersionConflict:
            return
        if wake_at_ms is None:
            self._wakes.pop(key, None)
        else:
            self._wakes[key] = wake_at_ms
