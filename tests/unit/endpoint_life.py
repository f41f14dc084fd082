"""An endpoint with its replicas, moved by what happens to them."""

from collections.abc import Sequence

from msgspec.structs import replace

from leptonai.core.lifecycle.endpoint import advance, new_endpoint, updated
from leptonai.core.lifecycle.replica import SeenEnded, SeenRunning, observed
from leptonai.core.records import Endpoint, EndReason, Event, Goal, Phase, Replica, Termination
from leptonai.core.traffic import TrafficWindow
from leptonai.spec.containers import Container
from leptonai.spec.endpoints import EndpointSpec, ResourceRequirement
from leptonai.spec.rollouts import RolloutPlan

NOW = 1_000_000


def a_spec(replicas: int = 1, **more) -> EndpointSpec:
    return EndpointSpec(
        container=Container(command=["serve"]),
        resource_requirement=ResourceRequirement(min_replicas=replicas),
        **more,
    )


class Life:
    """An endpoint and its replicas, moved by what happens to them."""

    def __init__(self, spec: EndpointSpec) -> None:
        self.endpoint: Endpoint = new_endpoint(
            workspace="default",
            name="digits",
            spec=spec,
            owner="ada",
            labels={},
            visibility="",
            now_ms=NOW,
        )
        self.replicas: dict[str, Replica] = {}
        self.now_ms = NOW
        self.events: list[Event] = []
        self.advance()

    def advance(self, traffic: Sequence[TrafficWindow] = ()) -> None:
        for _ in range(20):
            step = advance(self.endpoint, self.replicas.values(), self.now_ms, traffic)
            traffic = ()  # each window is told once
            changed = step.owner != self.endpoint or step.replicas
            self.endpoint = step.owner
            self.replicas |= {r.id: r for r in step.replicas}
            self.events += step.events
            if not changed:
                return
        raise AssertionError("the lifecycle does not come to rest")

    @property
    def living(self) -> list[Replica]:
        return [r for r in self.replicas.values() if r.phase is not Phase.DONE]

    @property
    def ready(self) -> list[Replica]:
        return [r for r in self.living if r.ready and r.goal is Goal.RUN]

    def ready_of(self, revision: int) -> int:
        return sum(r.revision == revision for r in self.ready)

    def change(self, spec: EndpointSpec, plan: RolloutPlan | None = None) -> None:
        self.endpoint = updated(
            self.endpoint, spec, token_hashes=(), model_digest="", now_ms=self.now_ms, plan=plan
        )
        self.advance()

    def each(self, change) -> None:
        for r in list(self.living):
            self.replicas[r.id] = change(r)
        self.advance()

    def place(self, room: int = 100) -> None:
        held = sum(r.holds_capacity for r in self.living)
        for r in self.living:
            if r.phase is Phase.WAITING and held < room:
                held += 1
                self.replicas[r.id] = replace(r, phase=Phase.PLACED, node="n1", ports=(2000,))
        self.advance()

    def run(self) -> None:
        self.each(lambda r: observed(r, SeenRunning(self.now_ms), self.now_ms))

    def answer(self) -> None:
        def answers(r: Replica) -> Replica:
            if r.phase is not Phase.RUNNING or r.ready:
                return r
            return replace(r, ready=True, ready_at_ms=self.now_ms)

        self.each(answers)

    def end_stopped(self) -> None:
        how = Termination(reason=EndReason.STOPPED, exit_code=143, finished_at_ms=self.now_ms)
        self.each(lambda r: observed(r, SeenEnded(how), self.now_ms) if r.goal is Goal.STOP else r)

    def serve(self) -> None:
        for _ in range(12):
            self.place()
            self.run()
            self.answer()
            self.end_stopped()


def crash(replica: Replica, now_ms: int = NOW) -> Replica:
    how = Termination(
        reason=EndReason.EXITED, exit_code=1, started_at_ms=now_ms, finished_at_ms=now_ms
    )
    return observed(replica, SeenEnded(how), now_ms)
