"""Scikit-learn's digits: how many that it has not seen the default CNN reads, and how soon.

    python -m benchmarks.training.digits [--quick]

Each seed is another split, another network and another order.
"""

import torch

from benchmarks.training.turns import middle, part, row, timed
from leptonai.data import split
from leptonai.data.digits import Digits
from leptonai.training import Trainer
from leptonai.training.models import CNN

SEEDS = (0, 1, 2)
HELD_OUT = 0.2
SETTINGS = {
    "epochs": 12, "batch_size": 48, "learning_rate": 3e-3, "weight_decay": 1e-2,
    "schedule": "one cycle",
}  # fmt: skip


def main() -> None:
    with part(__doc__) as (quick, rows):
        shares, walls, cpus = [], [], []
        for seed in SEEDS[:1] if quick else SEEDS:
            trainer, held_out = trainer_of(seed, quick)
            took = timed(trainer.fit)
            walls.append(took.wall_s)
            cpus.append(took.cpu_s)
            shares.append(trainer.evaluate(held_out)["accuracy"])
        told = ", ".join(f"{100 * share:.2f} %" for share in shares)
        rows += [
            row(
                f"digits read that it has not seen, mean of {len(shares)} seeds",
                f"{100 * sum(shares) / len(shares):.2f} %", "≥ 98.5 %",
            ),
            row("… of each seed", told),
            row("training", f"{middle(walls):.1f} s", "≤ 60 s"),
            row("… CPU time", f"{middle(cpus):.1f} s"),
        ]  # fmt: skip


def trainer_of(seed: int, quick: bool) -> tuple[Trainer, tuple[object, object]]:
    digits = Digits.load()
    parts = split(digits.ids.tolist(), digits.labels.tolist(), seed=seed, held_out=HELD_OUT)
    train, held_out = digits.only(parts.train), digits.only(parts.held_out)
    torch.manual_seed(seed)
    model = CNN(
        (8, 8, 1), 10, pixel_mean=float(train.images.mean()), pixel_std=float(train.images.std())
    )
    trainer = Trainer(
        model, (train.images[..., None], train.labels), metrics=["accuracy"], seed=seed, quiet=True,
        max_steps=2 if quick else None, **SETTINGS,  # type: ignore[arg-type]
    )  # fmt: skip
    return trainer, (held_out.images[..., None], held_out.labels)


if __name__ == "__main__":
    main()
