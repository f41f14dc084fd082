"""The number of replicas follows the requests: the loops together, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.scaling_world import World, idle_after, in_world, scaled_by

from leptonai.control.loops import scaling
from leptonai.control.loops.scaling import KEEP_MS, LISTEN_MS
from leptonai.control.owners import KEEP_EVIDENCE_MS
from leptonai.core.autoscaling import Look, look
from leptonai.core.records import Endpoint, Replica
from leptonai.core.traffic import TrafficWindow
from leptonai.ports.store import Query
from leptonai.spec.containers import EnvVar
from leptonai.spec.endpoints import (
    EndpointState,
    ScaleDown,
    ScalingSchedule,
    TargetThroughput,
)
from leptonai.spec.rollouts import RolloutPlan, Strategy


def test_it_has_as_many_replicas_as_the_requests_need_and_fewer_again_afterwards():
    async def story(world: World) -> None:
        await world.serve(scaled_by(1, 10, target_throughput=TargetThroughput(qpm=60)))
        seen = [await world.replicas()]
        await world.calls(3, seconds=60)
        seen.append(await world.replicas())
        assert "requests a minute, 60 a replica" in await world.because()
        await world.calls(1, seconds=120)
        seen.append(await world.replicas())
        assert seen == [1, 3, 1]
        assert [1, *await world.scaled_to()] in (
            [1, 2, 3, 2, 1],
            [1, 2, 3, 1],
            [1, 3, 2, 1],
            [1, 3, 1],
        )

    in_world(story)


def test_an_endpoint_that_cannot_be_looked_at_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(endpoint: Endpoint, *seen: Any, **known: Any) -> Look | None:
        if endpoint.name != "e":
            raise RuntimeError("a fault")
        return look(endpoint, *seen, **known)

    monkeypatch.setattr(scaling, "look", failing)

    async def story(world: World) -> None:
        for name in ("d", "e", "f"):
            spec = scaled_by(1, 10, target_throughput=TargetThroughput(qpm=60))
            await world.serve(spec, name)
        await world.calls(3, seconds=60)
        assert await world.replicas() == 1 + 3 + 1

    in_world(story)


def test_without_requests_it_sleeps_and_the_next_one_wakes_it_at_once():
    async def story(world: World) -> None:
        await world.serve(scaled_by(2, scale_down=idle_after(60)))
        await world.calls(1, seconds=30)
        await asyncio.sleep(50)
        assert await world.replicas() == 2
        await asyncio.sleep(20)
        asleep = await world.endpoint()
        assert (await world.replicas(), asleep.state) == (0, EndpointState.READY)
        assert asleep.message == ("scaled to 0: no request for 60 s; the next request wakes it")
        await asyncio.sleep(10_000)
        world.hold(1)
        await asyncio.sleep(1)
        assert await world.replicas() == 2

    in_world(story)


def test_a_first_start_that_takes_longer_than_the_idle_time_is_waited_for():
    async def story(world: World) -> None:
        starting = replace(scaled_by(1, scale_down=idle_after(10)))
        world.answers = _slow_to_answer(world, 100)  # type: ignore[method-assign]
        await world.serve(starting)
        await asyncio.sleep(60)
        assert await world.replicas() == 1
        await asyncio.sleep(40)
        ready = (await world.endpoint()).ready_replicas
        await asyncio.sleep(20)
        assert (ready, await world.replicas()) == (1, 0)

    in_world(story)


def _slow_to_answer(world: World, seconds: int) -> Callable[[str, int, str], Awaitable[bool]]:
    from_ms = world.clock.now_ms() + 1000 * seconds

    async def answers(host: str, port: int, path: str) -> bool:
        return world.clock.now_ms() >= from_ms

    return answers


def test_a_request_that_is_under_way_for_long_keeps_it_awake():
    async def story(world: World) -> None:
        await world.serve(scaled_by(1, scale_down=idle_after(20)))
        for _ in range(60):
            await asyncio.sleep(1)
            now_ms = world.clock.now_ms()
            world.tell(
                TrafficWindow(
                    workspace="default",
                    endpoint="e",
                    version="1",
                    start_ms=now_ms - 1000,
                    end_ms=now_ms,
                    in_flight_ms=1000.0,
                )
            )
        assert await world.replicas() == 1
        await asyncio.sleep(30)
        assert await world.replicas() == 0

    in_world(story)


def test_a_stop_is_not_woken_by_requests_and_a_start_is_not_taken_back_at_once():
    async def story(world: World) -> None:
        await world.serve(scaled_by(1, scale_down=idle_after(30)))
        await world.change(scaled_by(0, scale_down=idle_after(30)))
        world.hold(1)
        await asyncio.sleep(10)
        stopped = await world.endpoint()
        assert (await world.replicas(), stopped.state) == (0, EndpointState.STOPPED)
        await asyncio.sleep(1000)
        await world.change(scaled_by(1, scale_down=idle_after(30)))
        await asyncio.sleep(15)
        assert await world.replicas() == 1

    in_world(story)


def test_a_schedule_holds_without_a_single_request():
    async def story(world: World) -> None:
        begins = (world.clock.now_ms() // 60_000 + 30) % 1440
        ends = (begins + 60) % 1440
        times = f"daily {begins // 60:02}:{begins % 60:02}-{ends // 60:02}:{ends % 60:02}"
        schedule = ScalingSchedule(times=times, min_replicas=3)
        await world.serve(scaled_by(1, schedules=[schedule]))
        seen = [await world.replicas()]
        for minutes in (35, 65):
            await asyncio.sleep(60 * minutes)
            seen.append(await world.replicas())
        assert seen == [1, 3, 1]

    in_world(story)


def test_a_killed_control_plane_goes_on_where_it_was():
    async def story(world: World) -> None:
        await world.serve(scaled_by(1, 10, target_throughput=TargetThroughput(qpm=60)))
        await world.calls(5, seconds=60)
        numbers, scaled_to = [await world.replicas()], await world.scaled_to()
        await world.plane.close()
        world.start()
        await world.plane.start()
        await asyncio.sleep(LISTEN_MS / 2000)
        numbers.append(await world.replicas())
        await world.calls(5, seconds=30)
        numbers.append(await world.replicas())
        assert numbers == [5, 5, 5]
        assert await world.scaled_to() == scaled_to

    in_world(story)


def test_a_sleeper_stays_asleep_over_a_restart():
    async def story(world: World) -> None:
        await world.serve(scaled_by(1, scale_down=idle_after(30)))
        await asyncio.sleep(60)
        await world.plane.close()
        world.start()
        await world.plane.start()
        await asyncio.sleep(100)
        assert await world.replicas() == 0
        world.hold(1)
        await asyncio.sleep(1)
        assert await world.replicas() == 1

    in_world(story)


def test_gpu_use_that_nobody_measures_changes_nothing_and_that_is_said():
    async def story(world: World) -> None:
        await world.serve(scaled_by(2, 10, target_gpu_utilization_percentage=50))
        await world.calls(20, seconds=60)
        assert await world.replicas() == 2
        assert "no GPU whose use is measured" in await world.because()

    in_world(story)


def test_steady_traffic_is_written_down_once_a_minute_and_silence_never():
    async def story(world: World) -> None:
        await world.serve(scaled_by(1, 10, target_throughput=TargetThroughput(qpm=600)))
        await world.calls(1, seconds=60)
        before = (await world.endpoint()).version
        await world.calls(1, seconds=300)
        written = (await world.endpoint()).version - before
        assert 1 <= written <= 300_000 / KEEP_MS + 1
        await asyncio.sleep(600)
        quiet = (await world.endpoint()).version
        await asyncio.sleep(100_000)
        assert (await world.endpoint()).version == quiet

    in_world(story)


def test_replicas_that_do_not_get_ready_are_given_up_until_the_next_request():
    async def story(world: World) -> None:
        world.answers = never  # type: ignore[method-assign]
        await world.serve(scaled_by(2, scale_down=ScaleDown(not_ready_timeout=90)))
        seen = [await world.replicas()]
        for pause_s in (80, 20, 3600):
            await asyncio.sleep(pause_s)
            seen.append(await world.replicas())
        assert seen == [2, 2, 0, 0]
        assert "no replica was ready for 90 s; the next request tries again" in (
            await world.because()
        )
        world.hold(1)
        await asyncio.sleep(5)
        assert await world.replicas() == 2
        await asyncio.sleep(100)
        assert await world.replicas() == 0

    in_world(story)


def test_one_that_was_ready_has_the_whole_time_to_get_ready_again():
    async def story(world: World) -> None:
        await world.serve(scaled_by(1, scale_down=ScaleDown(not_ready_timeout=90)))
        await asyncio.sleep(1000)
        assert (await world.endpoint()).ready_replicas == 1
        world.answers = never  # type: ignore[method-assign]
        await asyncio.sleep(90)
        assert await world.replicas() == 1
        await asyncio.sleep(60)
        assert await world.replicas() == 0

    in_world(story)


async def never(host: str, port: int, path: str) -> bool:
    return False


def test_only_requests_that_its_target_counts_make_more_replicas():
    async def story(world: World) -> None:
        target = TargetThroughput(qpm=60, paths=["/predict"])
        await world.serve(scaled_by(1, 10, target_throughput=target, scale_down=idle_after(60)))
        await world.calls(5, seconds=120, matching=2)
        assert await world.replicas() == 2
        await world.calls(5, seconds=120, matching=0)
        assert await world.replicas() == 1  # what does not count keeps it awake

    in_world(story)


def test_it_has_as_many_replicas_as_keep_their_gpus_as_busy_as_asked():
    async def story(world: World) -> None:
        spec = scaled_by(1, 10, target_gpu_utilization_percentage=50)
        needs = replace(spec.resource_requirement, accelerator_num=1)
        await world.serve(replace(spec, resource_requirement=needs))
        (replica,) = await world.store.find(Replica, Query(live=True))
        assert replica.gpus
        for _ in range(30):
            ready = (await world.endpoint()).ready_replicas
            busy = min(1.0, 2.0 / max(1, ready))  # all together, two GPUs' time
            world.engine.gpus_busy = {"n1": dict.fromkeys(range(8), busy)}
            await world.calls(10, seconds=10)
        assert await world.replicas() in (4, 5)
        assert "to be busy 50 % of the time" in await world.because()

    in_world(story)


def test_what_is_seen_of_a_canary_is_written_down_now_and_then():
    async def story(world: World) -> None:
        await world.serve(scaled_by(2))
        plan = RolloutPlan(strategy=Strategy.CANARY, steps=[50], step_seconds=3600)
        asked = replace(scaled_by(2), envs=[EnvVar(name="VERSION", value="2")])
        await world.change(asked, plan)
        await world.calls(10, seconds=5)
        before = await world.endpoint()
        assert before.rollout is not None and before.rollout.percent == 50
        await world.calls(10, seconds=60)
        after = await world.endpoint()
        assert after.rollout is not None
        seen = after.rollout.evidence.stable.requests - before.rollout.evidence.stable.requests
        assert 1 <= after.version - before.version <= 60_000 / KEEP_EVIDENCE_MS + 1
        assert 60 - KEEP_EVIDENCE_MS / 1000 <= seen / 10 <= 60 + KEEP_EVIDENCE_MS / 1000

    in_world(story)
