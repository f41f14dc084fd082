"""A GPT of a million parameters learns to write this project's documents, letter by letter: by the
Trainer, and by a loop by hand that shares nothing with it but the model and the order of the data.

    python -m benchmarks.training.gpt

What is compared is the loss of each step, and the loss on the last tenth of the text, which neither
has seen.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.training.turns import part, row, timed
from leptonai.data import DataLoader
from leptonai.training import Callback, Trainer
from leptonai.training.models import GPT

ROOT = Path(__file__).parents[2]
TEXTS = ("LICENSE", "README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md")
CONTEXT, BATCH, RATE, DECAY, CLIP, SEED = 96, 24, 2e-3, 0.1, 1.0, 7
ALIKE = 1e-3  # that losses may differ by
WARMUP_SHARE = 10  # of the steps, one in so many


class Losses(Callback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_step(self, trainer: Any, step: int, loss: float) -> None:
        self.found.append(loss)


def main() -> None:
    with part(__doc__) as (quick, rows):
        steps = 6 if quick else 100
        letters, text = read()
        learnt, unseen = windows(text[: len(text) * 9 // 10]), windows(text[len(text) * 9 // 10 :])
        heard = Losses()
        one, other = network(letters, quick), network(letters, quick)
        ours = timed(lambda: by_trainer(one, learnt, steps, heard))
        by_hand: list[float] = []
        theirs = timed(lambda: by_hand.extend(in_a_loop(other, learnt, steps)))
        millions = sum(each.numel() for each in one.parameters()) / 1e6
        apart = max(abs(a - b) for a, b in zip(heard.found, by_hand, strict=True))
        rows.append(
            row(
                f"{millions:.2f} M parameters, {len(text):,} letters, {steps} steps of "
                f"{BATCH} x {CONTEXT}: the last loss, Trainer",
                f"{heard.found[-1]:.4f}",
            )
        )
        rows.append(row("… in a loop by hand", f"{by_hand[-1]:.4f}"))
        rows.append(row("… furthest apart, of all steps", f"{apart:.1e}", f"≤ {ALIKE:.0e}"))
        losses = [loss_of_all(model, unseen) for model in (one, other)]
        rows.append(row("loss on text not seen, Trainer", f"{losses[0]:.4f}"))
        rows.append(row("… in a loop by hand", f"{losses[1]:.4f}"))
        rows.append(row("… by one that knows nothing", f"{math.log(letters):.4f}"))
        rows.append(row("CPU time, loop by hand / Trainer", f"{theirs.cpu_s / ours.cpu_s:.2f} ×"))


def read() -> tuple[int, np.ndarray]:
    """How many letters there are, and the text in their numbers."""
    text = "\n".join((ROOT / name).read_text() for name in TEXTS)
    letters = sorted({*text})
    number = {letter: at for at, letter in enumerate(letters)}
    return len(letters), np.array([number[letter] for letter in text])


def windows(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, half of each window in the next one too."""
    begins = range(0, len(text) - CONTEXT, CONTEXT // 2)
    cut = np.stack([text[at : at + CONTEXT + 1] for at in begins])
    return cut[:, :-1], cut[:, 1:]


def network(letters: int, quick: bool) -> GPT:
    torch.manual_seed(SEED)
    shape = {"width": 32, "layers": 1} if quick else {"width": 144, "layers": 4}
    return GPT(letters, context=CONTEXT, heads=4, **shape)


def by_trainer(model: GPT, learnt: Any, steps: int, heard: Losses) -> None:
    Trainer(
        model, learnt, epochs=1_000, max_steps=steps, batch_size=BATCH, learning_rate=RATE,
        weight_decay=DECAY, schedule="cosine", warmup_steps=steps // WARMUP_SHARE, clip_norm=CLIP,
        callbacks=[heard], seed=SEED, quiet=True,
    ).fit()  # fmt: skip


def in_a_loop(model: GPT, learnt: Any, steps: int) -> list[float]:
    matrices = [each for each in model.parameters() if each.ndim >= 2]
    others = [each for each in model.parameters() if each.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0},
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, RATE, fused=True)
    losses: list[float] = []
    loader = DataLoader(learnt, BATCH, True, seed=SEED)
    warmup = steps // WARMUP_SHARE
    while True:
        for inputs, targets in loader:
            step = len(losses)
            if step < warmup:
                factor = (step + 1) / (warmup + 1)
            else:
                factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
            for group in optimizer.param_groups:
                group["lr"] = RATE * factor
            loss = loss_of(model(inputs), targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) == steps:
                return losses


def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


@torch.no_grad()
def loss_of_all(model: GPT, unseen: Any) -> float:
    model.eval()
    inputs, targets = map(torch.from_numpy, unseen)
    pairs = zip(inputs.split(64), targets.split(64), strict=True)
    sums = [loss_of(model(some), their).item() * len(some) for some, their in pairs]
    return sum(sums) / len(inputs)


if __name__ == "__main__":
    main()
