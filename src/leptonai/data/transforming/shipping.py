"""What the workers of a job are told, as a directory that they go by: JSON and safetensors.

::

    transform.json         what to make of which version: an `Order`
    pipeline.safetensors   where it has learnt; else its spec is in the order
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.data.dataset import Dataset
from leptonai.data.orders import JobOrder
from leptonai.data.pipeline.applying import PIPELINE_FILE
from leptonai.data.pipeline.pipeline import Pipeline, from_spec, spec_of
from leptonai.errors import NotFound

if TYPE_CHECKING:
    from leptonai.client import LeptonClient


class Order(JobOrder, frozen=True, kw_only=True):
    FILE = "transform.json"
    STARTED_BY = "leptonai dataset transform … --job-workers N"

    name: str  # of the dataset to make
    source: str  # NAME@VERSION
    digest: str  # of that version's content
    shares: dict[str, float]
    seed: int
    threads: int  # of each worker
    memory_limit_bytes: int | None
    steps: dict[str, Any] | None  # the spec of a pipeline that has not learnt


def pack(directory: Path, order: Order, pipeline: Pipeline) -> None:
    if pipeline.is_fitted:
        pipeline.save(directory / PIPELINE_FILE)
    else:
        order = msgspec.structs.replace(order, steps=spec_of(pipeline))
    order.write(directory)


def open_source(order: Order, client: "LeptonClient") -> Dataset:
    """Raises:
    NotFound: the version has gone, or is not what it was.
    """
    source = Dataset.get(order.source, client=client)
    if source.digest != order.digest:
        raise NotFound(
            f"{order.source} is not the data that it was when the job was asked for",
            hint="send it again",
        )
    return source


def open_pipeline(order: Order, directory: Path) -> Pipeline:
    if order.steps is not None:
        return from_spec(order.steps)
    return Pipeline.load(directory / PIPELINE_FILE)
