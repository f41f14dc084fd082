"""What trainings recorded."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

from leptonai.client.asynchronous.artifacts import AsyncBlobs, AsyncTrees
from leptonai.client.asynchronous.calls import PAGE_SIZE, AsyncCalls, new_key
from leptonai.client.files import digest_of
from leptonai.client.http_async import in_thread
from leptonai.client.messages import Request, delete_of, encode, get_of, path_of, post_to
from leptonai.errors import NotFound
from leptonai.spec.runs import (
    Resume,
    Run,
    RunArtifact,
    RunEnd,
    RunList,
    RunMetrics,
    RunSpec,
    RunState,
)


class AsyncRuns:
    """What trainings were given and measured. `leptonai.run` records one; this reads them all."""

    def __init__(self, calls: AsyncCalls, trees: AsyncTrees, blobs: AsyncBlobs) -> None:
        self._calls = calls
        self._trees = trees
        self._blobs = blobs

    async def start(self, run: Run) -> Run:
        """Make a run, or find the one with its id: a repeated start is one start."""
        return await self._calls.read(post_to("/runs", run, run.metadata.id or new_key()), Run)

    async def get(self, id: str) -> Run:
        return await self._calls.read(get_of("runs", id), Run)

    async def find(self, name_or_id: str) -> Run:
        """The run with this id, or of the job with this id; else the newest one of this name, else
        the one whose id begins so.

        Raises:
            NotFound: there is none.
        """
        found = await self.list(q=name_or_id, limit=PAGE_SIZE)
        exact = [run for run in found if run.metadata.id == name_or_id]
        of_job = await self.list(job=name_or_id, limit=1) if not exact else []
        named = [run for run in found if run.metadata.name == name_or_id]
        begun = [run for run in found if (run.metadata.id or "").startswith(name_or_id)]
        for some in (exact, of_job, named, begun if len(begun) == 1 else []):
            if some:
                return some[0]
        raise NotFound(
            f"no run has the name or the id {name_or_id!r}", hint="see `leptonai run list`"
        )

    async def list(
        self,
        *,
        ids: Sequence[str] = (),
        q: str | None = None,
        name: str | None = None,
        job: str | None = None,
        states: Sequence[RunState] = (),
        labels: str | None = None,
        params: Sequence[str] = (),
        keys: Sequence[str] = (),
        limit: int | None = None,
    ) -> Sequence[Run]:
        """Newest first, each with its summary.

        Args:
            q: a part of the name or of the id.
            job: of the job with this id.
            labels: `k`, `k=v`, joined by commas; the project is one of them.
            params: "lr=0.1", "depth>3": all must hold.
            keys: only these in the summaries; none: all.
        """
        size = PAGE_SIZE if limit is None else min(limit, PAGE_SIZE)
        found: list[Run] = []
        pages = self._calls.pages(
            lambda answer: answer.read(RunList).runs,
            "runs",
            page_size=size,
            id=[*ids] or None,
            q=q,
            name=name,
            job=job,
            state=[str(state) for state in states] or None,
            query=labels,
            param=[*params] or None,
            key=[*keys] or None,
        )
        async with aclosing(pages):
            async for page in pages:
                found += page
                if limit is not None and len(found) >= limit:
                    break
        return found[:limit]

    async def update(
        self, id: str, *, spec: RunSpec | None = None, labels: Mapping[str, str] | None = None
    ) -> Run:
        """Add parameters, artifacts, references, labels; what is there under the same name is
        replaced."""
        patch: dict[str, Any] = {"spec": spec or RunSpec()}
        if labels:
            patch["metadata"] = {"labels": dict(labels)}
        request = Request(method="PATCH", path=path_of("runs", id), body=encode(patch))
        return await self._calls.read(request, Run)

    async def append(self, id: str, batch: bytes) -> None:
        """Store a batch of points (`leptonai.blobs.points`); again changes nothing."""
        path = path_of("runs", id, "points")
        await self._calls.ask(Request(method="PUT", path=path, body=batch))

    async def resume(self, id: str, step: int, *, stream: int = 0, key: str | None = None) -> Run:
        """Supersede what was recorded after a step. Whoever has written before stays superseded:
        who goes on is a new writer. The same key is one resume."""
        path = path_of("runs", id, "resume")
        body = Resume(step=step, stream=stream)
        return await self._calls.read(post_to(path, body, key or new_key()), Run)

    async def end(self, id: str, state: RunState, message: str = "") -> Run:
        body = encode(RunEnd(state=state, message=message))
        path = path_of("runs", id, "end")
        return await self._calls.read(Request(method="PUT", path=path, body=body), Run)

    async def metrics(
        self,
        id: str,
        *keys: str,
        points: int | None = None,
        method: Literal["minmax", "lttb"] | None = None,
        from_step: int | None = None,
        to_step: int | None = None,
    ) -> RunMetrics:
        """Summaries of all keys, and the curves of those that are named."""
        request = get_of(
            *("runs", id, "metrics"),
            key=[*keys] or None,
            points=points,
            method=method,
            from_step=from_step,
            to_step=to_step,
        )
        return await self._calls.read(request, RunMetrics)

    async def push_artifact(self, id: str, name: str, path: Path | str) -> RunArtifact:
        """Keep a file or a directory with the run."""
        source = Path(path)
        if source.is_dir():
            digest, size_bytes = await self._trees.push_sized(source)
            artifact = RunArtifact(digest=digest, size_bytes=size_bytes, layout="tree")
        else:
            digest, size_bytes = await in_thread(digest_of, source)
            if not await self._blobs.has(digest):
                await self._blobs.put(digest, source)
            artifact = RunArtifact(digest=digest, size_bytes=size_bytes)
        await self.update(id, spec=RunSpec(artifacts={name: artifact}))
        return artifact

    async def drop_artifacts(self, id: str, *names: str) -> Run:
        """Keep these with the run no longer."""
        body = encode({"spec": {"artifacts": dict.fromkeys(names)}})
        request = Request(method="PATCH", path=path_of("runs", id), body=body)
        return await self._calls.read(request, Run)

    async def remove(self, id: str) -> None:
        """With all its points."""
        await self._calls.ask(delete_of("runs", id))
