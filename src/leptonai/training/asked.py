"""What a training is asked to be, and whether that can be."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leptonai.errors import InvalidRequest
from leptonai.training.callbacks import Callback
from leptonai.training.feeding import loader_of, pipeline_of
from leptonai.training.losses import Loss, loss_named
from leptonai.training.metrics import Metric, metric_named
from leptonai.training.optimizers import MakeOptimizer, make_optimizer
from leptonai.training.parallel import Strategy
from leptonai.training.saving import Keep
from leptonai.training.schedules import schedule_named
from leptonai.training.stepping import Precision, precisely
from leptonai.training.world import World


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of `Trainer`, which says what each is.

    Raises:
        InvalidRequest: one is out of range, or names nothing that there is.
    """

    model: nn.Module
    train: Any
    validation: Any
    loss: str | Loss | None
    optimizer: str | MakeOptimizer
    learning_rate: float
    weight_decay: float
    schedule: str | None
    warmup_steps: int
    epochs: int
    max_steps: int | None
    batch_size: int
    accumulation: int
    clip_norm: float | None
    precision: Precision
    strategy: Strategy
    recompute: bool
    compile: bool
    average: float | None
    metrics: Sequence[str]
    patience: int | None
    checkpoints: str | Path | None
    keep: Keep | None
    save_every: int | None
    callbacks: Sequence[Callback]
    track: bool | None
    pipeline: Any
    register: str | None
    seed: int
    deterministic: bool
    device: str | None
    quiet: bool

    def __post_init__(self) -> None:
        for name, value, least in (
            ("epochs", self.epochs, 1),
            ("batch_size", self.batch_size, 1),
            ("accumulation", self.accumulation, 1),
            ("max_steps", self.max_steps, 1),
            ("save_every", self.save_every, 1),
            ("warmup_steps", self.warmup_steps, 0),
            ("patience", self.patience, 0),
        ):
            if value is not None and value < least:
                raise InvalidRequest(f"{name} is at least {least}, not {value}")
        if not 0 < self.learning_rate < math.inf:
            raise InvalidRequest(f"learning_rate is above 0, not {self.learning_rate}")
        if self.average is not None and not 0 < self.average < 1:
            raise InvalidRequest(f"average is a decay between 0 and 1, not {self.average}")
        if not isinstance(self.model, nn.Module):
            raise InvalidRequest(
                f"the model is a {type(self.model).__name__}", hint="give a torch.nn.Module"
            )
        schedule_named(self.schedule, steps=1, warmup=0)
        precisely(self.precision, "cpu")
        if self.strategy == "pipeline" and self.precision == "fp16":
            raise InvalidRequest(
                "a pipeline does not learn in fp16, whose scale each rank would choose for itself",
                hint="precision='bf16'",
            )
        if isinstance(self.loss, str):
            loss_named(self.loss)
        for name in self.metrics:
            metric_named(name)
        if self.register is not None:
            from leptonai.training.registry import check_can_register

            check_can_register(self.model, self.register, self.pipeline or pipeline_of(self.train))

    @property
    def loss_function(self) -> Loss | None:
        """None: what is usual for the targets."""
        if isinstance(self.loss, str):
            return loss_named(self.loss)
        return self.loss or getattr(self.model, "loss", None)

    @cached_property
    def measures(self) -> Mapping[str, Metric]:
        return {name: metric_named(name) for name in self.metrics}

    @property
    def place(self) -> Path | None:
        """Of its checkpoints."""
        place = self.checkpoints or os.environ.get("LEPTON_CHECKPOINT_DIR")
        return Path(place) if place else None

    def make_optimizer(self) -> torch.optim.Optimizer:
        return make_optimizer(
            self.optimizer,
            self.model,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
        )

    def loader(self, world: World) -> Any:
        return loader_of(
            self.train,
            world,
            batch_size=self.batch_size,
            shuffle=True,
            seed=self.seed,
            pipeline=self.pipeline,
        )

    def loader_to_evaluate(self, data: Any, world: World) -> Any:
        return loader_of(
            data,
            world,
            batch_size=max(self.batch_size, world.size),
            shuffle=False,
            seed=self.seed,
            pipeline=self.pipeline,
            to_learn=False,
        )

    def plain(self) -> dict[str, Any]:
        """What of it can be written down as it is."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        plain = {
            name: value for name, value in given.items() if isinstance(value, str | int | float)
        }
        return plain | {"model": type(self.model).__name__}
