"""A worker of a training that is killed now and then; it writes down the loss of every step.

    python exact_training.py DIRECTORY STEP:RANK …   dies of SIGKILL after these steps

Dropout, shuffled data, augmentation, bfloat16, accumulation, a buffer, an average of the weights:
all that draws or remembers.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from leptonai.data import DataLoader
from leptonai.training import Callback, Trainer

SAMPLES, FEATURES, CLASSES = 101, 16, 4
WIDTH = 700  # so that gradients fill several of DDP's buckets


class Centred(nn.Module):
    """Remembers the mean of what it saw, as batch normalisation does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.mean = self.mean.lerp(hidden.detach().float().mean(0), 0.1)
        return hidden - self.mean


class Network(nn.Module):
    """Registered in another order than it is computed in, as real models are."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(WIDTH, CLASSES)
        self.middle = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = Centred()
        self.first = nn.Linear(FEATURES, WIDTH)
        self.drop = nn.Dropout(0.3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.first(inputs))
        for layer in self.middle:
            hidden = self.drop(torch.relu(layer(hidden)))
        return self.last(hidden)


def noisy(batch, rng):
    inputs, targets = batch
    return inputs + rng.normal(scale=0.1, size=inputs.shape).astype(np.float32), targets


class Diary(Callback):
    def __init__(self, root: Path, deaths: set[tuple[int, int]]) -> None:
        self.root, self.deaths = root, deaths

    def on_step(self, trainer, step, loss):
        if trainer.world.is_first:
            with (self.root / "losses").open("a") as file:
                file.write(f"{step} {loss.hex()}\n")
        if (step, trainer.world.rank) in self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    root = Path(sys.argv[1])
    deaths = {tuple(map(int, each.split(":"))) for each in sys.argv[2:]}
    torch.manual_seed(7)
    chance = np.random.default_rng(0)
    inputs = chance.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    targets = inputs[:, :CLASSES].argmax(1)
    train = DataLoader((inputs, targets), 24, True, seed=3, pipeline=noisy, num_workers=2)
    trainer = Trainer(
        Network(), train, validation=(inputs[:30], targets[:30]), metrics=["accuracy"],
        schedule="cosine", warmup_steps=3, learning_rate=1e-3, weight_decay=0.01, epochs=4,
        accumulation=4, precision="bf16", clip_norm=1.0, average=0.9, deterministic=True,
        checkpoints=root / "checkpoints", save_every=3, callbacks=[Diary(root, deaths)], seed=5,
    )  # fmt: skip
    history = trainer.fit()
    if trainer.world.is_first:
        (root / "history").write_text(repr([sorted(epoch.items()) for epoch in history.epochs]))
        weights = {name: value.numpy() for name, value in trainer.model.state_dict().items()}
        np.savez(root / "weights", **weights)


if __name__ == "__main__":
    main()
