"""Which servers may be copies of a template, and which templates the control plane asks for."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from leptonai.control.plane import ControlPlane
from leptonai.control.workloads import stop_workloads
from leptonai.core.lifecycle.endpoint import advance, new_endpoint
from leptonai.core.lifecycle.job import new_job
from leptonai.core.lifecycle.warmth import (
    keys_wanted,
    loads_a_model,
    template_key,
    why_cold,
    withheld,
)
from leptonai.core.records import Endpoint, Phase, Replica
from leptonai.core.resources import MIB, Needs
from leptonai.core.scheduler import Index, Spare, giving_way
from leptonai.ports.engine import Loaded, Seen
from leptonai.ports.store import Delete, Put, Query
from leptonai.spec.containers import Container, EnvVar, SecretReference
from leptonai.spec.endpoints import AutoScaler, EndpointSpec, ResourceRequirement, ScaleDown
from leptonai.spec.jobs import JobSpec
from leptonai.stores.memory import MemoryStore
from leptonai.testing.builders import a_gang, a_node, a_snapshot
from leptonai.testing.fake_engine import FakeEngine, Script, a_machine
from leptonai.testing.virtual_time import VirtualClock, run

SCALES = AutoScaler(scale_down=ScaleDown(no_traffic_timeout=3600))
SECRET = EnvVar(name="HUSH", value_from=SecretReference(secret_name_ref="hush"))
PLAIN = EnvVar(name="LEVEL", value="3")


def an_endpoint(
    name: str = "digits",
    *,
    auto_scaler: AutoScaler | None = SCALES,
    digest: str = "a-model",
    envs: tuple[EnvVar, ...] = (),
    command: tuple[str, ...] = (),
    gpus: int = 0,
    image: str = "",
    memory_mib: int | None = None,
) -> Endpoint:
    return new_endpoint(
        workspace="default",
        name=name,
        spec=EndpointSpec(
            container=Container(command=list(command), image=image or None),
            resource_requirement=ResourceRequirement(
                min_replicas=1,
                cpu=0.01 if memory_mib else None,
                memory=memory_mib,
                accelerator_num=gpus or None,
                accelerator_type="fake" if gpus else None,
            ),
            envs=list(envs),
            auto_scaler=auto_scaler,
        ),
        owner="ada",
        labels={},
        visibility="",
        now_ms=1,
        model_digest=digest,
    )


def a_replica(endpoint: Endpoint) -> Replica:
    return advance(endpoint, [], 1).replicas[0]


# --- which ----------------------------------------------------------------------------------------


def test_only_servers_of_models_and_photons_load_one():
    assert loads_a_model(a_replica(an_endpoint()).program)
    assert not loads_a_model(a_replica(an_endpoint(command=("serve",))).program)
    assert not loads_a_model(a_replica(an_endpoint(digest="")).program)


def test_it_is_told_what_keeps_a_server_from_being_a_copy():
    program = a_replica(an_endpoint(image="cuda:12")).program
    assert why_cold(program, runs_images=False) == ""
    assert why_cold(program, runs_images=True) == "they run in containers"
    with_gpu = replace(program, needs=Needs(gpus=1))
    assert "GPU" in why_cold(with_gpu, runs_images=False)


def test_a_template_gets_no_secret_and_nothing_that_is_one_replicas():
    program = a_replica(an_endpoint(envs=(SECRET, PLAIN))).program
    assert withheld(program) == {"HUSH", "LEPTON_REPLICA_ID", "PORT"}


def test_an_endpoint_that_keeps_its_number_wants_no_template():
    assert keys_wanted(an_endpoint(auto_scaler=None)) == set()


variables = st.builds(EnvVar, name=st.sampled_from("AB"), value=st.sampled_from("12"))
endpoints = st.builds(
    an_endpoint,
    name=st.sampled_from(["digits", "pets"]),
    digest=st.sampled_from(["one", "other"]),
    envs=st.lists(variables, max_size=2).map(tuple),
)


@given(endpoints, endpoints)
def test_of_one_key_are_only_replicas_of_one_endpoint_that_load_the_same(one, other):
    first, second = a_replica(one), a_replica(other)
    assert keys_wanted(one) == {template_key(first)}
    same = (one.id, one.model_digest, first.program.envs) == (
        other.id,
        other.model_digest,
        second.program.envs,
    )
    assert (template_key(first) == template_key(second)) == same


def test_of_another_size_it_still_loads_the_same():
    replica = a_replica(an_endpoint())
    larger = replace(replica, program=replace(replica.program, needs=Needs(cpu_millis=4_000)))
    assert template_key(larger) == template_key(replica)


# --- the control plane ----------------------------------------------------------------------------


class World:
    def __init__(self, memory_bytes: int = 32 << 30) -> None:
        self.store, self.clock = MemoryStore(), VirtualClock()
        script = Script(seconds=None, ready_after_s=0.0)
        machine = a_machine("n1", gpus=1)
        capacity = replace(machine.capacity, memory_bytes=memory_bytes)
        self.engine = FakeEngine(
            [dataclasses.replace(machine, capacity=capacity)],
            clock=self.clock,
            script_of=lambda attempt: script,
        )
        self.plane = self.a_plane()

    def a_plane(self) -> ControlPlane:
        return ControlPlane(
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
        return True

    async def templates(self) -> dict[str, object]:
        await asyncio.sleep(5)
        seen = await self.engine.observe("n1")
        assert isinstance(seen, Seen)
        return dict(seen.templates)

    async def starts(self, job: str, memory_mib: int) -> bool:
        """Whether a job that needs so much does, where it needs hardly anything else."""
        spec = JobSpec(
            container=Container(command=["train"]),
            cpu=0.01,
            memory=memory_mib,
        )
        asked = new_job(
            workspace="default",
            id=job,
            name=job,
            spec=spec,
            owner="ada",
            labels={},
            visibility="",
            now_ms=self.clock.now_ms(),
        )
        await self.store.commit(Put(asked))
        await asyncio.sleep(5)
        replicas = await self.store.find(Replica, Query(parent=f"job/{job}"))
        return [replica.phase for replica in replicas] == [Phase.RUNNING]

    async def replicas(self) -> list[Replica]:
        return await self.store.find(Replica, Query())

    async def told(self) -> list[str]:
        events = await self.store.events("default", limit=1000)
        return [each.message for each in events if each.reason.startswith("WarmStarts")]


def in_world(story: Callable[[World], Awaitable[None]], **world_is: int) -> None:
    async def main() -> None:
        world = World(**world_is)
        await world.plane.start()
        try:
            await story(world)
        finally:
            await world.plane.close()

    run(main())


def test_once_a_server_is_ready_its_node_is_asked_for_a_template():
    async def story(world: World) -> None:
        endpoint = an_endpoint()
        await world.store.commit(Put(endpoint))
        assert list((await world.templates()).values()) == [Loaded(64 << 20)]
        assert await world.told() == [
            "further replicas start as copies of a loaded process, which takes 64 MiB"
        ]

    in_world(story)


def test_a_fixed_number_of_servers_has_none():
    async def story(world: World) -> None:
        await world.store.commit(Put(an_endpoint(auto_scaler=None)))
        assert await world.templates() == {}
        assert await world.told() == []

    in_world(story)


def test_why_there_is_none_is_told():
    async def story(world: World) -> None:
        await world.store.commit(Put(an_endpoint(gpus=1)))
        assert await world.templates() == {}
        assert await world.told() == [
            "each replica loads for itself: they have GPUs, and what is on a GPU cannot be copied"
        ]

    in_world(story)


def test_one_that_made_room_is_not_asked_for_again_by_who_is_there_already():
    async def story(world: World) -> None:
        await world.store.commit(Put(an_endpoint()))
        (key,) = await world.templates()
        await world.engine.cool("n1", key, epoch=world.plane.fence.epoch)
        assert await world.templates() == {}

    in_world(story)


@pytest.mark.parametrize("how", ["removed", "changed", "fixed"])
def test_what_no_endpoint_wants_any_more_ends(how):
    async def story(world: World) -> None:
        await world.store.commit(Put(an_endpoint()))
        (key,) = await world.templates()
        (endpoint,) = await world.store.find(Endpoint, Query())
        if how == "removed":
            await world.store.commit(Delete(endpoint))
        elif how == "changed":
            await world.store.commit(Put(replace(endpoint, model_digest="another")))
        else:
            fixed = replace(endpoint, spec=replace(endpoint.spec, auto_scaler=None))
            await world.store.commit(Put(fixed))
        assert key not in await world.templates()

    in_world(story)


def test_another_control_plane_finds_it_and_says_nothing_twice():
    async def story(world: World) -> None:
        await world.store.commit(Put(an_endpoint()))
        before = await world.templates()
        await world.plane.close()
        world.plane = world.a_plane()
        await world.plane.start()
        assert await world.templates() == before
        assert len(await world.told()) == 1

    in_world(story)


def test_nothing_is_left_of_them_when_all_workloads_end():
    async def story(world: World) -> None:
        await world.store.commit(Put(an_endpoint()))
        assert await world.templates()
        await world.plane.close()
        await stop_workloads(world.store, world.engine)
        assert await world.templates() == {}

    in_world(story)


# --- its memory -----------------------------------------------------------------------------------


def test_what_is_placed_beside_a_template_leaves_it_its_memory_and_else_it_gives_way():
    async def story(world: World) -> None:
        await world.store.commit(Put(an_endpoint(memory_mib=512)))
        assert len(await world.templates()) == 1  # 64 MiB
        assert await world.starts("fits", 1024 - 512 - 64 - 100)
        assert not await world.starts("too-large", 512)
        assert len(await world.templates()) == 1
        assert await world.starts("needs-it", 100 + 1)
        assert await world.templates() == {}

    in_world(story, memory_bytes=1024 * MIB)


def test_a_server_takes_the_memory_of_a_template_rather_than_wait():
    async def story(world: World) -> None:
        await world.store.commit(Put(an_endpoint("one", memory_mib=480)))
        assert len(await world.templates()) == 1
        await world.store.commit(Put(an_endpoint("other", memory_mib=500)))
        assert await world.templates() == {}
        ready = [replica.owner_name for replica in await world.replicas() if replica.ready]
        assert sorted(ready) == ["one", "other"]
        assert (await world.told())[-1] == (
            "each replica loads for itself: what n1 has left of its memory is too little for a "
            "loaded process"
        )

    in_world(story, memory_bytes=1024 * MIB)


def spares(*taken: tuple[str, str, int, int]) -> tuple[Spare, ...]:
    return tuple(Spare(node, key, gib << 30, at_ms) for node, key, gib, at_ms in taken)


def test_the_longest_unwanted_go_first_and_no_more_than_must():
    there = spares(("a", "old", 2, 1), ("a", "new", 8, 2), ("b", "third", 2, 3))
    nodes = [
        dataclasses.replace(a_node("a", memory_gib=16), spare_bytes=10 << 30),
        dataclasses.replace(a_node("b", memory_gib=4), spare_bytes=2 << 30),
    ]
    index = Index.of(a_snapshot(*nodes))

    def ended_for(memory_gib: int, workers: int = 1, nodes: tuple[str, ...] = ()) -> list[str]:
        gang = a_gang(memory_gib=memory_gib, workers=workers, nodes=nodes)
        return [spare.key for spare in giving_way(index, gang, there)]

    assert ended_for(6) == []  # it fits beside them
    assert ended_for(8) == ["old"]
    assert ended_for(9) == ["old", "new"]
    assert ended_for(4, workers=2) == ["old"]
    assert ended_for(5, workers=2) == ["old", "new"]
    assert ended_for(4, workers=5) == ["old", "new", "third"]
    assert ended_for(4, workers=6) == []  # not even so
    assert ended_for(4, nodes=("b",)) == ["third"]
