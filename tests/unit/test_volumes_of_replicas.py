"""What the loops make of mounts and attachments when a replica starts."""

import asyncio

from test_control_loops import MINUTE_S, World, in_world

from leptonai.core.records import DataSource, Replica, Volume
from leptonai.ports.engine import VolumeAt
from leptonai.ports.store import Delete, Put
from leptonai.spec.codec import convert
from leptonai.spec.containers import Mount, MountOptions, StorageAttachment, StorageAttachmentMode
from leptonai.spec.jobs import JobState
from leptonai.spec.storage import DataSourceSpec, StoragePermission


def a_volume(**fields) -> Volume:
    of = {"workspace": "default", "id": "v1", "name": "data", "created_at_ms": 1, "path": "/v"}
    return Volume(**(of | {"group": "fake"} | fields))


def a_mount(**fields) -> Mount:
    return Mount(**({"mount_path": "/mnt/data", "path": "/ada", "source": "data"} | fields))


async def started(world: World, **spec) -> Replica:
    await world.submit("j", "print", "hello", **spec)
    await asyncio.sleep(MINUTE_S)
    (replica,) = await world.replicas()
    return replica


async def why(world: World) -> tuple[JobState, str]:
    job = await world.job("j")
    assert job is not None
    return job.state, job.message


def test_a_replica_is_started_with_its_volumes_as_they_are_now():
    async def story(world: World) -> None:
        await world.store.commit(Put(a_volume()))
        fixed = MountOptions(read_only=True)
        replica = await started(world, mounts=[a_mount(mount_options=fixed)])
        assert world.engine.asked("n1", replica.attempt_id).volumes == (
            VolumeAt(name="data", root="/v", path="/ada", at="/mnt/data", read_only=True),
        )
        events = await world.store.events("default", kind="job", id="j")
        assert "VolumesLinked" not in [event.reason for event in events]

    in_world(story)


def test_where_nothing_can_be_mounted_an_event_says_so():
    async def story(world: World) -> None:
        await world.store.commit(Put(a_volume()))
        await started(world, mounts=[a_mount()])
        events = await world.store.events("default", kind="job", id="j")
        (event,) = (event for event in events if event.reason == "VolumesLinked")
        assert "/mnt/data is mnt/data" in event.message

    in_world(story, mounts_volumes=False)


def test_a_volume_that_was_deleted_is_why_a_job_fails():
    async def story(world: World) -> None:
        (volume,) = await world.store.commit(Put(a_volume()))
        await world.store.commit(Delete(volume))
        await started(world, mounts=[a_mount()])
        state, message = await why(world)
        assert state is JobState.FAILED
        assert "there is no volume 'data'" in message

    in_world(story)


def test_a_rule_that_came_later_holds_when_a_replica_starts():
    async def story(world: World) -> None:
        rules = (StoragePermission(path_prefix="/", allowed_users=["ben"]),)
        await world.store.commit(Put(a_volume(rules=rules)))
        await started(world, mounts=[a_mount()])
        state, message = await why(world)
        assert state is JobState.FAILED
        assert "ada may not use /ada of the volume data" in message

    in_world(story)


def test_a_bucket_that_its_owner_may_not_use_any_more_is_not_attached():
    async def story(world: World) -> None:
        spec = convert(
            DataSourceSpec,
            {
                "name": "pets",
                "workspace": "default",
                "object": {"bucket": "b", "provider": {"type": "aws", "aws": {"region": "eu"}}},
                "permissions": {"allowed_users": ["ben"]},
            },
        )
        source = DataSource(
            workspace="default", id="d1", name="pets", created_at_ms=1, group="fake", spec=spec
        )
        await world.store.commit(Put(source))
        profile = [StorageAttachmentMode(mode="awsProfile")]
        attached = StorageAttachment(data_source_name="pets", attachments=profile)
        await started(world, storage_attachments=[attached])
        state, message = await why(world)
        assert state is JobState.FAILED
        assert "ada may not use the data source pets" in message

    in_world(story)
