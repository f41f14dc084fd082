"""Train a CNN on the handwritten digits, on as many workers as the environment says.

An ordinary PyTorch script: it reads the variables that torchrun and Lepton set (RANK, WORLD_SIZE,
MASTER_ADDR, MASTER_PORT), and trains alone where there are none::

    python train.py --dataset DIRECTORY --output DIRECTORY
    leptonai job create -n digits --num-workers 2 --workdir examples/digits \
        --include-workspace-token -- python train.py --dataset digits@1 --push digits

Every worker draws the same order and the same augmentation from the seed and takes its share of
each batch, so a sample is seen once an epoch, whatever the number of workers.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import leptonai
from leptonai.data import Split, split
from leptonai.data.digits import CLASSES, IMAGE_SHAPE, Digits
from leptonai.errors import LeptonError
from leptonai.training.models import CNN, save_model

HELD_OUT = 0.2
BATCH_SIZE = 48  # over all workers
LEARNING_RATE = 2e-3
LABEL_SMOOTHING = 0.05
RENDEZVOUS_TIMEOUT = timedelta(seconds=60)
RANK = int(os.environ.get("RANK", "0"))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))


def main() -> None:
    arguments = parse_arguments()
    started = time.monotonic()
    if WORLD_SIZE > 1:
        dist.init_process_group("gloo", timeout=RENDEZVOUS_TIMEOUT)
    with tempfile.TemporaryDirectory() as scratch:
        directory, source = locate_dataset(arguments.dataset, Path(scratch))
        digits = Digits.read(directory)
        parts = split(
            digits.ids.tolist(), digits.labels.tolist(), seed=arguments.seed, held_out=HELD_OUT
        )
        train, held_out = digits.only(parts.train), digits.only(parts.held_out)
        say(f"{len(train.ids)} digits to learn, {len(held_out.ids)} held out, {WORLD_SIZE} workers")

        model = new_model(train, arguments.seed)
        metrics = fit(model, train, held_out, epochs=arguments.epochs, seed=arguments.seed)
        metrics["seconds"] = round(time.monotonic() - started, 2)

        if RANK == 0:
            output = arguments.output or Path(scratch) / "model"
            save_model(model, output)
            write_manifest(output, source, parts, metrics, arguments)
            if arguments.push:
                push(output, arguments.push, source, metrics)
    if WORLD_SIZE > 1:
        dist.destroy_process_group()
    say(f"accuracy {metrics['held_out_accuracy']:.4f} on the held-out digits")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset",
        default=os.environ.get("DATASET"),
        help="a directory, or NAME@VERSION of the workspace (default: $DATASET)",
    )
    parser.add_argument("--output", type=Path, help="write the model there")
    parser.add_argument("--push", metavar="NAME", help="register the model under this name")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.dataset:
        parser.error("say which dataset: --dataset DIRECTORY, or --dataset NAME@VERSION")
    if not arguments.output and not arguments.push:
        parser.error("say where the model goes: --output DIRECTORY, or --push NAME, or both")
    if arguments.epochs < 1:
        parser.error("--epochs must be at least 1")
    return arguments


def locate_dataset(dataset: str, scratch: Path) -> tuple[Path, dict[str, str]]:
    """The dataset's directory, and its reference and digest if the workspace keeps it."""
    if Path(dataset).is_dir():
        return Path(dataset), {}
    from leptonai.client import LeptonClient

    # The workspace and the token come in the LEPTON_WORKSPACE_… variables that the job was given.
    artifact = LeptonClient().datasets.download(dataset, scratch / "dataset")
    reference = f"{artifact.metadata.name}@{artifact.metadata.version}"
    return scratch / "dataset", {"reference": reference, "digest": artifact.spec.digest}


def new_model(train: Digits, seed: int) -> CNN:
    torch.manual_seed(seed)  # the same weights on every worker …
    model = CNN(
        (*IMAGE_SHAPE, 1),
        len(CLASSES),
        widths=(32, 64),
        pixel_mean=round(float(train.images.mean()), 6),
        pixel_std=round(float(train.images.std()), 6),
        classes=CLASSES,
    )
    torch.manual_seed(seed + 1 + RANK)  # … and another dropout on each
    return model


def fit(model: CNN, train: Digits, held_out: Digits, *, epochs: int, seed: int) -> dict[str, float]:
    """Train, report each epoch, and return the last epoch's metrics."""
    learner = DistributedDataParallel(model) if WORLD_SIZE > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    steps = epochs * number_of_batches(len(train.ids))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    metrics: dict[str, float] = {}
    for epoch in range(1, epochs + 1):
        model.train()
        began = time.monotonic()
        loss_sum = 0.0
        for images, labels, size in batches(train, seed, epoch):
            # DDP averages over workers whose shares differ in size: weigh each by its share.
            loss = cross_entropy(
                learner(images), labels, reduction="sum", label_smoothing=LABEL_SMOOTHING
            )
            optimizer.zero_grad()
            (loss * WORLD_SIZE / size).backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.item()
        train_loss = total(loss_sum) / len(train.ids)
        seconds = time.monotonic() - began
        metrics = {"train_loss": train_loss, **evaluate(model, held_out)}
        say(
            f"epoch {epoch:2}/{epochs}  loss {train_loss:.4f}  "
            f"held-out loss {metrics['held_out_loss']:.4f}  "
            f"held-out accuracy {metrics['held_out_accuracy']:.4f}  "
            f"{len(train.ids) / seconds:,.0f} images/s"
        )
        for key, value in metrics.items():
            report(key, value, epoch)
    return metrics


def number_of_batches(samples: int) -> int:
    return -(-samples // BATCH_SIZE)


def batches(train: Digits, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """This worker's share of each batch, and the size of the whole batch.

    Every sample is in one batch and one share; batches and shares differ by one sample at most.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(train.ids))
    images = shifted(train.images, generator.integers(-1, 2, size=(len(train.ids), 2)))
    for batch in np.array_split(order, number_of_batches(len(order))):
        share = np.array_split(batch, WORLD_SIZE)[RANK]
        yield (
            torch.from_numpy(images[share][..., None]),
            torch.from_numpy(train.labels[share]),
            len(batch),
        )


def shifted(images: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Each image [N, H, W] moved by its (down, right), each -1, 0 or 1; paper fills the gap."""
    count, height, width = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    rows = 1 + np.arange(height) - by[:, :1]
    columns = 1 + np.arange(width) - by[:, 1:]
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def evaluate(model: CNN, digits: Digits) -> dict[str, float]:
    """On all workers, each sample on one of them."""
    model.eval()
    mine = slice(RANK, None, WORLD_SIZE)
    labels = torch.from_numpy(digits.labels[mine])
    with torch.inference_mode():
        scores = model(torch.from_numpy(digits.images[mine][..., None]))
        loss = cross_entropy(scores, labels, reduction="sum").item()
        correct = (scores.argmax(1) == labels).sum().item()
    count = len(digits.ids)
    return {"held_out_loss": total(loss) / count, "held_out_accuracy": total(correct) / count}


def total(value: float) -> float:
    """The sum over all workers."""
    if WORLD_SIZE == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(summed)
    return summed.item()


def write_manifest(
    output: Path,
    source: dict[str, str],
    parts: Split[int],
    metrics: dict[str, float],
    arguments: argparse.Namespace,
) -> None:
    """What the model was made from: enough to make it again, and to examine it fairly."""
    manifest = {
        "dataset": source,
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        "world_size": WORLD_SIZE,
        "metrics": metrics,
        "versions": {
            "leptonai": leptonai.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "train_ids": parts.train,
        "held_out_ids": parts.held_out,
    }
    (output / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def push(output: Path, name: str, source: dict[str, str], metrics: dict[str, float]) -> None:
    from leptonai.client import LeptonClient

    lineage = {"dataset": source.get("reference"), "job": os.environ.get("LEPTON_JOB_NAME")}
    artifact = LeptonClient().models.push(
        name,
        output,
        format="torch-cnn",
        lineage={role: reference for role, reference in lineage.items() if reference},
        attributes={"metrics": metrics, "world_size": WORLD_SIZE},
    )
    say(f"registered the model {artifact.metadata.name}@{artifact.metadata.version}")


def say(text: str) -> None:
    if RANK == 0:
        print(text, flush=True)


def report(key: str, value: float, step: int) -> None:
    """One point of a curve, for programs that read the log."""
    point: dict[str, Any] = {
        "key": key,
        "value": value,
        "step": step,
        "timestamp_ms": time.time_ns() // 1_000_000,
    }
    say("metric " + json.dumps(point, separators=(",", ":")))


if __name__ == "__main__":
    try:
        main()
    except LeptonError as error:
        sys.exit(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
