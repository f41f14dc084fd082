"""Samples a second of `Trainer.fit`, set-up and all, in those of loops that are written by hand.

All have the same model, loss, batch size and fused AdamW, and shuffle the same arrays in memory;
all use one thread. Times are of the processor, of the best turn of each: on a machine that others
use, too, the wall clock tells of them. A loop by hand keeps its losses, as the Trainer does; it
differs from others in where its batches come from:

- by index: rows picked by number out of tensors, the leanest that people write;
- over our DataLoader: the same samples in the same order as the Trainer;
- over torch's DataLoader: what its tutorials show.

    python -m benchmarks.training.loop
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.training.turns import Row, in_turns, part, row, speed
from leptonai.data import DataLoader
from leptonai.training import Trainer
from leptonai.training.models import GPT

RATE = 1e-3
Pairs = Iterable[Any]  # of inputs and targets


class Task(NamedTuple):
    what: str
    goal: float
    model: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    batch_size: int
    turns: int


def main() -> None:
    torch.set_num_threads(1)
    with part(__doc__) as (quick, rows):
        for task in (mlp(quick), cnn(quick), transformer(quick)):
            rows += measured(task, everything=task.what.startswith("MLP"))


def measured(task: Task, *, everything: bool) -> list[Row]:
    loops: dict[str, Callable[[], object]] = {
        "Trainer": lambda: ours(task),
        "by index": lambda: by_hand(task, by_index(task)),
        "by index, again": lambda: by_hand(task, by_index(task)),
        "over our DataLoader": lambda: by_hand(task, over_our_loader(task)),
        "over torch's DataLoader": lambda: by_hand(task, over_torch_loader(task)),
    }
    if everything:
        loops |= {
            "by index, AdamW not fused": lambda: by_hand(task, by_index(task), fused=False),
            **peers(task),
        }
    took = in_turns(loops, task.turns)
    trainer, again = took.pop("Trainer"), took.pop("by index, again")
    samples = len(task.inputs)
    fastest = min(each.cpu_s for each in trainer)
    found = [row(f"{task.what}: Trainer", f"{samples / fastest:,.0f} samples/s")]
    for name, theirs in took.items():
        is_goal = name in ("by index", "over our DataLoader")
        found.append(
            row(
                f"… in a loop by hand, {name}" if name not in PEERS else f"… in {name}'s",
                f"{speed(trainer, theirs):.3f} ×",
                f"≥ {task.goal} ×" if is_goal else "",
            )
        )
    lean = took["by index"]
    found += [  # what differs from 1 in the first is the machine's: so far are figures true
        row("… the loop by hand, by index, in itself", f"{speed(again, lean):.3f} ×"),
        row("… by the wall clock, by index", f"{speed(trainer, lean, by_wall=True):.3f} ×"),
    ]
    found += [
        row(f"{name}, in the loop by hand, by index", f"{speed(took[name], lean):.3f} ×")
        for name in PEERS
        if name in took
    ]
    return found


# --- what is trained -----------------------------------------------------------------------------


def mlp(quick: bool) -> Task:
    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    steps, turns = (4, 1) if quick else (600, 12)
    inputs, targets = torch.randn(64 * steps, 64), torch.randint(10, (64 * steps,))
    return Task("MLP 64-128-128-10, batch 64", 0.98, model, inputs, targets, 64, turns)


def cnn(quick: bool) -> Task:
    def model() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
        )  # fmt: skip

    steps, turns = (2, 1) if quick else (15, 16)
    inputs, targets = torch.randn(64 * steps, 1, 28, 28), torch.randint(10, (64 * steps,))
    return Task("CNN of 2 layers, 28 x 28, batch 64", 0.99, model, inputs, targets, 64, turns)


def transformer(quick: bool) -> Task:
    context = 64
    shape = {"width": 384, "layers": 6, "heads": 6}
    if quick:
        shape = {"width": 32, "layers": 1, "heads": 2}

    def model() -> nn.Module:
        return GPT(256, context=context, **shape)  # type: ignore[arg-type]

    steps, turns = (2, 1) if quick else (2, 10)
    inputs = torch.randint(256, (4 * steps, context))
    millions = sum(each.numel() for each in model().parameters()) / 1e6
    name = f"GPT of {millions:.1f} M parameters, 4 x {context} tokens"
    return Task(name, 0.99, model, inputs, inputs.roll(-1, 1), 4, turns)


# --- how -----------------------------------------------------------------------------------------


def ours(task: Task) -> None:
    arrays = task.inputs.numpy(), task.targets.numpy()
    Trainer(
        fresh(task),
        arrays,
        loss=loss_of,
        learning_rate=RATE,
        batch_size=task.batch_size,
        quiet=True,
    ).fit()


def by_hand(task: Task, batches: Pairs, *, fused: bool = True) -> float:
    model = fresh(task)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0, fused=fused or None)
    losses = []
    for inputs, targets in batches:
        loss = loss_of(model(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def fresh(task: Task) -> nn.Module:
    torch.manual_seed(0)
    return task.model()


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def by_index(task: Task) -> Iterator[Any]:
    for at in torch.randperm(len(task.inputs)).split(task.batch_size):
        yield task.inputs[at], task.targets[at]


def over_our_loader(task: Task) -> Pairs:
    return DataLoader((task.inputs.numpy(), task.targets.numpy()), task.batch_size, True)


def over_torch_loader(task: Task) -> Pairs:
    dataset = torch.utils.data.TensorDataset(task.inputs, task.targets)
    return torch.utils.data.DataLoader(dataset, task.batch_size, shuffle=True)


# --- peers ---------------------------------------------------------------------------------------

PEERS = ("Accelerate", "Lightning")


def peers(task: Task) -> dict[str, Callable[[], object]]:
    """Each over the leanest batches."""
    found: dict[str, Callable[[], object]] = {}
    makers = {"accelerate": accelerate, "lightning": lightning}
    for name, (module, make) in zip(PEERS, makers.items(), strict=True):
        if find_spec(module):
            try:
                found[name] = make(task)
                found[name]()
            except Exception as error:  # one peer's fault is not the others'
                found.pop(name, None)
                print(f"{name} cannot be measured: {error!r}", file=sys.stderr)
    return found


def accelerate(task: Task) -> Callable[[], object]:
    from accelerate import Accelerator  # type: ignore[import-not-found,unused-ignore]

    accelerator = Accelerator(cpu=True)

    def train() -> float:
        model = fresh(task)
        optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0, fused=True)
        model, optimizer = accelerator.prepare(model, optimizer)
        losses = []
        for inputs, targets in by_index(task):
            loss = loss_of(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()

    return train


class _Batches:
    def __init__(self, task: Task) -> None:
        self._task = task

    def __len__(self) -> int:
        return -(-len(self._task.inputs) // self._task.batch_size)

    def __iter__(self) -> Iterator[Any]:
        return by_index(self._task)


def lightning(task: Task) -> Callable[[], object]:
    import lightning as pl  # type: ignore[import-not-found,unused-ignore]

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")

    class Module(pl.LightningModule):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.model = fresh(task)

        def training_step(self, batch: Any, _: int) -> Tensor:
            return loss_of(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), RATE, weight_decay=0, fused=True)

    def train() -> None:
        pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        ).fit(Module(), _Batches(task))  # fmt: skip

    return train


if __name__ == "__main__":
    main()
