"""A worker of a training that is spread over ranks: spread_training.py DIRECTORY STRATEGY STEPS"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

from leptonai.training import Callback, Plan, Trainer
from leptonai.training.checkpoints import newest
from leptonai.training.state import MODEL

WIDTH = 12


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.down(torch.relu(self.up(inputs)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        for block in self.blocks:
            inputs = block(inputs)
        return self.head(inputs)

    def plan(self) -> Plan:
        return Plan(
            blocks=tuple(self.blocks),
            tensor={
                f"blocks.{number}.{name}": way()
                for number in range(len(self.blocks))
                for name, way in (("up", ColwiseParallel), ("down", RowwiseParallel))
            },
            pipeline=[*self.blocks, self.head],
        )


class Diary(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step(self, trainer, step, loss):
        self.losses.append(loss)


def main() -> None:
    root, strategy, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.manual_seed(7)
    chance = np.random.default_rng(0)
    inputs = chance.normal(size=(64, WIDTH)).astype(np.float32)
    targets = inputs[:, :3].argmax(1)
    diary = Diary()
    trainer = Trainer(
        Network(), (inputs, targets), validation=(inputs[:21], targets[:21]), batch_size=16,
        epochs=9, max_steps=steps, strategy=strategy, learning_rate=1e-2, metrics=["accuracy"],
        checkpoints=root / "checkpoints", callbacks=[diary], recompute=strategy == "fsdp",
        accumulation=2, clip_norm=1.0,
    )  # fmt: skip
    history = trainer.fit()
    if trainer.world.is_first:
        saved = newest(root / "checkpoints", print)
        assert saved is not None
        weights = {
            name.removeprefix(MODEL): saved.read(name).tolist()
            for name in saved.names() if name.startswith(MODEL)
        }  # fmt: skip
        told = {"losses": diary.losses, "last": history.last, "weights": weights}
        (root / f"{strategy}-{trainer.world.size}-{steps}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
