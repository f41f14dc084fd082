"""What the API says of what waits, and of what would: dry runs, deadlines, whose names are told."""

from dataclasses import replace

from api_world import NOW_MS, a_job, a_node, an_endpoint, with_api

from leptonai.control.advice import Advice
from leptonai.control.api.app import make_app
from leptonai.control.loops.placement import PlacementLoop
from leptonai.control.mirror import Mirror
from leptonai.control.owners import Owners
from leptonai.control.template_memory import TemplateMemory
from leptonai.control.traffic import TrafficLog
from leptonai.core.access import Principal, Role
from leptonai.core.records import Job, Phase, Replica
from leptonai.core.resources import Capacity
from leptonai.errors import DeadlineTooEarly, from_wire
from leptonai.ports.store import Put, Query
from leptonai.security.permissions import may_see
from leptonai.spec.jobs import JobState

GIB = 1 << 30
NOW_S = NOW_MS // 1_000


class Platform:
    """The API with its queue, which is stepped by hand; and jobs that seem to run."""

    def __init__(self, api) -> None:
        self.api, self.mirror = api, Mirror()

    async def open(self) -> None:
        api = self.api
        fence = await api.store.lease("control")
        owners = Owners(self.mirror, api.store, fence, api.clock, TrafficLog(api.clock))
        templates = TemplateMemory(self.mirror, api.engine, fence)
        self.loop = PlacementLoop(self.mirror, api.store, owners, fence, api.clock, templates)
        advice = Advice(self.mirror, self.loop, api.store, api.clock)
        api.world = replace(api.world, adviser=lambda: advice, notice=self.mirror.notice)
        api.http._transport.app = make_app(api.world)
        await self.mirror.load(api.store)
        await self.loop.step()

    async def step(self) -> None:
        """Let the queue place, and what is placed start."""
        await self.loop.step()
        for replica in await self.api.store.find(Replica, Query()):
            if replica.phase is Phase.PLACED:
                await self._put(replica, phase=Phase.RUNNING, started_at_ms=self.api.clock.now_ms())
                job = await self.api.store.get(Job, "ws", replica.owner_id)
                if job is not None:
                    await self._put(job, state=JobState.RUNNING, started_at_ms=NOW_MS)
        await self.loop.step()

    async def _put(self, record, **changes) -> None:
        import msgspec

        changed = msgspec.structs.replace(record, **changes)
        self.mirror.notice(await self.api.store.commit(Put(changed)))

    async def submit(self, name="hello", who="admin", visibility=None, **spec) -> str:
        asked = a_job(name, **spec)
        asked["metadata"]["visibility"] = visibility
        answer = await self.api.call("POST", "/jobs", json=asked, who=who)
        assert answer.status_code == 200, answer.text
        await self.step()
        return answer.json()["metadata"]["id"]

    async def why(self, id: str, who="admin") -> dict:
        return (await self.api.call("GET", f"/jobs/{id}/why", who=who)).json()

    async def dry_run(self, name="train", who="admin", **spec) -> dict:
        asked = a_job(name, **spec)
        answer = await self.api.call("POST", "/jobs?dry_run=true", json=asked, who=who)
        assert answer.status_code == 200, answer.text
        return answer.json()


def with_platform(test):
    async def story(api) -> None:
        platform = Platform(api)
        await platform.open()
        await test(platform)

    story.__name__, story.__doc__ = test.__name__, test.__doc__
    return with_api(story)


def minutes(at_ms: int | None) -> float | None:
    return None if at_ms is None else (at_ms - NOW_MS) / 60_000


# --- what waits ----------------------------------------------------------------------------------


@with_platform
async def test_who_waits_is_told_why_who_holds_it_until_when_and_what_would_start_it_now(platform):
    holder = await platform.submit("holder", cpu=3, memory=100, estimated_seconds=3_600)
    waiting = await platform.submit("waiting", cpu=4, memory=100)
    why = await platform.why(waiting)
    start = why.pop("start")
    assert why == {
        "state": "Queueing",
        "code": "capacity",
        "because": "needs 4 CPUs, 100 MiB on one node; the most that is free on one is 1 CPU",
        "data": {
            "workers": 1,
            "room": 0,
            "resource": "cpu_millis",
            "needed": 4_000,
            "holders": 1,
        },
        "held_by": [
            {
                "kind": "job",
                "name": holder,
                "resource": "cpu_millis",
                "amount": 3_000,
                "holds": "3 CPUs",
            }
        ],
        "alternatives": [
            {
                "kind": "size",
                "text": "ask for 1 CPU instead of 4",
                "spec": {"cpu": 1.0},
                "preempts": [],
            }
        ],
        "places": [],
        "preempts": [],
    }
    interval = (start["earliest_at"], start["expected_at"], start["latest_at"])
    assert tuple(map(minutes, interval)) == (30, 60, 120)
    assert start["because"] == "after the end of 1 job with an estimate"


@with_platform
async def test_a_list_of_jobs_and_a_job_say_in_short_why_they_wait(platform):
    await platform.submit("holder", cpu=4, memory=100)
    waiting = await platform.submit("waiting", cpu=2, memory=100)
    short = "needs 2 CPUs, 100 MiB on one node; the most that is free on one is 0 CPU"
    one = (await platform.api.call("GET", f"/jobs/{waiting}")).json()
    listed = (await platform.api.call("GET", "/jobs")).json()["jobs"]
    assert one["status"]["message"] == short
    assert [job["status"]["message"] for job in listed if job["metadata"]["id"] == waiting] == [
        short
    ]


@with_platform
async def test_nobody_is_told_the_name_of_what_they_may_not_read(platform):
    await platform.submit("hidden", who="ana", visibility="private", cpu=4, memory=100)
    waiting = await platform.submit("waiting", who="ben", cpu=4, memory=100)
    why = await platform.why(waiting, who="ben")
    assert [(holder["kind"], holder["name"]) for holder in why["held_by"]] == [("job", "")]
    assert "hidden" not in str(why)
    assert why["start"]["expected_at"] is None
    assert why["start"]["because"] == (
        "nothing says how long another's job will run; a job can, with --estimate"
    )
    admins = await platform.why(waiting)
    assert admins["held_by"][0]["name"].startswith("hidden-")


@with_platform
async def test_a_replica_of_an_endpoint_that_waits_is_explained_too(platform):
    await platform.submit("holder", cpu=4, memory=100, estimated_seconds=600)
    asked = an_endpoint("digits", resource_requirement={"cpu": 2, "memory": 64})
    dry = await platform.api.call("POST", "/deployments?dry_run=true", json=asked)
    assert dry.json()["explanation"]["code"] == "capacity"
    assert (await platform.api.call("GET", "/deployments")).json() == [], "nothing was created"
    await platform.api.call("POST", "/deployments", json=asked)
    await platform.step()
    why = (await platform.api.call("GET", "/deployments/digits/why")).json()
    assert (why["code"], why["held_by"][0]["kind"]) == ("capacity", "job")
    assert minutes(why["start"]["expected_at"]) == 10
    again = await platform.api.call("POST", "/deployments?dry_run=true", json=asked)
    assert again.status_code == 409, "the name is taken"


# --- dry runs ------------------------------------------------------------------------------------


@with_platform
async def test_a_dry_run_says_where_it_would_start_now_and_stores_nothing(platform):
    gpus = Capacity(cpu_millis=4_000, memory_bytes=8 * GIB, gpus=4, gpu_type="A100")
    await platform._put(a_node(id="gpus", name="gpus", capacity=gpus))
    await platform.step()
    would_be = await platform.dry_run(accelerator_num=2, cpu=1, memory=64)
    explanation = would_be["explanation"]
    assert (explanation["code"], explanation["because"]) == (
        "now",
        "there is room for it now: on gpus (GPU 0, 1)",
    )
    assert explanation["places"] == [{"worker": 0, "node": "gpus", "gpus": [0, 1]}]
    assert would_be["metadata"]["name"] == "train" and "id" not in would_be["metadata"]
    assert (await platform.api.call("GET", "/jobs")).json() == {"jobs": []}
    assert await platform.api.store.find(Replica, Query()) == []


@with_platform
async def test_a_dry_run_of_what_would_wait_says_until_when_and_what_instead(platform):
    await platform.submit("holder", cpu=3, memory=100, estimated_seconds=600)
    explanation = (await platform.dry_run(cpu=2, memory=64))["explanation"]
    assert explanation["code"] == "capacity"
    assert minutes(explanation["start"]["expected_at"]) == 10
    assert [each["spec"] for each in explanation["alternatives"]] == [{"cpu": 1.0}]
    # Who does as told gets what was said.
    told = (await platform.dry_run(cpu=1.0, memory=64))["explanation"]
    assert told["code"] == "now"


@with_platform
async def test_a_dry_run_refuses_what_would_be_refused(platform):
    for wrong, status in (({"cpu": 64}, 422), ({"container": {}}, 400)):
        asked = a_job("train", **wrong)
        answer = await platform.api.call("POST", "/jobs?dry_run=true", json=asked)
        assert answer.status_code == status, answer.text


@with_platform
async def test_a_dry_run_of_what_is_to_start_later_says_when(platform):
    later = {"start_at": NOW_S + 3_600}
    explanation = (await platform.dry_run(time_schedule=later))["explanation"]
    assert (explanation["state"], explanation["code"]) == ("Awaiting", "scheduled")


# --- deadlines -----------------------------------------------------------------------------------


@with_platform
async def test_a_hard_deadline_that_can_be_met_is_taken(platform):
    deadline = {"at": NOW_S + 700, "hard": True}
    id = await platform.submit("fits", cpu=1, estimated_seconds=600, deadline=deadline)
    assert (await platform.why(id))["state"] == "Running"


@with_platform
async def test_a_hard_deadline_that_cannot_be_met_is_refused_with_one_that_can(platform):
    await platform.submit("holder", cpu=4, memory=100, estimated_seconds=600)
    deadline = {"at": NOW_S + 900, "hard": True}
    asked = a_job("late", cpu=4, memory=64, estimated_seconds=600, deadline=deadline)
    answer = await platform.api.call("POST", "/jobs", json=asked)
    error = from_wire(answer.status_code, answer.json())
    assert (answer.status_code, type(error)) == (409, DeadlineTooEarly)
    assert error.message == (
        "the deadline cannot be met: this could be done in 30 min, which is 15 min later"
    )
    assert minutes(error.data["earliest_ms"]) == 30, "an estimate may be off by a factor of two"
    assert len((await platform.api.call("GET", "/jobs")).json()["jobs"]) == 1
    asked["spec"]["deadline"]["at"] = -(-error.data["earliest_ms"] // 1_000)
    assert (await platform.api.call("POST", "/jobs", json=asked)).status_code == 200


@with_platform
async def test_a_hard_deadline_needs_an_estimate(platform):
    asked = a_job("late", deadline={"at": NOW_S + 900, "hard": True})
    answer = await platform.api.call("POST", "/jobs", json=asked)
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        "spec.deadline.hard: nobody knows how long the job runs",
    )


def test_who_asks_from_another_workspace_sees_nothing():
    job = Job(
        workspace="ws", id="a", name="a", created_at_ms=0, spec=None, owner="ana", visibility=""
    )
    eve = Principal(name="eve", role=Role.ADMIN, workspace="other")
    ben = Principal(name="ben", role=Role.MEMBER, workspace="ws")
    assert [may_see(eve)(job), may_see(ben)(job)] == [False, True]
