"""`Fit`: one training under way.

The loop is short, so that it costs what a loop written by hand costs. All that is not a step (to
look whether the loss is a number, to report, to save, to hear that it must stop) happens at
*meetings*: steps that all ranks agree on beforehand, a few a second.
"""

import math
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leptonai.errors import InvalidRequest
from leptonai.training import randomness
from leptonai.training.asked import Asked
from leptonai.training.averaging import MovingAverage
from leptonai.training.callbacks import Listeners
from leptonai.training.evaluation import evaluate
from leptonai.training.feeding import Pair, dataset_of, moved, pair_of, rows, unsound_rows
from leptonai.training.history import Ended, History
from leptonai.training.losses import usual_loss
from leptonai.training.parallel import Spread, align, recompute_blocks, spread
from leptonai.training.pipelining import Pipeline, PipelineStepper
from leptonai.training.progress import Progress
from leptonai.training.saver import Saver, Trained
from leptonai.training.saving import Keep
from leptonai.training.schedules import PLATEAU, schedule_named
from leptonai.training.stepping import Stepper, precisely
from leptonai.training.tracking import NoTracker, Tracker, tracker_of
from leptonai.training.troubles import explained, not_a_number
from leptonai.training.world import World

MEET_EVERY_S = 0.5
MOST_STEPS_BETWEEN = 4_096
ENDS: tuple[Ended | None, ...] = (None, "stopped early", "stopped")  # the later one counts


@dataclass
class Wish:
    """How this rank wants its training to end, if it does. A signal may say so at any time."""

    ending: Ended | None = None

    def stop_early(self) -> None:
        self.ending = self.ending or "stopped early"

    def stop(self) -> None:
        self.ending = "stopped"


class Fit:
    """It begins where the newest checkpoint is, if there is one."""

    def __init__(
        self,
        asked: Asked,
        world: World,
        history: History,
        listeners: Listeners,
        wish: Wish,
    ) -> None:
        """
        Args:
            history: is added to.
        """
        self.world = world
        self.progress = Progress()
        self._asked = asked
        self._history = history
        self._listeners = listeners
        self._wish = wish
        self._agreed: Ended | None = None  # by all
        self._model = asked.model.to(world.device)
        if asked.recompute:
            recompute_blocks(self._model)
        spreading = spread(self._model, asked.strategy, world)
        self.spread: Spread | None = spreading  # while it learns
        self._sharing, self._adding = spreading.sharing, spreading.adding
        randomness.seed_all(asked.seed, self._sharing.rank, world.device)
        self._learner: Any = spreading.learner
        if asked.compile:
            self._learner.compile()
        self._optimizer = asked.make_optimizer()
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._average = None if asked.average is None else MovingAverage(self._model, asked.average)
        self._loader = asked.loader(self._sharing)
        self._knows_its_place = hasattr(self._loader, "load_state_dict")
        self._validation_loader = (
            None
            if asked.validation is None
            else asked.loader_to_evaluate(asked.validation, self._sharing)
        )
        self._accumulation = asked.accumulation
        self._stepper: Stepper | None = None
        self._scaled: dict[str, Any] | None = None  # what a checkpoint says of the scaler
        self._losses: list[Tensor] = []  # of the steps since the last meeting
        self._places: list[int] = []  # where in the epoch each of them began
        self._samples = 0
        self._began_at = self._met_at = time.monotonic()
        self.tracker: Tracker = self._new_tracker() if world.is_first else NoTracker()
        self._saver = self._new_saver(world)
        if self._saver is not None and (saved := self._saver.find(self._tell)) is not None:
            self._resume(saved.facts)
            self._saver.restore(saved)
            self._tell(f"going on from {saved.path.name}, epoch {self.progress.epoch + 1}")
            self.tracker.resume(self.progress.step)
        progress = self.progress
        self._met_step = progress.step
        self._next_meeting: float = progress.step + 1
        an_epoch = len(self._loader) if hasattr(self._loader, "__len__") else sys.maxsize
        self._last_step = min(asked.epochs * an_epoch, asked.max_steps or sys.maxsize)
        self._factor = schedule_named(
            asked.schedule, steps=self._last_step, warmup=asked.warmup_steps
        )
        self._adapts = asked.schedule not in (None, "constant") or asked.warmup_steps > 0

    def run(self) -> Ended:
        """To its end, which it returns."""
        try:
            self._run()
            self._wrap_up()
        finally:
            if self._saver is not None:
                self._saver.wait()
        if self._agreed == "stopped":
            self._tell("stopped; the same command goes on from the checkpoint")
        return self._history.ended

    def meet_soon(self) -> None:
        """After this step, where no other rank needs to know beforehand."""
        if self.world.size == 1:
            self._next_meeting = 0

    # --- setting up ------------------------------------------------------------------------------

    def _new_tracker(self) -> Tracker:
        asked = self._asked
        named = {"train": dataset_of(asked.train), "validation": dataset_of(asked.validation)}
        datasets = {
            role: data for role, data in named.items() if getattr(data, "version", None) is not None
        }
        return tracker_of(asked.track, asked.plain(), datasets)

    def _new_saver(self, world: World) -> Saver | None:
        place = self._asked.place
        if place is None:
            return None
        return Saver(
            place,
            world,
            Trained(
                self._model,
                self._optimizer,
                self._average.weights if self._average else {},
                isinstance(self._learner, Pipeline),
            ),
            keep=self._asked.keep or Keep(),
            every_steps=self._asked.save_every,
            before=self.tracker.flush,
            after=self._saved,
        )

    def _resume(self, facts: Mapping[str, Any]) -> None:
        self.progress = Progress.from_facts(facts)
        self._history.resumed_from = self.progress.step
        self._accumulation = max(self._accumulation, facts["accumulation"])
        self._scaled = facts["scaler"]
        if facts["loader"] is not None and self._knows_its_place:
            self._loader.load_state_dict(facts["loader"])
        elif self.progress.loss_steps:
            self._tell("the loader cannot say where it is: the epoch begins anew")
            self.progress.loss_sum, self.progress.loss_steps = 0.0, 0
        # For ranks that were not there before; the others draw on where they were.
        seed = self._asked.seed + self.progress.step
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
            self._asked.loss_function or usual_loss(first.targets),
            self._optimizer,
            self._sharing,
            precision=self._asked.precision,
            accumulation=self._accumulation,
            clip_norm=self._asked.clip_norm,
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
        return explained(self._model, batch, self._learner.rehearse if whole else None)

    # --- the loop --------------------------------------------------------------------------------

    def _run(self) -> None:
        self._learner.train()
        progress = self.progress
        while progress.epoch < self._asked.epochs and not self._agreed:
            if progress.step < self._last_step:
                self._run_epoch()
            if self._agreed:
                break
            self._end_epoch()
            if progress.step >= self._last_step:
                break
        if self._stepper is None and self._history.resumed_from is None:
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
        if self._asked.schedule == PLATEAU:
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
        self.tracker.log_steps(first, losses, self._optimizer.param_groups[0]["lr"])
        self._listeners.steps(first, losses)
        now = time.monotonic()
        due = saver is not None and saver.is_due(progress.step, self._trained_s(now))
        step_s = (now - self._met_at) / max(1, progress.step - self._met_step)
        self._met_at, self._met_step = now, progress.step
        save, step_s = self._agree(due, step_s)
        if self._listeners.hear_every_step:
            self._next_meeting = progress.step + 1
        else:
            ahead = max(1, min(MOST_STEPS_BETWEEN, int(MEET_EVERY_S / max(step_s, 1e-6))))
            forced = saver.next_due(progress.step) if saver is not None else math.inf
            self._next_meeting = min(progress.step + ahead, forced)
        if save or self._agreed == "stopped":
            self._save()

    def _agree(self, due: bool, step_s: float = 0.0) -> tuple[bool, float]:
        """Whether to save, and the pace of the slowest; and whether to end."""
        mine = [float(due and self.world.is_first), step_s, float(ENDS.index(self._wish.ending))]
        save, step_s, ending = self.world.most(mine)
        self._agreed = ENDS[int(ending)]
        return bool(save), step_s

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
                assert self.spread is not None, "it is learning"
                validated = evaluated(self._asked, self._validation_loader, self.spread)
        progress = self.progress
        metrics = progress.end_epoch(validated)
        if self._knows_its_place:
            self._loader.end_epoch()
        self.tracker.log_epoch(metrics, progress.step)
        rate = self._samples / max(1e-9, time.monotonic() - self._began_at)
        self._history.samples_per_s = rate
        told = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._tell(f"epoch {progress.epoch}/{self._asked.epochs}  {told}  {rate:,.0f} samples/s")
        self._listeners.epoch(progress.epoch, metrics)
        patience = self._asked.patience
        if patience is not None and progress.epochs_since_best > patience:
            self._tell(f"no better for {progress.epochs_since_best} epochs: stopping")
            self._wish.stop_early()
        self._agree(due=False)

    def _wrap_up(self) -> None:
        progress = self.progress
        self._history.epochs = progress.epochs
        self._history.steps = progress.step
        self._history.ended = self._agreed or "finished"
        if self._agreed != "stopped":
            if self._saver is not None and progress.step != self._saver.saved_step:
                self._save()
            if self._average is not None:
                self._average.give()
            if isinstance(self._learner, Pipeline):
                self._learner.complete()
                self.spread = None
            self._listeners.end()
            if self._asked.register is not None:
                self._register_model(self._asked.register)
        self.tracker.flush()

    def _register_model(self, name: str) -> None:
        from leptonai.training.registry import register

        made = register(self._model, name, data=self._loader, metrics=self._history.last)
        if made is not None:
            self._history.registered = made.reference
            self._tell(f"registered the model {self._history.registered}")

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
        self.tracker.checkpointed()
        self._listeners.checkpoint(step)

    def _trained_s(self, now: float) -> float:
        """Over all attempts."""
        return self.progress.trained_s + now - self._began_at

    def _tell(self, text: str) -> None:
        if self.world.is_first:
            self._say(text)

    def _say(self, text: str) -> None:
        if not self._asked.quiet:
            print(text, flush=True)


def evaluated(asked: Asked, loader: Any, spreading: Spread) -> dict[str, float]:
    """The loss and the metrics that are asked for, over all that is loaded."""
    # What each rank remembers of its own batches (of normalisation, say) differs until here.
    align(asked.model.buffers(), spreading.sharing)
    with precisely(asked.precision, spreading.sharing.device.type):
        return evaluate(
            spreading.evaluated,
            loader,
            asked.loss_function,
            asked.measures,
            spreading.adding,
            in_lockstep=spreading.in_lockstep,
        )
