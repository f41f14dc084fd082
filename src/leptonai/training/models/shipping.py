"""What `model.fit` is told, as a directory that a job can go by: JSON, safetensors and .npy.

::

    fit.json               how to learn: an `Order`
    model/                 the model as it is now
    pipeline.safetensors   where there is one
    train-0.npy, …         data that lies in memory; or which samples of a version

Nothing in it is pickled. What would have to be (functions, objects of others) is refused by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from torch import Tensor

from leptonai.data.dataset import Dataset
from leptonai.data.folder import LocalFolder
from leptonai.data.orders import JobOrder
from leptonai.errors import InvalidRequest, NotFound
from leptonai.training.models.saving import PIPELINE_FILE

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.data.pipeline import Pipeline
    from leptonai.training.models.base import Model

MODEL_DIRECTORY = "model"
MAX_ARRAY_BYTES = 4 << 30  # of arrays; more of them is better committed as a dataset

Option = bool | int | float | str | None | list[str]


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of a version of the workspace, or arrays that were shipped."""

    reference: str = ""  # NAME@VERSION; none of arrays
    digest: str = ""  # of the version's content
    part: str = ""
    chosen: bool = False  # not all samples: their numbers are in ROLE-0.npy
    form: Literal["", "array", "tuple", "mapping"] = ""
    names: list[str] = []  # of the arrays of a mapping
    arrays: int = 0
    classes: list[str] = []


class Order(JobOrder, frozen=True, kw_only=True):
    FILE = "fit.json"
    STARTED_BY = "model.fit(…, client=client)"

    data: Data
    validation: Data | None = None
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    options: dict[str, Option]


class Arrays:
    """Shipped arrays with the names of their classes."""

    def __init__(self, columns: Any, classes: tuple[str, ...]) -> None:
        self._columns = columns
        self.classes = classes

    def as_columns(self) -> Any:
        return self._columns


def check_can_be_sent(
    model: "Model", data: Any, validation: Any, pipeline: Any, options: Mapping[str, Any]
) -> None:
    """Raises:
    InvalidRequest: names all that only this process has.
    """
    from leptonai.data.pipeline import Pipeline

    left = [
        f"the option {name} ({_told(value)})"
        for name, value in options.items()
        if not _is_plain(value)
    ]
    if options.get("checkpoints") is not None:
        left.append("the option checkpoints (a directory of this machine; a job has its own)")
    if not type(model).__module__.startswith("leptonai."):
        left.append(f"the class {type(model).__name__}, which is your own")
    if pipeline is not None and not (isinstance(pipeline, Pipeline) and pipeline.is_fitted):
        unfitted = isinstance(pipeline, Pipeline)
        left.append(
            "a pipeline that is not fitted" if unfitted else f"{_told(pipeline)} as pipeline"
        )
    for name, each in (("data", data), ("validation_data", validation)):
        if each is not None and not isinstance(each, Dataset) and _columns_of(each) is None:
            left.append(f"{_told(each)} as {name}")
    if left:
        raise InvalidRequest(
            f"a job cannot be sent {'; nor '.join(left)}",
            hint="give a Dataset or arrays, a Pipeline that is fitted, and options by name; or put "
            "the training into a script: leptonai train --num-workers 2 SCRIPT",
        )


def pack(
    directory: Path,
    model: "Model",
    data: Any,
    *,
    validation: Any,
    pipeline: "Pipeline | None",
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    options: Mapping[str, Any],
    client: "LeptonClient",
) -> Order:
    """Write the directory. Folders of this machine become versions of the workspace first."""
    data = _in_workspace(data, client)
    validation = _in_workspace(validation, client)
    if pipeline is not None:
        for each in (data, validation):
            if isinstance(each, _Committed):
                pipeline = each.retold(pipeline)
        pipeline.save(directory / PIPELINE_FILE)
    model.save(directory / MODEL_DIRECTORY)
    order = Order(
        data=_packed(directory, "train", data),
        validation=None if validation is None else _packed(directory, "validation", validation),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        options={
            name: list(value) if isinstance(value, tuple) else value
            for name, value in options.items()
        },
    )
    order.write(directory)
    return order


def open_data(directory: Path, role: str, told: Data) -> Any:
    """As `model.fit` takes it.

    Raises:
        NotFound, InvalidRequest: the version has gone, or is not what it was.
    """
    if not told.reference:
        arrays = [_load(directory / f"{role}-{at}.npy") for at in range(told.arrays)]
        if told.form == "array":
            return arrays[0]
        columns = (
            tuple(arrays) if told.form == "tuple" else dict(zip(told.names, arrays, strict=True))
        )
        return Arrays(columns, tuple(told.classes)) if told.classes else columns
    dataset = Dataset.get(told.reference)
    if dataset.records.digest != told.digest:
        raise NotFound(
            f"{told.reference} is not the data that it was when the training was asked for",
            hint="send it again",
        )
    chosen = _load(directory / f"{role}-0.npy") if told.chosen else None
    return Dataset(
        dataset.records,
        name=dataset.name,
        version=dataset.version,
        chosen=chosen,
        part=told.part,
    )


def _load(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


def _packed(directory: Path, role: str, data: Any) -> Data:
    if isinstance(data, Dataset):
        if data.chosen is not None:
            np.save(directory / f"{role}-0.npy", data.chosen, allow_pickle=False)
        return Data(
            reference=data.reference,
            digest=data.records.digest,
            part=data.part,
            chosen=data.chosen is not None,
        )
    columns = _columns_of(data)
    assert columns is not None, "check_can_be_sent has refused it"
    named = columns if isinstance(columns, Mapping) else dict(enumerate(columns))
    size_bytes = sum(array.nbytes for array in named.values())
    if size_bytes > MAX_ARRAY_BYTES:
        raise InvalidRequest(
            f"the arrays have {size_bytes} bytes, and up to {MAX_ARRAY_BYTES} are sent with a job",
            hint="commit them as a dataset: leptonai dataset create -n NAME DIRECTORY",
        )
    for at, array in enumerate(named.values()):
        np.save(directory / f"{role}-{at}.npy", array, allow_pickle=False)
    one = isinstance(data, np.ndarray | Tensor)
    return Data(
        form="array" if one else "mapping" if isinstance(columns, Mapping) else "tuple",
        names=[*map(str, named)] if isinstance(columns, Mapping) else [],
        arrays=len(named),
        classes=[*map(str, getattr(data, "classes", None) or ())],
    )


def _columns_of(data: Any) -> "tuple[Any, ...] | Mapping[str, Any] | None":
    """Arrays without Python objects in them; None where it is something else."""
    if hasattr(data, "as_columns"):
        data = data.as_columns()
    if isinstance(data, np.ndarray | Tensor):
        data = (data,)
    if not isinstance(data, Mapping | tuple | list) or not data:
        return None
    named = data.items() if isinstance(data, Mapping) else enumerate(data)
    arrays: dict[Any, Any] = {
        name: each.numpy(force=True) if isinstance(each, Tensor) else each for name, each in named
    }
    if not all(
        isinstance(each, np.ndarray) and not each.dtype.hasobject for each in arrays.values()
    ):
        return None
    return arrays if isinstance(data, Mapping) else tuple(arrays.values())


class _Committed(Dataset):
    """What was a folder of this machine, as a version of the workspace."""

    folder_digest: str = ""

    def retold(self, pipeline: "Pipeline") -> "Pipeline":
        """A pipeline that the folder's rows taught is taught by the version's, so that it knows
        them again."""
        if pipeline.fitted.on.records != self.folder_digest:
            return pipeline
        return pipeline.taught_by(self.records.digest, f"{self.name}@{self.version}")


def _in_workspace(data: Any, client: "LeptonClient") -> Any:
    if not isinstance(data, Dataset):
        return data
    folder = data.records
    if not isinstance(folder, LocalFolder):
        if data.version is None:
            raise InvalidRequest(f"{data!r} has no name in a workspace", hint="Dataset.create(…)")
        return data
    from leptonai.training.registry import model_name

    made = Dataset.create(model_name(data.name), folder.source, type=folder.type, client=client)
    chosen = data.chosen
    if folder.left_out:
        place = {made.path_of(at): at for at in range(len(made))}
        wanted = range(len(folder)) if chosen is None else chosen.tolist()
        chosen = np.array([place[folder.path_of(at)] for at in wanted], np.int64)
    committed = _Committed(
        made.records, name=made.name, version=made.version, chosen=chosen, part=data.part
    )
    committed.folder_digest = folder.digest
    return committed


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(isinstance(each, str) for each in value)
    return value is None or isinstance(value, bool | int | float | str)


def _told(value: Any) -> str:
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    return f"a {type(value).__name__}"
