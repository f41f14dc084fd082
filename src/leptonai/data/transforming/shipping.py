"""What the workers of a job are told, as a directory that they go by: JSON and safetensors.

::

    transform.json         what to make of which version: an `Order`
    pipeline.safetensors   where it has learnt; else its spec is in the order
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.data.dataset import Dataset
from leptonai.data.pipeline.applying import PIPELINE_FILE
from leptonai.data.pipeline.pipeline import Pipeline, from_spec, spec_of
from leptonai.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from leptonai.client import LeptonClient

ORDER_FILE = "transform.json"
MAX_ORDER_BYTES = 64 << 20


class Order(msgspec.Struct, frozen=True, kw_only=True):
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
    (directory / ORDER_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(order)))


def read_order(directory: Path) -> Order:
    """Raises:
    InvalidRequest: there is none, or it is none.
    """
    try:
        with (directory / ORDER_FILE).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_ORDER_BYTES), type=Order)
    except (OSError, msgspec.DecodeError) as wrong:
        raise InvalidRequest(
            f"{directory} says nothing to transform: {wrong}",
            hint="this program is started by: leptonai dataset transform … --job-workers N",
        ) from None


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
