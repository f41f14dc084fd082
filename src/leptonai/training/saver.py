"""`Saver`: a training's checkpoints, from when one is due to what is read back."""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest
from leptonai.training import randomness, state
from leptonai.training.checkpoints import (
    Part,
    Saved,
    Snapshot,
    Writer,
    discard,
    facts_at,
    name_of,
    newest,
    steps_in,
)
from leptonai.training.saving import Keep, interval_s, to_discard
from leptonai.training.world import World

FIRST_COST_S = 0.1  # before one was measured


@dataclass(frozen=True)
class Trained:
    """The tensors that a training changes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Mapping[str, Tensor]
    divided: bool = False  # a rank has whole tensors that others lack

    def tensors(self) -> dict[str, Tensor]:
        return state.tensors_of(self.model, self.optimizer, self.average)


class Saver:
    """Every rank has one, and they save at the same step."""

    def __init__(
        self,
        place: Path,
        world: World,
        trained: Trained,
        *,
        keep: Keep,
        every_steps: int | None,
        before: Callable[[], None],
        after: Callable[[int], None],
    ) -> None:
        """
        Args:
            every_steps: between two; None to have cost and failures decide.
            before: is called in that thread when a checkpoint is about to be there.
            after: is told, in another thread of rank 0, of the step that is on the disk.
        """
        self.place = place
        self._world = world
        self._trained = trained
        self._keep = keep
        self._every_steps = every_steps
        self._before, self._after = before, after
        self._cost_s = FIRST_COST_S
        self._began_at = self._saved_at = time.monotonic()
        self._failures = int(os.environ.get("LEPTON_JOB_FAILURE_COUNT") or 0)
        self._buffers: dict[str, Tensor] = {}
        self._scores: dict[int, float] = {}
        self._writer: Writer | None = None
        self.saved_step = -1

    # --- reading back ----------------------------------------------------------------------------

    def find(self, tell: Callable[[str], None]) -> Saved | None:
        """The newest that is whole.

        Raises:
            InvalidRequest: not all ranks find the same.
        """
        saved = newest(self.place, tell)
        step = float(saved.step if saved is not None else -1)
        if self._world.most([step, -step]) != [step, -step]:
            raise InvalidRequest(
                f"not all workers find the same checkpoints in {self.place}",
                hint="name a directory that all of them reach",
            )
        return saved

    def restore(self, saved: Saved) -> None:
        """Tensors, and the state of all that draws.

        Raises:
            InvalidRequest: it is of another model; says where they differ.
        """
        trained = self._trained
        state.restore(saved, trained.model, trained.optimizer, trained.average)
        mine = f"random/{self._world.rank}/"
        drawn = {
            name.removeprefix(mine): saved.read(name)
            for name in saved.names()
            if name.startswith(mine)
        }
        if drawn:
            randomness.restore(drawn, self._world.device)
        self.saved_step = saved.step

    # --- writing ---------------------------------------------------------------------------------

    def is_due(self, step: int, trained_s: float) -> bool:
        """As this rank sees it."""
        if self._every_steps:
            return step % self._every_steps == 0 and step != self.saved_step
        if self._writer is not None and self._writer.is_busy:
            return False
        after_s = interval_s(self._cost_s, failures=self._failures, elapsed_s=trained_s)
        return time.monotonic() - self._saved_at >= after_s

    def next_due(self, step: int) -> float:
        """The step after this one at which one is due for certain."""
        every = self._every_steps
        return (step // every + 1) * every if every else math.inf

    def save(self, step: int, facts: Mapping[str, Any]) -> None:
        """Copies everything aside; the rest happens in a thread.

        Raises:
            StorageFull, Unavailable: the one before could not be written.
        """
        began = time.monotonic()
        writer = self._writer = self._writer or self._new_writer()
        writer.wait()  # its thread reads the memory that is written to now
        parts = {
            name: state.part_of(tensor, self._copied(name, tensor))
            for name, tensor in self._trained.tensors().items()
            if self._trained.divided or state.is_mine(tensor, self._world.rank)
        }
        for name, tensor in randomness.capture(self._world.device).items():
            for rank, one in enumerate(self._world.gather(tensor)):
                if self._world.is_first:
                    parts[f"random/{rank}/{name}"] = Part.all_of(one.clone())
        told = state.facts_of(self._trained.model, self._trained.optimizer) | dict(facts)
        if self._trained.divided:
            told["state"] = {
                name: value
                for some in self._world.gather_json(told["state"])
                for name, value in some.items()
            }
        if (watched := facts.get("watched")) is not None:
            self._scores[step] = watched
        writer.begin(Snapshot(step, told, parts))
        self.saved_step = step
        self._saved_at = time.monotonic()
        self._cost_s = self._saved_at - began

    def wait(self) -> None:
        if self._writer is not None:
            self._writer.wait()

    def newest_name(self) -> str:
        found = steps_in(self.place)
        return name_of(found[-1]) if found else ""

    def _new_writer(self) -> Writer:
        sharded = self._trained.divided or any(
            state.is_mine(each, rank=1) for each in self._trained.tensors().values()
        )
        attempt = int(self._world.most([float(time.time_ns() // 1_000)])[0])
        return Writer(
            self.place,
            rank=self._world.rank,
            writers=self._world.size if sharded else 1,
            attempt=f"{attempt:x}",
            before=self._before,
            after=self._written,
        )

    def _copied(self, name: str, tensor: Tensor) -> Tensor:
        """On the CPU, in memory that is used each time: fresh memory costs more than the copy."""
        local = state.local_of(tensor)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != local.shape:
            buffer = self._buffers[name] = torch.empty(local.shape, dtype=local.dtype)
        return buffer.copy_(local)

    def _written(self, step: int) -> None:
        found = steps_in(self.place)
        for each in found:
            if each not in self._scores and (watched := facts_at(self.place, each).get("watched")):
                self._scores[each] = watched
        for doomed in to_discard(found, self._keep, self._scores):
            discard(self.place / name_of(doomed))
        self._after(step)
