"""`Trainer`: a model learns from data, on however many workers, and goes on where it was."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from leptonai.training import randomness
from leptonai.training.asked import Asked
from leptonai.training.callbacks import Callback, Listeners
from leptonai.training.exits import exit_by_error, on_stop
from leptonai.training.fitting import Fit, Wish, evaluated
from leptonai.training.history import History
from leptonai.training.losses import Loss
from leptonai.training.optimizers import MakeOptimizer
from leptonai.training.parallel import Strategy, unspread
from leptonai.training.progress import Progress
from leptonai.training.saving import Keep
from leptonai.training.stepping import Precision
from leptonai.training.tracking import ending
from leptonai.training.world import World, enter_world

STOPPED = 128 + signal.SIGTERM  # exit status of a training that was asked to stop, and saved


class Trainer:
    """Everything about a training but its data's content. `fit` runs it, once."""

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        *,
        validation: Any = None,
        loss: str | Loss | None = None,
        optimizer: str | MakeOptimizer = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        schedule: str | None = None,
        warmup_steps: int = 0,
        epochs: int = 1,
        max_steps: int | None = None,
        batch_size: int = 32,
        accumulation: int = 1,
        clip_norm: float | None = None,
        precision: Precision = "fp32",
        strategy: Strategy = "auto",
        recompute: bool = False,
        compile: bool = False,
        average: float | None = None,
        metrics: Sequence[str] = (),
        patience: int | None = None,
        checkpoints: str | Path | None = None,
        keep: Keep | None = None,
        save_every: int | None = None,
        callbacks: Sequence[Callback] = (),
        track: bool | None = None,
        pipeline: Any = None,
        register: str | None = None,
        seed: int = 0,
        deterministic: bool = False,
        device: str | None = None,
        quiet: bool = False,
    ) -> None:
        """
        Args:
            model: what takes a batch's inputs and gives outputs. If it has a method
                ``loss(outputs, targets)``, that is the loss unless another is given.
            train: a Dataset, a tuple (inputs, targets) of arrays, a `DataLoader`, or any iterable
                of batches, which is then taken to be this rank's own.
            validation: the same; looked at after each epoch.
            loss: by name, or a function (outputs, targets) -> the mean over the rows. By default
                cross entropy where targets are whole numbers, else the squared error.
            optimizer: by name, or what makes one of groups of parameters.
            schedule: of the learning rate: constant, linear, cosine, one cycle, plateau.
            batch_size: of a step, over all ranks: another number of ranks changes nothing of it.
            accumulation: pieces that a rank's part of a batch is taken in, one after the other. A
                pipeline takes as many as it has ranks at least, and better several times as many.
            clip_norm: the gradient is scaled down to this norm where it is larger.
            precision: of what is computed (autocast); weights stay as they are.
            strategy: "ddp" (each rank has the model), "fsdp" (each has a part of it), "tensor"
                (each computes a part of each layer) or "pipeline" (each computes some of the
                layers, of one piece of a batch after the other); the last two as the model's
                `plan()` says.
            recompute: keep only what goes into the model's blocks, and compute the rest again.
            compile: by torch.compile.
            average: decay of a moving average of the weights (0.999, say), which is what is
                evaluated and what the model has at the end.
            patience: stop when the loss ("val_loss", if there is validation) has not become better
                for so many epochs.
            checkpoints: a directory that all ranks reach. What is there is gone on from. Within a
                job one is given by $LEPTON_CHECKPOINT_DIR, if you give none.
            save_every: steps between two checkpoints. By default what they cost and how often
                something failed decide.
            track: log to a run; by default within a job.
            pipeline: what makes inputs of samples; for a Dataset alone.
            register: the name that the trained model becomes a version of, with its pipeline; see
                `leptonai.training.register`.
            seed: of the order of the data, and of all that draws.
            deterministic: the same numbers each time, also where that is slower.

        Raises:
            InvalidRequest: an argument is out of range, or names nothing that there is.
        """
        arguments = {name: value for name, value in locals().items() if name != "self"}
        exit_by_error()
        self.model = model
        self.history = History()
        self._asked = Asked(**arguments)
        self._listeners = Listeners(callbacks, self)
        self._fit: Fit | None = None
        self._wish = Wish()

    def fit(self) -> History:
        """Train until it is done. Called in every worker.

        A stop (SIGTERM, as before preemption) is answered with a checkpoint, and then the process
        exits: what follows `fit` is for a model that is trained.

        Raises:
            InvalidRequest: data, model and loss do not go together; says where.
            NotANumber: the loss is none any more; says at which samples.
            Conflict, Unavailable: the workers did not come together.
        """
        with randomness.deterministic(self._asked.deterministic), on_stop(self._stop_asked):
            fit = self._fit = Fit(
                self._asked,
                enter_world(self._asked.device),
                self.history,
                self._listeners,
                self._wish,
            )
            self._listeners.start()
            with ending(fit.tracker):
                if fit.run() == "stopped":
                    raise SystemExit(STOPPED)
        return self.history

    def evaluate(self, data: Any) -> dict[str, float]:
        """The loss and the metrics over all samples; on all workers, each its part."""
        spreading = self._fit.spread if self._fit is not None else None
        if spreading is None:
            world = enter_world(self._asked.device)
            spreading = unspread(self.model.to(world.device), world)
        loader = self._asked.loader_to_evaluate(data, spreading.sharing)
        return evaluated(self._asked, loader, spreading)

    def stop(self) -> None:
        """End at the next meeting. For callbacks."""
        self._wish.stop_early()

    @property
    def progress(self) -> Progress:
        return Progress() if self._fit is None else self._fit.progress

    @property
    def world(self) -> World:
        """All workers, and which of them this is."""
        assert self._fit is not None, "they have not come together"
        return self._fit.world

    def _stop_asked(self) -> None:
        """By a signal, in the middle of anything."""
        self._wish.stop()
        if self._fit is not None:
            self._fit.meet_soon()
