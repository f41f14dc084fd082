"""`Model`: what every ready-made model can do, besides being a `torch.nn.Module`.

Shape letters in this file: N samples of a data set, B rows of a batch.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from leptonai.data.loader import DataLoader
from leptonai.errors import InvalidRequest
from leptonai.training.models import saving
from leptonai.training.models.plan import Plan
from leptonai.training.models.summary import Summary, summarise
from leptonai.training.models.tasks import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Evaluation(NamedTuple):
    """``loss, accuracy = model.evaluate(data)``"""

    loss: float
    accuracy: float  # the share that was right; of values R², the share of their spread explained


class Model(nn.Module):
    """A network that says how it is built, takes raw inputs, and knows what its outputs mean.

    A class of your own is a model once it follows these rules::

        class Line(Model, format="my-line"):
            def __init__(self, slope: float = 1.0) -> None:
                super().__init__()
                self.slope = slope               # every argument is kept under its own name
                self.task = Values()             # or Classes(10)
                …
            def forward(self, inputs): …
            def example(self, count=1): …        # inputs as it takes them

    A buffer is persistent: all that a model needs is in its arguments and its `state_dict`.
    New weights come from torch's global random numbers: ``torch.manual_seed(0)`` before a model is
    made gives the same ones each time.
    """

    format: ClassVar[str] = ""  # its name on disk
    format_version: ClassVar[int] = 1
    built_on: ClassVar[str] = "meta"  # the device that it is built on before weights are loaded

    task: Task

    def __init_subclass__(cls, *, format: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if format:
            cls.format = format
            saving.register(format, cls)

    # --- what a model is -------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """What ``type(self)(**config)`` makes the same network from; JSON can say it."""
        return {
            name: _plain(getattr(self, name))
            for name in inspect.signature(type(self).__init__).parameters
            if name != "self"
        }

    def example(self, count: int = 1) -> Any:
        """Inputs that the model takes, of nothing."""
        raise NotImplementedError

    def pair(self, batch: Any) -> tuple[Any, Tensor]:
        """Inputs and targets, of what a data set gives."""
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise InvalidRequest(
                f"{type(self).__name__} learns from (inputs, targets), got {_described(batch)}",
                hint="give a data set with labels, or a tuple of two arrays of one length",
            )
        return batch[0], batch[1]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over a batch: what training makes smaller."""
        return self.task.loss(outputs, targets)

    def check(self, inputs: Any, targets: Tensor | None = None) -> None:
        """What is too dear to look at in every step: wild numbers in inputs and targets.

        Raises:
            InvalidRequest: says which, and where.
        """
        self.check_inputs(inputs)
        if targets is not None:
            self.task.check(targets)

    def check_inputs(self, inputs: Any) -> None:
        """Their values. Shapes are checked by `forward`."""

    def plan(self) -> Plan:
        """Where to cut it for more than one device. Uncut, unless a class says more."""
        return Plan()

    def summary(self) -> Summary:
        """Its layers: print it."""
        return summarise(self, _on(self.device, self.example()))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # --- what one does with it -------------------------------------------------------------------

    def evaluate(self, data: Any, batch_size: int = 256) -> Evaluation:
        """Loss and accuracy over all of the data."""
        losses, sums, count = 0.0, None, 0
        for batch in self._batches(data, batch_size):
            inputs, targets = self.pair(batch)
            self.check(inputs, targets)
            with torch.inference_mode():
                outputs = self(_on(self.device, inputs))
                targets = targets.to(self.device)
                counted = self.task.count(outputs, targets)
                if counted.targets:
                    losses += self.loss(outputs, targets).item() * counted.targets
            sums = counted.sums if sums is None else sums + counted.sums
            count += counted.targets
        if sums is None or not count:
            raise InvalidRequest("there is nothing in the data to evaluate with")
        return Evaluation(losses / count, self.task.score(sums, count))

    def predict(self, data: Any, batch_size: int = 256) -> "NDArray[Any]":
        """[N, …]: the probabilities of the classes, or the values. Of data with targets, its inputs
        are used."""
        parts = []
        for batch in self._batches(data, batch_size):
            inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else batch
            if isinstance(inputs, tuple | list) and len(inputs) == 1:
                inputs = inputs[0]
            self.check(inputs)
            with torch.inference_mode():
                outputs = self.task.prediction(self(_on(self.device, inputs)))
            parts.append(outputs.float().cpu().numpy())
        if not parts:
            raise InvalidRequest("there is nothing in the data to predict from")
        return np.concatenate(parts)

    def save(self, path: str | Path, *, pipeline: Any = None) -> None:
        """As one file ("name.pth"), or as a directory (a path without an ending); see `saving`."""
        saving.save_model(self, path, pipeline)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The model that was saved, in evaluation mode.

        Raises:
            NotFound, InvalidRequest: there is none, or a damaged one, or one of another class.
        """
        model = saving.load_model(path)
        if not isinstance(model, cls):
            raise InvalidRequest(
                f"{path} holds a {type(model).__name__}, not a {cls.__name__}",
                hint=f"{type(model).__name__}.load({str(path)!r})",
            )
        return model

    def _batches(self, data: Any, batch_size: int) -> Iterator[Any]:
        """In the order of the data; on no account does the model learn from them."""
        training = self.training
        self.eval()
        try:
            yield from loader_of(self, data, batch_size)
        finally:
            self.train(training)


def loader_of(model: Model, data: Any, batch_size: int, **options: Any) -> Any:
    """What gives batches of the data: the data itself, where it does that already."""
    if isinstance(data, np.ndarray | Tensor):
        data = (data,)
    if not hasattr(data, "as_columns") and (
        isinstance(data, DataLoader)
        or (hasattr(data, "__iter__") and not isinstance(data, Mapping | Sequence))
    ):
        return data
    sides = getattr(model, "input_shape", ())
    if len(sides) == 3:
        options["image_size"] = tuple(sides[:2])
    return DataLoader(data, batch_size, **options)


def _on(device: torch.device, inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, Mapping):
        return {name: _on(device, value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_on(device, value) for value in inputs)
    return inputs


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value


def _described(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"one tensor of shape {list(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"a dict of {', '.join(map(str, batch))}"
    if isinstance(batch, tuple | list):
        return f"{len(batch)} parts"
    return f"a {type(batch).__name__}"
