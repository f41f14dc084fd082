"""Commands that run to their end."""

from collections.abc import Sequence
from typing import Literal

from leptonai.client.asynchronous.calls import (
    PAGE_SIZE,
    AsyncCalls,
    AsyncLooks,
    new_key,
    sent_metadata,
)
from leptonai.client.http_async import Feed
from leptonai.client.messages import (
    Request,
    delete_of,
    get_of,
    merge_patch,
    patch_of,
    path_of,
    post_to,
)
from leptonai.errors import NotFound, TryLater
from leptonai.spec.explanations import Explanation
from leptonai.spec.jobs import JobList, JobState, LeptonJob
from leptonai.spec.replicas import LeptonEvent, LogLine, Replica

JobQueryMode = Literal["alive_only", "archive_only", "alive_and_archive"]

FINISHED = (JobState.COMPLETED, JobState.FAILED, JobState.STOPPED, JobState.ARCHIVED)


class AsyncJobs:
    """Commands that a gang of workers runs to their end."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def create(self, job: LeptonJob, *, idempotency_key: str | None = None) -> LeptonJob:
        """Submit a job; `metadata.name` (or `id`) is its name, and its id comes back.

        The same key never makes a second job: pass your own to be able to repeat the call after a
        crash of your program.

        Raises:
            InvalidRequest, Unsatisfiable: nothing was created.
            Unavailable: the platform does not answer; the job may exist.
        """
        return await self._calls.read(
            post_to("/jobs", _submitted(job), idempotency_key or new_key()), LeptonJob
        )

    async def dry_run(self, job: LeptonJob) -> LeptonJob:
        """The job as it would be created, and in its `explanation` where it would start now, or
        why it would wait, until when, and what would start it now. Nothing is created."""
        return await self._calls.read(
            post_to("/jobs?dry_run=true", _submitted(job), new_key()), LeptonJob
        )

    async def get(self, id: str) -> LeptonJob:
        return await self._calls.read(
            get_of("jobs", id, job_query_mode="alive_and_archive"), LeptonJob
        )

    async def find(self, name_or_id: str) -> LeptonJob:
        """The job with this id, else the newest one with exactly this name.

        Raises:
            NotFound: there is none.
        """
        try:
            return await self.get(name_or_id)
        except NotFound:
            similar = await self.list(mode="alive_and_archive", q=name_or_id)
        named = [job for job in similar if job.metadata.name == name_or_id]
        if not named:
            raise NotFound(
                f"no job has the name or the id {name_or_id!r}",
                hint="see `leptonai job list --all`",
            )
        return max(named, key=lambda job: (job.metadata.created_at or 0, job.metadata.id or ""))

    async def stop(self, id: str) -> None:
        """Ask for its end; what has already ended stays as it is."""
        await self._calls.ask(patch_of(merge_patch(spec={"stopped": True}), "jobs", id))

    async def start(self, id: str) -> None:
        """Let a stopped job run again, from its beginning."""
        await self._calls.ask(patch_of(merge_patch(spec={"stopped": False}), "jobs", id))

    async def note_checkpoint(self, id: str) -> None:
        """Say that it has just saved all it needs to go on from here.

        A job that has to give way to another is chosen by how little it loses. Its own token
        (`include_workspace_token`) may do this, with the id in LEPTON_JOB_NAME.
        """
        await self._calls.ask(Request(method="PUT", path=path_of("jobs", id, "checkpoint")))

    async def remove(self, id: str) -> None:
        """Stop it if it runs, and forget it with its logs."""
        await self._calls.ask(delete_of("jobs", id, job_query_mode="alive_and_archive"))

    async def replicas(self, id: str, *, all_rounds: bool = False) -> Sequence[Replica]:
        """Its workers; with `all_rounds`, first those of the gangs that were formed before."""
        request = get_of(
            *("jobs", id, "replicas"),
            job_query_mode="alive_and_archive",
            all_rounds=all_rounds or None,
        )
        return await self._calls.read(request, list[Replica])

    async def events(self, id: str) -> Sequence[LeptonEvent]:
        return await self._calls.read(get_of("jobs", id, "events"), list[LeptonEvent])

    async def why(self, id: str) -> Explanation:
        """Why it is in the state it is in, and what would change that."""
        return await self._calls.read(get_of("jobs", id, "why"), Explanation)

    def log(
        self, id: str, replica_id: str, *, follow: bool = True, tail: int | None = None
    ) -> Feed[str]:
        """The lines of one worker from its beginning, or the last `tail` of its present try; with
        `follow`, until it has ended.

        A line that is still being written comes when it is complete, or at the end.
        """
        request = get_of("jobs", id, "replicas", replica_id, "log", follow=follow, tail=tail)
        return self._calls.lines(request)

    def history(
        self,
        id: str,
        start_ns: int,
        end_ns: int,
        *,
        replica_id: str | None = None,
        q: str | None = None,
        last: int | None = None,
    ) -> Feed[LogLine]:
        """The lines of start <= time < end, or the last ones, that hold `q`: oldest first, each
        with its nanosecond since 1970."""
        return self._calls.history(start_ns, end_ns, last, job=id, replica=replica_id, q=q)

    async def wait(self, id: str, timeout_s: float | None = None) -> LeptonJob:
        """Return it when it has ended, however it ended.

        Raises:
            TryLater: it has not ended in time.
        """
        looks = AsyncLooks(timeout_s)
        while True:
            job = await self.get(id)
            state = job.status.state if job.status else JobState.QUEUEING
            if state in FINISHED:
                return job
            if looks.are_over:
                raise TryLater(
                    f"job {id} is still {state} after {timeout_s:g} s",
                    hint=f"see `leptonai job why {id}`",
                )
            await looks.pause()

    async def list(
        self,
        *,
        mode: JobQueryMode = "alive_only",
        q: str | None = None,
        status: Sequence[str] = (),
        created_by: Sequence[str] = (),
        node_groups: Sequence[str] = (),
        labels: str | None = None,
        limit: int | None = None,
    ) -> Sequence[LeptonJob]:
        """The jobs for which all of this holds.

        Args:
            mode: with or without those whose time to live after their end is over.
            q: a part of the name or of the id.
            status: beginnings of states: any of them, in any case.
            labels: `key` or `key=value`, several joined by commas.
            limit: at most as many.
        """
        found: dict[str, LeptonJob] = {}  # by id: a page may repeat what the one before had
        async for jobs in self._calls.pages(
            lambda answer: answer.read(JobList).jobs,
            "jobs",
            job_query_mode=mode,
            q=q or None,
            status=[*status] or None,
            created_by=[*created_by] or None,
            node_groups=[*node_groups] or None,
            query=labels or None,
            page_size=PAGE_SIZE if limit is None else max(1, min(PAGE_SIZE, limit)),
        ):
            found |= {job.metadata.id or "": job for job in jobs}
            if limit is not None and len(found) >= limit:
                break
        return [*found.values()][:limit]


def _submitted(job: LeptonJob) -> LeptonJob:
    return LeptonJob(metadata=sent_metadata(job.metadata), spec=job.spec)
