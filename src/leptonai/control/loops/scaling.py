"""The number of replicas: follows what gateways tell of the requests to each endpoint."""

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from leptonai.control.gpus import GpuUseOf, nobody_measures
from leptonai.control.loops.forecasts import Learnt
from leptonai.control.mirror import Key, Mirror, Watch, serves
from leptonai.control.owners import Owners
from leptonai.control.traffic import EndpointName, TrafficLog
from leptonai.core.autoscaling import look, resumed
from leptonai.core.records import Autoscaling, Endpoint, OwnerKind, Record, Replica
from leptonai.core.traffic import TrafficWindow
from leptonai.errors import StaleEpoch, VersionConflict
from leptonai.ports.clock import Clock

KEEP_MS = 60_000  # what changes only what it remembers is written down once in so long
# After a start, before the first number goes down: gateways first tell what happened meanwhile.
LISTEN_MS = 10_000


class ScalingLoop:
    name = "scaling"

    def __init__(
        self,
        mirror: Mirror,
        owners: Owners,
        traffic: TrafficLog,
        clock: Clock,
        *,
        forecast_of: Callable[[Key], Learnt | None] = lambda key: None,
        gpu_use_of: GpuUseOf = nobody_measures,
    ) -> None:
        self.watch: Watch = mirror.watch(Endpoint, Replica, only=serves)
        self._mirror = mirror
        self._owners = owners
        self._traffic = traffic
        self._told = traffic.watch(self.watch.news)
        self._clock = clock
        self._forecast_of = forecast_of
        self._gpu_use_of = gpu_use_of
        self._started_ms = clock.now_ms()
        self._listens_until_ms = self._started_ms + LISTEN_MS
        self._keys: dict[EndpointName, Key] = {}
        self._latest: dict[Key, Autoscaling] = {}  # newer than the record's, or the same
        self._windows: dict[Key, list[TrafficWindow]] = {}  # that no look has seen yet
        self._wakes: dict[Key, int] = {}  # when to look at each again, in clock ms

    def look_again(self, key: Key) -> None:
        """Something else is known of it than its records and gateways tell."""
        if key in self._mirror.endpoints:
            self._wakes[key] = self._clock.now_ms()
            self.watch.news.set()

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        due = {key for key, at_ms in self._wakes.items() if at_ms <= now_ms}
        due |= {self._noted(record) for record in self.watch.take()}
        for name, windows in self._told.take().items():
            key = self._keys.get(name)
            if key is not None:
                self._windows.setdefault(key, []).extend(windows)
                due.add(key)
        for key in due:
            self._wakes[key] = now_ms  # until it was tended, whatever happens
        conflicts = False
        failure: Exception | None = None
        for key in due:
            try:
                again_ms = await self._tend(key, now_ms)
            except VersionConflict:
                conflicts = True
                continue
            except StaleEpoch:
                raise
            except Exception as error:  # one endpoint's trouble is not the others'
                failure = error
                continue
            if again_ms is None:
                del self._wakes[key]
            else:
                self._wakes[key] = again_ms
        if failure is not None:
            raise failure
        if conflicts:
            raise VersionConflict("some endpoints changed while they were scaled")
        return min(self._wakes.values(), default=None)

    def _noted(self, record: Record) -> Key:
        if isinstance(record, Replica):
            return record.workspace, record.owner_id
        key = record.workspace, record.id
        if key in self._mirror.endpoints:
            self._keys[record.workspace, record.name] = key
        return key

    async def _tend(self, key: Key, now_ms: int) -> int | None:
        """When to look at it again, if nothing happens before."""
        endpoint = self._mirror.endpoints.get(key)
        if endpoint is None:
            self._forget(key)
            return None
        name = endpoint.workspace, endpoint.name
        windows, held = self._windows.pop(key, []), self._traffic.held(name).requests
        listens = endpoint.autoscaling is not None and now_ms < self._listens_until_ms
        if listens and not windows and not held:
            return self._listens_until_ms
        replicas = self._mirror.replicas_of(key[0], f"{OwnerKind.ENDPOINT}/{key[1]}")
        seen = look(
            endpoint,
            replicas,
            windows,
            held,
            self._before(endpoint),
            now_ms,
            forecast=self._forecast_of(key),
            gpu_use=await self._gpu_use(endpoint, replicas),
        )
        if seen is None:
            self._latest.pop(key, None)
            return None
        after = seen.autoscaling
        if listens and after.desired < endpoint.wanted:
            self._windows[key] = windows
            return self._listens_until_ms
        self._latest[key] = after
        if _to_be_kept(endpoint.autoscaling, after):
            await self._owners.scale(key, after)
        return seen.again_ms

    async def _gpu_use(self, endpoint: Endpoint, replicas: Sequence[Replica]) -> float | None:
        scaler = endpoint.spec.auto_scaler
        if scaler is None or not scaler.target_gpu_utilization_percentage:
            return None
        return await self._gpu_use_of(replicas)

    def _before(self, endpoint: Endpoint) -> Autoscaling | None:
        """What was last come to: the number as it is recorded, for a change by its user may have
        moved it, with what was learnt since it was."""
        kept, latest = endpoint.autoscaling, self._latest.get((endpoint.workspace, endpoint.id))
        if kept is None:
            return None
        if latest is None:
            return resumed(kept, self._started_ms)
        if latest.decided_at_ms < kept.decided_at_ms:
            return kept
        return replace(latest, desired=kept.desired, since_ms=kept.since_ms)

    def _forget(self, key: Key) -> None:
        self._latest.pop(key, None)
        self._windows.pop(key, None)
        for name in [name for name, known in self._keys.items() if known == key]:
            del self._keys[name]


def _to_be_kept(kept: Autoscaling | None, after: Autoscaling) -> bool:
    if kept is None or kept.desired != after.desired:
        return True
    if (kept.forecast, kept.predictive) != (after.forecast, after.predictive):
        return True
    learnt = after.state.traffic_s != kept.state.traffic_s or after.starts_ms != kept.starts_ms
    return learnt and after.decided_at_ms >= kept.decided_at_ms + KEEP_MS
