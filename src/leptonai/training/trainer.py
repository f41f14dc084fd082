"""`Trainer`: a model learns from data, on however many workers, and goes on exactly where it was.

The loop is short, so that it costs what a loop written by hand costs. All that is not a step (to
look whether the loss is a number, to report, to save, to hear that it must stop) happens at
*meetings*: steps that all ranks agree on beforehand, a few a second.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest
from leptonai.training import randomness
from leptonai.training.averaging import MovingAverage
from leptonai.training.callbacks import Callback, listens
from leptonai.training.evaluation import evaluate
from leptonai.training.exits import exit_by_error, on_stop
from leptonai.training.feeding import (
    Pair,
    dataset_of,
    loader_of,
    moved,
    pair_of,
    pipeline_of,
    rows,
    unsound_rows,
)
from leptonai.training.history import Ended, History
from leptonai.training.losses import Loss, loss_named, usual_loss
from leptonai.training.metrics import metric_named
from leptonai.training.optimizers import MakeOptimizer, make_optimizer
from leptonai.training.parallel import (
    Spread,
    Strategy,
    align,
    recompute_blocks,
    spread,
    unspread,
)
from leptonai.training.pipelining import Pipeline, PipelineStepper
from leptonai.training.progress import Progress
from leptonai.training.saver import Saver, Trained
from leptonai.training.saving import Keep
from leptonai.training.schedules import PLATEAU, schedule_named
from leptonai.training.stepping import Precision, Stepper, precisely
from leptonai.training.tracking import NoTracker, Tracker, ending, tracker_of
from leptonai.training.troubles import explained, not_a_number
from leptonai.training.world import World, enter_world

MEET_EVERY_S = 0.5
MOST_STEPS_BETWEEN = 4_096
STOPPED = 128 + signal.SIGTERM  # exit status of a training that was asked to stop, and saved
ENDS: tuple[Ended | None, ...] = (None, "stopped early", "stopped")  # the later one counts


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
        self._settings = _plain(locals()) | {"model": type(model).__name__}
        exit_by_error()
        for name, value, least in (
            ("epochs", epochs, 1),
            ("batch_size", batch_size, 1),
            ("accumulation", accumulation, 1),
            ("max_steps", max_steps, 1),
            ("save_every", save_every, 1),
            ("warmup_steps", warmup_steps, 0),
            ("patience", patience, 0),
        ):
            if value is not None and value < least:
                raise InvalidRequest(f"{name} is at least {least}, not {value}")
        if not 0 < learning_rate < math.inf:
            raise InvalidRequest(f"learning_rate is above 0, not {learning_rate}")
        if average is not None and not 0 < average < 1:
            raise InvalidRequest(f"average is a decay between 0 and 1, not {average}")
        if not isinstance(model, nn.Module):
            raise InvalidRequest(
                f"the model is a {type(model).__name__}", hint="give a torch.nn.Module"
            )
        schedule_named(schedule, steps=1, warmup=0)
        precisely(precision, "cpu")
        if strategy == "pipeline" and precision == "fp16":
            raise InvalidRequest(
                "a pipeline does not learn in fp16, whose scale each rank would choose for itself",
                hint="precision='bf16'",
            )
        self.model = model
        self.progress = Progress()
        self.history = History()
        self._data, self._validation = train, validation
        self._loss = loss_named(loss) if isinstance(loss, str) else loss
        self._loss = self._loss or getattr(model, "loss", None)
        self._make_optimizer: Callable[[], torch.optim.Optimizer] = lambda: make_optimizer(
            optimizer, model, learning_rate=learning_rate, weight_decay=weight_decay
        )
        self._schedule, self._warmup_steps = schedule, warmup_steps
        self._epochs, self._max_steps = epochs, max_steps or sys.maxsize
        self._batch_size, self._accumulation = batch_size, accumulation
        self._clip_norm = clip_norm
        self._precision: Precision = precision
        self._strategy: Strategy = strategy
        self._recompute, self._compile = recompute, compile
        self._decay = average
        self._metrics = {name: metric_named(name) for name in metrics}
        self._patience = patience
        place = checkpoints or os.environ.get("LEPTON_CHECKPOINT_DIR")
        self._place = Path(place) if place else None
        self._keep, self._save_every = keep or Keep(), save_every
        self._callbacks = tuple(callbacks)
        self._hears_every_step = any(listens(each, "on_step") for each in callbacks)
        self._track = track
        self._pipeline = pipeline
        self._register = register
        if register is not None:
            from leptonai.training.registry import check_can_register

            check_can_register(model, register, pipeline or pipeline_of(train))
        self._seed, self._deterministic = seed, deterministic
        self._device, self._quiet = device, quiet
        self._asked: Ended | None = None  # by this rank
        self._agreed: Ended | None = None  # by all
        self._spread: Spread | None = None  # while it learns

    # --- what people call ------------------------------------------------------------------------

    def fit(self) -> History:
        """Train until it is done. Called in every worker.

        A stop (SIGTERM, as before preemption) is answered with a checkpoint, and then the process
        exits: what follows `fit` is for a model that is trained.

        Raises:
            InvalidRequest: data, model and loss do not go together; says where.
            NotANumber: the loss is none any more; says at which samples.
            Conflict, Unavailable: the workers did not come together.
        """
        with randomness.deterministic(self._deterministic), on_stop(self._stop_asked):
            self._set_up(enter_world(self._device))
            with ending(self._tracker):
                try:
                    self._run()
                    self._wrap_up()
                finally:
                    if self._saver is not None:
                        self._saver.wait()
                if self._agreed == "stopped":
                    self._tell("stopped; the same command goes on from the checkpoint")
                    raise SystemExit(STOPPED)
        return self.history

    def evaluate(self, data: Any) -> dict[str, float]:
        """The loss and the metrics over all samples; on all workers, each its part."""
        spreading = self._spread
        if spreading is None:
            world = enter_world(self._device)
            spreading = unspread(self.model.to(world.device), world)
        return self._evaluated(self._loader_for(data, spreading.sharing), spreading)

    def stop(self) -> None:
        """End at the next meeting. For callbacks."""
        self._asked = self._asked or "stopped early"

    # --- setting up ------------------------------------------------------------------------------

    def _set_up(self, world: World) -> None:
        self.world = world
        self.model.to(world.device)
        if self._recompute:
            recompute_blocks(self.model)
        spreading = self._spread = spread(self.model, self._strategy, world)
        self._sharing, self._adding = spreading.sharing, spreading.adding
        randomness.seed_all(self._seed, self._sharing.rank, world.device)
        self._learner: Any = spreading.learner
        if self._compile:
            self._learner.compile()
        self._optimizer = self._make_optimizer()
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._average = None if self._decay is None else MovingAverage(self.model, self._decay)
        self._loader = loader_of(
            self._data,
            self._sharing,
            batch_size=self._batch_size,
            shuffle=True,
            seed=self._seed,
            pipeline=self._pipeline,
        )
        self._knows_its_place = hasattr(self._loader, "load_state_dict")
        self._validation_loader = (
            None if self._validation is None else self._loader_for(self._validation, self._sharing)
        )
        self._stepper: Stepper | None = None
        self._scaled: dict[str, Any] | None = None  # what a checkpoint says of the scaler
        self._losses: list[Tensor] = []  # of the steps since the last meeting
        self._places: list[int] = []  # where in the epoch each of them began
        self._samples = 0
        self._began_at = self._met_at = time.monotonic()
        self._tracker: Tracker = self._new_tracker() if world.is_first else NoTracker()
        self._saver = self._new_saver(world)
        if self._saver is not None and (saved := self._saver.find(self._tell)) is not None:
            self._resume(saved.facts)
            self._saver.restore(saved)
            self._tell(f"going on from {saved.path.name}, epoch {self.progress.epoch + 1}")
            self._tracker.resume(self.progress.step)
        progress = self.progress
        self._met_step = progress.step
        self._next_meeting: float = progress.step + 1
        an_epoch = len(self._loader) if hasattr(self._loader, "__len__") else sys.maxsize
        self._last_step = min(self._epochs * an_epoch, self._max_steps)
        self._factor = schedule_named(
            self._schedule, steps=self._last_step, warmup=self._warmup_steps
        )
        self._adapts = self._schedule not in (None, "constant") or self._warmup_steps > 0
        for callback in self._callbacks:
            callback.on_start(self)

    def _loader_for(self, data: Any, world: World) -> Any:
        """To look at, and not to learn from."""
        return loader_of(
            data,
            world,
            batch_size=max(self._batch_size, world.size),
            shuffle=False,
            seed=self._seed,
            pipeline=self._pipeline,
            to_learn=False,
        )

    def _new_tracker(self) -> Tracker:
        named = {"train": dataset_of(self._data), "validation": dataset_of(self._validation)}
        datasets = {
            role: data for role, data in named.items() if getattr(data, "version", None) is not None
        }
        return tracker_of(self._track, self._settings, datasets)

    def _new_saver(self, world: World) -> Saver | None:
        if self._place is None:
            return None
        return Saver(
            self._place,
            world,
            Trained(
                self.model,
                self._optimizer,
                self._average.weights if self._average else {},
                isinstance(self._learner, Pipeline),
            ),
            keep=self._keep,
            every_steps=self._save_every,
            before=self._tracker.flush,
            after=self._saved,
        )

    def _resume(self, facts: Mapping[str, Any]) -> None:
        self.progress = Progress.from_facts(facts)
        self.history.resumed_from = self.progress.step
        self._accumulation = max(self._accumulation, facts["accumulation"])
        self._scaled = facts["scaler"]
        if facts["loader"] is not None and self._knows_its_place:
            self._loader.load_state_dict(facts["loader"])
        elif self.progress.loss_steps:
            self._tell("the loader cannot say where it is: the epoch begins anew")
            self.progress.loss_sum, self.progress.loss_steps = 0.0, 0
        # For ranks that were not there before; the others draw on where they were.
        seed = self._seed + self.progress.step
        randomness.seed_all(seed, self._sharing.rank, self.world.device)

    def _new_stepper(self, first: Pair, of_all: int) -> Stepper:
        """By the first batch, which tells what was not said."""
        if unsound := unsound_rows(first.inputs):
            raise InvalidRequest(
                f"{len(unsound)} samples of the first batch hold numbers that are not finite, the "
                f"first of them in row {unsound[0]}",
                hint="clean the data: a pipeline can impute or drop them",
            )
        make = PipelineStepper if isinstance(self._learner, Pipeline) else Stepper
        stepper = make(
            self._learner,
            self._loss or usual_loss(first.targets),
            self._optimizer,
            self._sharing,
            precision=self._precision,
            accumulation=self._accumulation,
            clip_norm=self._clip_norm,
            tell=self._say,
        )
        if self._scaled and stepper.scaler is not None:
            stepper.scaler.load_state_dict(self._scaled)
        if self.world.size > 1:
            with self._explained(first):
                stepper.warm_up(first, of_all)
        return stepper

    def _explained(self, batch: Pair) -> AbstractContextManager[None]:
        whole = isinstance(self._learner, Pipeline)
        return explained(self.model, batch, self._learner.rehearse if whole else None)

    # --- the loop --------------------------------------------------------------------------------

    def _run(self) -> None:
        self._learner.train()
        progress = self.progress
        while progress.epoch < self._epochs and not self._agreed:
            if progress.step < self._last_step:
                self._run_epoch()
            if self._agreed:
                break
            self._end_epoch()
            if progress.step >= self._last_step:
                break
        if self._stepper is None and self.history.resumed_from is None:
            raise InvalidRequest("the data gave no batch", hint="use more data, or smaller batches")

    def _run_epoch(self) -> None:
        """To its end, or to the last step, or until all agree to end."""
        progress, loader, stepper = self.progress, self._loader, self._stepper
        device, ranks = self.world.device, self._sharing.size
        position = loader.position if self._knows_its_place else 0
        for batch in loader:
            pair = moved(pair_of(batch), device)
            end = loader.position if self._knows_its_place else 0
            of_all = end - position or rows(pair.inputs) * ranks
            if self._adapts:
                self._set_learning_rate()
            if stepper is None:
                stepper = self._stepper = self._new_stepper(pair, of_all)
                with self._explained(pair):
                    share = stepper.take(pair, of_all)
            else:
                share = stepper.take(pair, of_all)
            if self._average is not None:
                self._average.move(progress.step)
            self._losses.append(share)
            self._places.append(position)
            self._samples += of_all
            position = end
            progress.step += 1
            if progress.step >= self._next_meeting or progress.step >= self._last_step:
                self._meet()
                if self._agreed or progress.step >= self._last_step:
                    return
        if self._losses:
            self._meet()

    def _set_learning_rate(self) -> None:
        factor = self._factor(self.progress.step)
        if self._schedule == PLATEAU:
            factor *= self.progress.plateau.factor
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    # --- meetings --------------------------------------------------------------------------------

    def _meet(self) -> None:
        """All ranks look at the steps since the last meeting, and agree on what comes next."""
        progress, saver = self.progress, self._saver
        losses = self._adding.sums(torch.stack(self._losses).double()).tolist()
        first = progress.step - len(losses) + 1
        for at, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise self._no_number(first + at, self._places[at], loss)
        self._losses.clear()
        self._places.clear()
        progress.add_losses(losses)
        self._tracker.log_steps(first, losses, self._optimizer.param_groups[0]["lr"])
        if self._hears_every_step:
            for at, loss in enumerate(losses):
                for callback in self._callbacks:
                    callback.on_step(self, first + at, loss)
        now = time.monotonic()
        due = saver is not None and saver.is_due(progress.step, self._trained_s(now))
        step_s = (now - self._met_at) / max(1, progress.step - self._met_step)
        self._met_at, self._met_step = now, progress.step
        save, step_s = self._agree(due, step_s)
        if self._hears_every_step:
            self._next_meeting = progress.step + 1
        else:
            ahead = max(1, min(MOST_STEPS_BETWEEN, int(MEET_EVERY_S / max(step_s, 1e-6))))
            forced = saver.next_due(progress.step) if saver is not None else math.inf
            self._next_meeting = min(progress.step + ahead, forced)
        if save or self._agreed == "stopped":
            self._save()

    def _agree(self, due: bool, step_s: float = 0.0) -> tuple[bool, float]:
        """Whether to save, and the pace of the slowest; and whether to end."""
        mine = [float(due and self.world.is_first), step_s, float(ENDS.index(self._asked))]
        save, step_s, ending = self.world.most(mine)
        self._agreed = ENDS[int(ending)]
        return bool(save), step_s

    def _stop_asked(self) -> None:
        """By a signal, in the middle of anything."""
        self._asked = "stopped"
        if self.world.size == 1:
            self._next_meeting = 0

    def _no_number(self, step: int, position: int, loss: float) -> InvalidRequest:
        if self._saver is not None:
            self._saver.wait()
        return not_a_number(
            step=step,
            epoch=self.progress.epoch + 1,
            loss=loss,
            samples=self._loader.samples_at(position) if self._knows_its_place else (),
            checkpoint=self._saver.newest_name() if self._saver is not None else "",
        )

    # --- epochs ----------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        validated: Mapping[str, float] = {}
        if self._validation_loader is not None:
            with self._average.lent() if self._average else nullcontext():
                assert self._spread is not None, "it has been set up"
                validated = self._evaluated(self._validation_loader, self._spread)
        progress = self.progress
        metrics = progress.end_epoch(validated)
        if self._knows_its_place:
            self._loader.end_epoch()
        self._tracker.log_epoch(metrics, progress.step)
        rate = self._samples / max(1e-9, time.monotonic() - self._began_at)
        self.history.samples_per_s = rate
        told = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._tell(f"epoch {progress.epoch}/{self._epochs}  {told}  {rate:,.0f} samples/s")
        for callback in self._callbacks:
            callback.on_epoch(self, progress.epoch, metrics)
        if self._patience is not None and progress.epochs_since_best > self._patience:
            self._tell(f"no better for {progress.epochs_since_best} epochs: stopping")
            self.stop()
        self._agree(due=False)

    def _evaluated(self, loader: Any, spreading: Spread) -> dict[str, float]:
        # What each rank remembers of its own batches (of normalisation, say) differs until here.
        align(self.model.buffers(), spreading.sharing)
        with precisely(self._precision, spreading.sharing.device.type):
            return evaluate(
                spreading.evaluated,
                loader,
                self._loss,
                self._metrics,
                spreading.adding,
                in_lockstep=spreading.in_lockstep,
            )

    def _wrap_up(self) -> None:
        progress = self.progress
        self.history.epochs = progress.epochs
        self.history.steps = progress.step
        self.history.ended = self._agreed or "finished"
        if self._agreed != "stopped":
            if self._saver is not None and progress.step != self._saver.saved_step:
                self._save()
            if self._average is not None:
                self._average.give()
            if isinstance(self._learner, Pipeline):
                self._learner.complete()
                self._spread = None
            for callback in self._callbacks:
                callback.on_end(self)
            if self._register is not None:
                self._register_model(self._register)
        self._tracker.flush()

    def _register_model(self, name: str) -> None:
        from leptonai.training.registry import register

        made = register(self.model, name, data=self._loader, metrics=self.history.last)
        if made is not None:
            self.history.registered = made.reference
            self._tell(f"registered the model {self.history.registered}")

    # --- checkpoints -----------------------------------------------------------------------------

    def _save(self) -> None:
        if self._saver is None or self._stepper is None:
            return
        scaler = self._stepper.scaler
        now_facts = self.progress.to_facts() | {
            "trained_s": self._trained_s(time.monotonic()),
            "loader": self._loader.state_dict() if self._knows_its_place else None,
            "accumulation": self._stepper.accumulation,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "world_size": self.world.size,
        }
        self._saver.save(self.progress.step, now_facts)

    def _saved(self, step: int) -> None:
        self._tracker.checkpointed()
        for callback in self._callbacks:
            callback.on_checkpoint(self, step)

    def _trained_s(self, now: float) -> float:
        """Over all attempts."""
        return self.progress.trained_s + now - self._began_at

    def _tell(self, text: str) -> None:
        if self.world.is_first:
            self._say(text)

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those that can be written down as they are."""
    return {
        name: value for name, value in arguments.items() if isinstance(value, str | int | float)
    }
