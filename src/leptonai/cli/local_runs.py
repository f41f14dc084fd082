"""Runs in a directory, read as the platform would read them."""

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from leptonai.blobs.points import decode_batch
from leptonai.core.points import replay, shown
from leptonai.errors import InvalidRequest
from leptonai.spec.runs import Curve, Run, number_of
from leptonai.tracking.folder import RunFolder, folders_in


def load(folder: RunFolder) -> Run:
    """With the summary of what was logged."""
    run = folder.load()
    known, _ = replay(map(decode_batch, folder.batches()))
    if run.status is None:
        return run
    return replace(
        run, status=replace(run.status, summary=shown(known.summary), points=known.count)
    )


def curves(
    directory: Path,
    id: str,
    keys: Sequence[str],
    most: int,
    from_step: int | None,
    to_step: int | None,
) -> dict[str, Curve]:
    """Raises:
    InvalidRequest: numpy is not here.
    """
    try:
        from leptonai.core.curves import from_columns, minmax, visible
    except ModuleNotFoundError as missing:
        if missing.name != "numpy":
            raise
        raise InvalidRequest(
            "curves of a directory need numpy", hint="pip install numpy, or upload the run"
        ) from None
    folder = next(f for f in folders_in(directory) if f.load().metadata.id == id)
    known, kept = replay(map(decode_batch, folder.batches()))
    found = {}
    for key in keys:
        parts = [
            (
                attempt,
                number,
                known.limit(batch.stream, attempt),
                from_columns(series.steps, series.values, series.times),
            )
            for attempt, number, batch in kept
            for series in batch.series
            if series.key == key
        ]
        points = visible(parts, from_step, to_step)
        few = minmax(points, most)
        found[key] = Curve(
            key=key,
            steps=few.steps.tolist(),
            values=[number_of(value) for value in few.values.tolist()],
            times=few.times.tolist(),
            points=len(points),
        )
    return found
