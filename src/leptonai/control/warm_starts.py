"""Which templates a node is asked for, and what people are told of them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping

from msgspec.structs import replace

from leptonai.control.mirror import Key, Mirror
from leptonai.control.template_memory import TemplateMemory
from leptonai.core.lifecycle.warmth import (
    keys_wanted,
    loads_a_model,
    template_key,
    wants_template,
    why_cold,
    withheld,
)
from leptonai.core.records import Endpoint, Goal, OwnerKind, Phase, Replica, event_of
from leptonai.errors import Internal, NotFound
from leptonai.ports.clock import Clock
from leptonai.ports.engine import Attempt, Cold, Engine, Loaded, Seen, TemplateState, Warm
from leptonai.ports.store import Emit, Fence, Store

MIB = 1 << 20

AttemptOf = Callable[[Replica], Awaitable[Attempt | None]]


class WarmStarts:
    def __init__(
        self,
        mirror: Mirror,
        store: Store,
        engine: Engine,
        memory: TemplateMemory,
        attempt_of: AttemptOf,
        fence: Fence,
        clock: Clock,
        *,
        runs_images: bool,
    ) -> None:
        self._mirror = mirror
        self._store = store
        self._engine = engine
        self._memory = memory
        self._attempt_of = attempt_of
        self._fence = fence
        self._clock = clock
        self._runs_images = runs_images
        self._began_ms = clock.now_ms()
        self._asked: dict[str, set[str]] = {}  # by node: attempts that a template was asked for
        self._told: dict[str, dict[str, TemplateState]] = {}  # by node: of which key what was told
        self._of: dict[str, Key] = {}  # endpoints by the keys of their templates, as of some time

    async def tend(self, node: str, seen: Seen, replicas: Iterable[Replica]) -> None:
        """Ask for a template once for each server, when it is ready: by then loading takes nobody's
        time, and one that had to make room for others is not loaded again at once."""
        self._memory.see(node, seen.templates)
        replicas = list(replicas)
        held_bytes = sum(r.program.needs.memory_bytes for r in replicas if r.holds_capacity)
        ready = {
            replica.attempt_id: replica
            for replica in replicas
            # For those that were ready before, an earlier control plane has asked.
            if replica.ready
            and (replica.ready_at_ms or 0) >= self._began_ms
            and replica.phase is Phase.RUNNING
            and replica.goal is Goal.RUN
        }
        fresh = ready.keys() - self._asked.get(node, set())
        for id in sorted(fresh):
            await self._ask(ready[id], seen, held_bytes)
        self._asked[node] = set(ready)
        # What an earlier control plane left has been told.
        told = self._told.setdefault(node, dict(seen.templates))
        if told or seen.templates:
            self._told[node] = await self._look_at(node, seen.templates, told)

    async def _ask(self, replica: Replica, seen: Seen, held_bytes: int) -> None:
        endpoint = _owner(replica, self._mirror)
        if endpoint is None:
            return
        if why := why_cold(replica.program, runs_images=self._runs_images):
            await self._tell(endpoint, Cold(why))
            return
        if template_key(replica) in seen.templates:
            return
        try:
            attempt = await self._attempt_of(replica)
        except (NotFound, Internal):  # a secret is gone: the next start will say so
            return
        if attempt is None:
            return
        if self._memory.expect(replica, held_bytes):
            await self._engine.warm(attempt, epoch=self._fence.epoch)
        else:
            why = f"what {replica.node} has left of its memory is too little for a loaded process"
            await self._tell(endpoint, Cold(why))

    async def _look_at(
        self, node: str, templates: Mapping[str, TemplateState], told: Mapping[str, TemplateState]
    ) -> dict[str, TemplateState]:
        """End those that nobody may want, tell what has become of the others, and return them."""
        kept = {}
        for key, state in sorted(templates.items()):
            endpoint = self._wanting(key)
            if endpoint is None:
                await self._engine.cool(node, key, epoch=self._fence.epoch)
                continue
            self._memory.belongs(key, (endpoint.workspace, endpoint.id))
            if state != told.get(key):
                await self._tell(endpoint, state)
            kept[key] = state
        return kept

    async def _tell(self, endpoint: Endpoint, state: TemplateState) -> None:
        match state:
            case Loaded(memory_bytes):
                reason = "WarmStartsOn"
                text = (
                    "further replicas start as copies of a loaded process, which takes "
                    f"{memory_bytes / MIB:.0f} MiB"
                )
            case Cold(because):
                reason, text = "WarmStartsOff", f"each replica loads for itself: {because}"
            case _:
                return
        event = replace(event_of(endpoint, reason, text), at_ms=self._clock.now_ms())
        await self._store.commit(Emit(event), fence=self._fence)

    def _wanting(self, key: str) -> Endpoint | None:
        """The endpoint that the template is kept for, if it still wants it."""
        if key not in self._of:
            self._of = {
                key: name
                for name, endpoint in self._mirror.endpoints.items()
                for key in keys_wanted(endpoint)
            }
        endpoint = self._mirror.endpoints.get(self._of.get(key, ("", "")))
        return endpoint if endpoint is not None and key in keys_wanted(endpoint) else None


def warm_of(replica: Replica, mirror: Mirror, *, runs_images: bool) -> Warm | None:
    """Of which template it may be a copy."""
    program = replica.program
    if _owner(replica, mirror) is None or why_cold(program, runs_images=runs_images):
        return None
    return Warm(template_key(replica), withheld(program))


def _owner(replica: Replica, mirror: Mirror) -> Endpoint | None:
    """Its endpoint, if that may have replicas that are copies."""
    if replica.owner_kind is not OwnerKind.ENDPOINT or not loads_a_model(replica.program):
        return None
    endpoint = mirror.endpoints.get((replica.workspace, replica.owner_id))
    return endpoint if endpoint is not None and wants_template(endpoint) else None
