"""A worker of a pipeline: spread_pipeline.py DIRECTORY STRATEGY STEPS [DEATH]

Rank 1 dies of SIGKILL after the step DEATH.

Everything at once: weights that two stages share, dropout, a last batch that is smaller and does
not divide, an average, clipping, bfloat16, validation.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from leptonai.errors import LeptonError
from leptonai.training import Callback, Trainer
from leptonai.training.models import TransformerEncoder

SAMPLES, BATCH = 37, 10
TOKENS = np.random.default_rng(0).integers(1, 30, size=(SAMPLES, 6))
TARGETS = np.where(TOKENS % 3 == 0, TOKENS, -100)
TARGETS[:, 0] = TOKENS[:, 0]


class Diary(Callback):
    def __init__(self, death: int) -> None:
        self.losses: list[str] = []
        self.death = death

    def on_step(self, trainer, step, loss):
        self.losses.append(loss.hex())
        if step == self.death and trainer.world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    root, strategy, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.manual_seed(7)
    model = TransformerEncoder(32, width=16, layers=3, heads=2, context=8, dropout=0.2)
    diary = Diary(int(sys.argv[4]) if len(sys.argv) > 4 else 0)
    trainer = Trainer(
        model, (TOKENS, TARGETS), validation=(TOKENS[:7], TARGETS[:7]), batch_size=BATCH, epochs=9,
        max_steps=steps, strategy=strategy, learning_rate=1e-2, weight_decay=0.1, clip_norm=0.5,
        average=0.9, precision="bf16", accumulation=3, checkpoints=root / "checkpoints",
        save_every=3, callbacks=[diary], quiet=True,
    )  # fmt: skip
    history = trainer.fit()
    sums = {name: each.double().sum().item() for name, each in model.state_dict().items()}
    told = {
        "losses": diary.losses, "last": history.last, "sums": sums,
        "again": trainer.evaluate((TOKENS[:7], TARGETS[:7])),
    }  # fmt: skip
    (root / f"{steps}-{trainer.world.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    try:
        main()
    except LeptonError as error:
        print(f"error: {error.message}; {error.hint}")
        sys.exit(3)
