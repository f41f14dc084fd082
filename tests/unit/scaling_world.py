"""A control plane in virtual time, whose endpoints are scaled, and the gateway that tells it."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

from leptonai.control.plane import ControlPlane
from leptonai.core.lifecycle.endpoint import new_endpoint, updated
from leptonai.core.records import Endpoint, Goal, Phase, Replica
from leptonai.core.traffic import SERVICE_BOUNDS_MS, TrafficReport, TrafficWindow
from leptonai.ports.store import Put, Query
from leptonai.spec.containers import Container
from leptonai.spec.endpoints import AutoScaler, EndpointSpec, ResourceRequirement, ScaleDown
from leptonai.spec.rollouts import RolloutPlan
from leptonai.stores.memory import MemoryStore
from leptonai.testing.fake_engine import FakeEngine, a_machine
from leptonai.testing.virtual_time import VirtualClock, run

SERVICE_MS = 100
SERVER = ("serve", "0")


def scaled_by(least: int = 1, most: int | None = None, **policy: object) -> EndpointSpec:
    return EndpointSpec(
        container=Container(command=list(SERVER)),
        resource_requirement=ResourceRequirement(
            cpu=0.01, memory=1, min_replicas=least, max_replicas=most
        ),
        auto_scaler=AutoScaler(**policy),  # type: ignore[arg-type]
    )


def idle_after(seconds: int) -> ScaleDown:
    return ScaleDown(no_traffic_timeout=seconds)


class World:
    """A control plane, and the gateway that tells it of requests."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), VirtualClock()
        self.engine = FakeEngine([a_machine("n1", cpu_millis=8000, gpus=8)], clock=self.clock)
        self.gateways = count()
        self.slow_s = 0  # that a replica takes until it answers
        self.start()

    def start(self) -> None:
        self.gateway = f"g{next(self.gateways)}"
        self.plane = ControlPlane(
            self.store,
            self.engine,
            self.clock,
            self,
            home_workspace="default",
            workspace_url=lambda workspace: "",
            unseal=lambda secret: "",
            job_token=lambda job: "",
            run_token=lambda job: "",
        )

    async def answers(self, host: str, port: int, path: str) -> bool:
        if not self.slow_s:
            return True
        found = await self.store.find(Replica, Query(live=True))
        born_ms = [r.created_at_ms for r in found if port in r.ports]
        return bool(born_ms) and self.clock.now_ms() >= max(born_ms) + 1000 * self.slow_s

    async def serve(self, spec: EndpointSpec, name: str = "e") -> None:
        endpoint = new_endpoint(
            workspace="default",
            name=name,
            spec=spec,
            owner="ada",
            labels={},
            visibility="",
            now_ms=self.clock.now_ms(),
        )
        await self.store.commit(Put(endpoint))
        await asyncio.sleep(5)

    async def change(self, spec: EndpointSpec, plan: RolloutPlan | None = None) -> None:
        asked = updated(
            await self.endpoint(),
            spec,
            token_hashes=(),
            model_digest="",
            now_ms=self.clock.now_ms(),
            plan=plan,
        )
        await self.store.commit(Put(asked))
        await asyncio.sleep(5)

    async def calls(self, a_second: int, seconds: int, matching: int = 0) -> None:
        """Each is answered by whatever replica there is."""
        for _ in range(seconds):
            await asyncio.sleep(1)
            now_ms = self.clock.now_ms()
            served = [0] * (len(SERVICE_BOUNDS_MS) + 1)
            served[SERVICE_BOUNDS_MS.index(SERVICE_MS)] = a_second
            self.tell(
                TrafficWindow(
                    workspace="default",
                    endpoint="e",
                    version="1",
                    start_ms=now_ms - 1000,
                    end_ms=now_ms,
                    arrivals=a_second,
                    ended={2: a_second},
                    service_ms=tuple(served),
                    service_sum_ms=float(SERVICE_MS * a_second),
                    in_flight_ms=float(SERVICE_MS * a_second),
                ),
                TrafficWindow(
                    workspace="default",
                    endpoint="e",
                    start_ms=now_ms - 1000,
                    end_ms=now_ms,
                    matching=matching,
                ),
            )

    def hold(self, requests: int) -> None:
        now_ms = self.clock.now_ms()
        self.tell(
            TrafficWindow(
                workspace="default",
                endpoint="e",
                start_ms=now_ms,
                end_ms=now_ms,
                arrivals=requests,
                held=requests,
            )
        )

    def tell(self, *windows: TrafficWindow) -> None:
        self.plane.traffic.take(TrafficReport(gateway=self.gateway, windows=windows))

    async def endpoint(self) -> Endpoint:
        (found,) = await self.store.find(Endpoint, Query(name="e"))
        return found

    async def because(self) -> str:
        autoscaling = (await self.endpoint()).autoscaling
        return autoscaling.because if autoscaling else ""

    async def replicas(self) -> int:
        found = await self.store.find(Replica, Query(live=True))
        return sum(r.goal is Goal.RUN and r.phase is Phase.RUNNING for r in found)

    async def scaled_to(self) -> list[int]:
        """The numbers one after the other, as events tell of them."""
        id = (await self.endpoint()).id
        told = await self.store.events("default", kind="endpoint", id=id)
        return [int(event.message.split()[2]) for event in told if event.reason == "Scaled"]


def in_world(story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await world.plane.start()
        try:
            await story(world)
        finally:
            await world.plane.close()

    run(main())
