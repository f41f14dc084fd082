"""`asynchronous/runs.py` as `tools/derive_sync_client.py` made it sync; change that."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from leptonai.client.synchronous.artifacts import Blobs, Trees
from leptonai.client.synchronous.calls import PAGE_SIZE, Calls, new_key
from leptonai.client.files import digest_of
from leptonai.client.http_sync import in_thread
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


class Runs:
    """What trainings were given and measured. `leptonai.run` records one; this reads them all."""

    def __init__(self, calls: Calls, trees: Trees, blobs: Blobs) -> None:
        self._calls = calls
        self._trees = trees
        self._blobs = blobs

    def start(self, run: Run) -> Run:
        """Make a run, or find the one with its id: a repeated start is one start."""
        return self._calls.read(post_to("/runs", run, run.metadata.id or new_key()), Run)

    def get(self, id: str) -> Run:
        return self._calls.read(get_of("runs", id), Run)

    def find(self, name_or_id: str) -> Run:
        """The run with this id, or of the job with this id; else the newest one of this name, else
        the one whose id begins so.

        Raises:
            NotFound: there is none.
        """
        found = self.list(q=name_or_id, limit=PAGE_SIZE)
        exact = [run for run in found if run.metadata.id == name_or_id]
        of_job = self.list(job=name_or_id, limit=1) if not exact else []
        named = [run for run in found if run.metadata.name == name_or_id]
        begun = [run for run in found if (run.metadata.id or "").startswith(name_or_id)]
        for some in (exact, of_job, named, begun if len(begun) == 1 else []):
            if some:
                return some[0]
        raise NotFound(
            f"no run has the name or the id {name_or_id!r}", hint="see `leptonai run list`"
        )

    def list(
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
        with closing(pages):
            for page in pages:
                found += page
                if limit is not None and len(found) >= limit:
                    break
        return found[:limit]

    def update(
        self, id: str, *, spec: RunSpec | None = None, labels: Mapping[str, str] | None = None
    ) -> Run:
        """Add parameters, artifacts, references, labels; what is there under the same name is
        replaced."""
        patch: dict[str, Any] = {"spec": spec or RunSpec()}
        if labels:
            patch["metadata"] = {"labels": dict(labels)}
        request = Request(method="PATCH", path=path_of("runs", id), body=encode(patch))
        return self._calls.read(request, Run)

    def append(self, id: str, batch: bytes) -> None:
        """Store a batch of points (`leptonai.blobs.points`); again changes nothing."""
        path = path_of("runs", id, "points")
        self._calls.ask(Request(method="PUT", path=path, body=batch))

    def resume(self, id: str, step: int, *, stream: int = 0, key: str | None = None) -> Run:
        """Supersede what was recorded after a step. Whoever has written before stays superseded:
        who goes on is a new writer. The same key is one resume."""
        path = path_of("runs", id, "resume")
        body = Resume(step=step, stream=stream)
        return self._calls.read(post_to(path, body, key or new_key()), Run)

    def end(self, id: str, state: RunState, message: str = "") -> Run:
        body = encode(RunEnd(state=state, message=message))
        path = path_of("runs", id, "end")
        return self._calls.read(Request(method="PUT", path=path, body=body), Run)

    def metrics(
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
        return self._calls.read(request, RunMetrics)

    def push_artifact(self, id: str, name: str, path: Path | str) -> RunArtifact:
        """Keep a file or a directory with the run."""
        source = Path(path)
        if source.is_dir():
            digest, size_bytes = self._trees.push_sized(source)
            artifact = RunArtifact(digest=digest, size_bytes=size_bytes, layout="tree")
        else:
            digest, size_bytes = in_thread(digest_of, source)
            if not self._blobs.has(digest):
                self._blobs.put(digest, source)
            artifact = RunArtifact(digest=digest, size_bytes=size_bytes)
        self.update(id, spec=RunSpec(artifacts={name: artifact}))
        return artifact

    def drop_artifacts(self, id: str, *names: str) -> Run:
        """Keep these with the run no longer."""
        body = encode({"spec": {"artifacts": dict.fromkeys(names)}})
        request = Request(method="PATCH", path=path_of("runs", id), body=body)
        return self._calls.read(request, Run)

    def remove(self, id: str) -> None:
        """With all its points."""
        self._calls.ask(delete_of("runs", id))
