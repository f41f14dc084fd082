"""`Model`: what every ready-made model can do, besides being a `torch.nn.Module`.

Shape letters in this file: N samples of a data set, B rows of a batch.
"""

import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from leptonai.data.loader import DataLoader
from leptonai.data.loader.working import parameters
from leptonai.errors import InvalidRequest
from leptonai.training import evaluation
from leptonai.training.feeding import TARGETS, moved, pair_of
from leptonai.training.metrics import metric_named
from leptonai.training.models import saving
from leptonai.training.models.summary import Summary, summarise
from leptonai.training.models.tasks import Task
from leptonai.training.parallel import Plan
from leptonai.training.stepping import call
from leptonai.training.world import World

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from leptonai.client import LeptonClient
    from leptonai.data.chance import Chance
    from leptonai.training.history import History


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
    answers: ClassVar[bool] = True  # inputs with what its task predicts: it is served without code

    task: Task
    classes: tuple[str, ...] | None = None  # their names, where there are some

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
        raise NotImplementedError(f"{type(self).__name__} has no method example()")

    def pair(self, batch: Any, rng: "Generator | None" = None) -> tuple[Any, Any]:
        """Inputs and targets, of a batch of a data set: numpy's arrays, or torch's.

        Args:
            rng: what to draw from: the same for the same batch of the same epoch.
        """
        inputs, targets = pair_of(batch)
        return _only(inputs), targets

    def inputs_of(self, batch: Any) -> Any:
        """What to predict from, of a batch with targets or without."""
        if isinstance(batch, Mapping):
            return _only({name: part for name, part in batch.items() if name not in TARGETS})
        in_parts = isinstance(batch, tuple | list) and len(batch) in (1, 2)
        # A list of texts is one part: the inputs themselves.
        return batch[0] if in_parts and not isinstance(batch[0], str) else batch

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
        return summarise(self, moved(self.example(), self.device))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # --- what one does with it -------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        epochs: int = 10,
        batch_size: int = 32,
        validation_data: Any = None,
        *,
        learning_rate: float = 1e-3,
        seed: int = 0,
        pipeline: Any = None,
        num_workers: int = 1,
        client: "LeptonClient | None" = None,
        resources: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> "History":
        """Learn from the data: here; within a job of several workers, together with them; or, with
        a client, as a job of that workspace, which is followed from here until the model has
        learnt. To interrupt this stops the job.

        Args:
            data: a Dataset, a tuple (inputs, targets) of arrays, or a `DataLoader`, which then
                decides on batch size, order and pipeline.
            validation_data: the same; looked at after each epoch.
            seed: of the order of the data, and of all that draws.
            pipeline: what to do with each batch of numpy arrays, as a `DataLoader` has it.
            num_workers: of the job; within one, as many as it has, if you want to be sure of it.
            client: of the workspace that is to run it. A folder of this machine becomes a dataset
                there, arrays are sent with the job.
            resources: of each worker of the job: cpu, memory (MiB), accelerator_num, ….
            options: of `leptonai.training.Trainer`: optimizer, schedule, precision, register, …

        Raises:
            InvalidRequest: data and model do not go together, an option is none, or something
                cannot be sent to a job; says what.
            JobFailed: the job has failed; ends with what it said last.
        """
        from leptonai.training import Trainer
        from leptonai.training.registry import name_classes

        if client is None:
            check_workers(num_workers)
        if unknown := {*options} - {*inspect.signature(Trainer).parameters}:
            raise InvalidRequest(
                f"there is no option {', '.join(sorted(unknown))}",
                hint="options are those of leptonai.training.Trainer",
            )
        if client is not None:
            from leptonai.training.models.sending import fit_in_job

            name_classes(self, data, pipeline)
            settings = {"learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size}
            Trainer(self, None, pipeline=pipeline, seed=seed, **{**settings, **options})  # checks
            return fit_in_job(
                self,
                data,
                validation=validation_data,
                pipeline=pipeline,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                seed=seed,
                options=options,
                workers=num_workers,
                resources=resources or {},
                client=client,
            )
        loaded = {"pairing": True, "seed": seed, "pipeline": pipeline}
        trainer = Trainer(
            self,
            self.loader_of(data, batch_size, shuffle=True, **loaded),
            validation=None
            if validation_data is None
            else self.loader_of(validation_data, batch_size, **loaded),
            learning_rate=learning_rate,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            **{"metrics": (self.task.metric,), **options},
        )
        name_classes(self, data, pipeline)
        history = trainer.fit()
        self.eval()
        return history

    def evaluate(self, data: Any, batch_size: int = 256) -> Evaluation:
        """Loss and accuracy over all of the data."""
        found = evaluation.evaluate(
            self,
            self._pairs(data, batch_size),
            self.loss,
            {self.task.metric: metric_named(self.task.metric)},
            World(0, 1, self.device),
        )
        return Evaluation(found["loss"], found[self.task.metric])

    def predict(self, data: Any, batch_size: int = 256) -> "NDArray[Any]":
        """[N, …]: the probabilities of the classes, or the values. Of data with targets, its inputs
        are used."""
        parts = []
        for batch in self._batches(data, batch_size):
            inputs = self.inputs_of(batch)
            self.check(inputs)
            with torch.inference_mode():
                outputs = self.task.prediction(call(self, moved(inputs, self.device)))
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

    def _pairs(self, data: Any, batch_size: int) -> Iterator[Any]:
        for number, batch in enumerate(self._batches(data, batch_size)):
            inputs, targets = _tensors(self.pair(batch, np.random.default_rng(number)))
            self.check(inputs, targets)
            yield inputs, targets

    def _batches(self, data: Any, batch_size: int) -> Iterator[Any]:
        """In the order of the data; on no account does the model learn from them."""
        training = self.training
        self.eval()
        try:
            yield from self.loader_of(data, batch_size)
        finally:
            self.train(training)

    def loader_of(
        self, data: Any, batch_size: int, *, pairing: bool = False, **options: Any
    ) -> Any:
        """What gives batches of the data: the data itself, where it does that already.

        Args:
            pairing: of inputs and targets, the first of them checked.
        """
        if isinstance(data, np.ndarray | Tensor):
            data = (data,)
        if isinstance(data, tuple):
            data = tuple(
                each.numpy(force=True) if isinstance(each, Tensor) else each for each in data
            )
        is_set = hasattr(data, "as_columns") or hasattr(data, "__getitem__")
        if isinstance(data, DataLoader) or (hasattr(data, "__iter__") and not is_set):
            return data
        sides = getattr(self, "input_shape", ())
        if len(sides) == 3:
            options["image_size"] = tuple(sides[:2])
        # A table's rows are inputs and targets already.
        if pairing and getattr(options.get("pipeline"), "takes", "") != "table":
            options["pipeline"] = _Pairing(self, options.get("pipeline"))
        return DataLoader(data, batch_size, **options)


def check_workers(asked: int) -> None:
    """Raises:
    InvalidRequest: so many are asked for, and there is nobody to start them.
    """
    said = os.environ.get("WORLD_SIZE", "")
    here = int(said) if said.isdecimal() else 1
    if asked not in (1, here):
        raise InvalidRequest(
            "without a client, fit trains in this process alone",
            hint="model.fit(…, client=LeptonClient()); or put it into a script, and: "
            f"leptonai train --num-workers {max(asked, 1)} SCRIPT",
        )


class _Pairing:
    """A pipeline that ends with inputs and targets, and looks closely at the first batch."""

    def __init__(self, model: Model, before: Any) -> None:
        self._model = model
        self.pipeline = before
        self._before = getattr(before, "transform", before)
        self._checked = False

    def transform(self, batch: Any, rng: "Generator", chance: "Chance | None" = None) -> Any:
        if self._before is not None:
            drawn = {"rng": rng, "chance": chance}
            given = {name: drawn[name] for name in drawn.keys() & parameters(self._before)}
            batch = self._before(batch, **given)
        pair = self._model.pair(batch, rng)
        if not self._checked:
            self._model.check(*_tensors(pair))
            self._checked = True
        return pair


def _only(inputs: Any) -> Any:
    """What a dict holds, where that is one thing: a table may call its one column anything."""
    one = isinstance(inputs, Mapping) and len(inputs) == 1
    return next(iter(inputs.values())) if one else inputs


def _tensors(tree: Any) -> Any:
    if isinstance(tree, np.ndarray):
        return torch.from_numpy(tree)
    if isinstance(tree, Mapping):
        return {name: _tensors(part) for name, part in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(_tensors(part) for part in tree)
    return tree


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value
