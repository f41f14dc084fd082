"""Sending a run that was recorded in a directory."""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from leptonai.errors import NotFound
from leptonai.spec.runs import MAX_ARTIFACTS, Run, RunState
from leptonai.tracking.folder import RunFolder

if TYPE_CHECKING:
    from leptonai.client import LeptonClient


def upload(folder: RunFolder, client: "LeptonClient") -> Run:
    """Send what the directory holds of a run; again sends nothing twice.

    Raises:
        InvalidRequest: it holds no run.
    """
    run = folder.load()
    id = run.metadata.id or ""
    try:
        client.runs.start(replace(run, status=None))
    except NotFound:  # its job is not of this workspace
        client.runs.start(replace(run, status=None, spec=replace(run.spec, job="")))
    client.runs.update(id, spec=replace(run.spec, job=""), labels=run.metadata.labels)
    for batch in folder.batches():
        client.runs.append(id, batch)
    if folder.artifacts.is_dir():
        files = sorted(path for path in folder.artifacts.rglob("*") if path.is_file())
        for file in files[:MAX_ARTIFACTS]:
            client.runs.push_artifact(id, file.relative_to(folder.artifacts).as_posix(), file)
    if run.status is not None and run.status.state is not RunState.RUNNING:
        return client.runs.end(id, run.status.state, run.status.message)
    return client.runs.get(id)
