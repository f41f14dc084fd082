"""Transforming here: all parts are written into a folder, which becomes the version."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from leptonai.data.dataset import Dataset
from leptonai.data.kinds import is_held_out
from leptonai.data.pipeline.applying import (
    PIPELINE_FILE,
    apply,
    fit_and_apply,
    parts_of,
    teaching_part,
)
from leptonai.data.pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from leptonai.client import LeptonClient

Tell = Callable[[str], object]  # what a person who waits may want to know


def transform(
    source: Dataset,
    pipeline: Pipeline,
    name: str,
    *,
    shares: Mapping[str, float],
    seed: int,
    workers: int | None,
    memory_limit_bytes: int | None,
    client: "LeptonClient | None",
    tell: Tell,
) -> Dataset:
    """See `Dataset.transform`."""
    parts = parts_of(source, shares, seed)
    with tempfile.TemporaryDirectory(prefix="leptonai-transform-") as folder:
        write(
            pipeline, parts, Path(folder),
            workers=workers, memory_limit_bytes=memory_limit_bytes, tell=tell,
        )  # fmt: skip
        return keep(name, Path(folder), source, pipeline, client)


def write(
    pipeline: Pipeline,
    parts: Mapping[str, Dataset],
    folder: Path,
    *,
    workers: int | None,
    memory_limit_bytes: int | None,
    tell: Tell,
) -> None:
    """Into a folder for each part, with the pipeline beside them. One that has not learnt is fitted
    on the training part."""
    check_parts(pipeline, parts)
    if not pipeline.is_fitted:
        tell("fitting on the training part")
    act = apply if pipeline.is_fitted else fit_and_apply
    files = act(pipeline, parts, folder, workers=workers, memory_limit_bytes=memory_limit_bytes)
    pipeline.save(folder / PIPELINE_FILE)
    tell(f"transformed into {len(files)} files")


def check_parts(pipeline: Pipeline, parts: Mapping[str, Dataset]) -> None:
    """Raises:
    InvalidRequest: the pipeline has learnt from a part that is to examine; or has not learnt,
        and of the parts none is to learn from.
    """
    if not pipeline.is_fitted:
        teaching_part(parts)
        return
    for part, samples in parts.items():
        if is_held_out(part):
            pipeline.check_unseen(samples)


def keep(
    name: str, folder: Path, source: Dataset, pipeline: Pipeline, client: "LeptonClient | None"
) -> Dataset:
    """What was written becomes the next version of the name, with what it was made from."""
    lineage = {
        "source": source.reference,
        "dataset": source.digest,
        "pipeline": pipeline.digest,
    }
    return Dataset.create(name, folder, type="tabular", lineage=lineage, client=client)
