"""GPT-2 of 124 M parameters on a GPU: bf16, torch.compile, fused AdamW; the Trainer beside a loop.

    python -m benchmarks.training gpu

Without a GPU a tiny one is trained on the CPU: that shows only that all of this runs. Shares of the
GPU's peak count 6 operations a parameter and token, and 12 a layer, unit of width, token and token
that it looks back to. Source: Chowdhery et al. 2022, "PaLM", appendix B.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.training.turns import part, row
from leptonai.training import Trainer
from leptonai.training.models import GPT

# In bf16, dense, as NVIDIA's data sheets have it: the first that the device's name contains.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
SEED, RATE = 0, 6e-4
WARM, STEPS, TURNS = 20, 100, 5


class Tokens:
    """The same batch again and again, in the GPU's memory: what is measured is the step."""

    def __init__(self, batch: int, context: int, vocabulary: int, device: str, steps: int) -> None:
        tokens = torch.randint(vocabulary, (batch, context + 1), device=device)
        self._pair = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        self._steps = steps

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self._steps):
            yield self._pair


def main() -> None:
    with part(__doc__) as (quick, rows):
        there = torch.cuda.is_available()
        device = "cuda" if there else "cpu"
        if not there:
            rows.append(row("no GPU was at hand: a tiny model, on the CPU, tells nothing", "–"))
        big = there and not quick
        batch, context = (32, 1_024) if big else (2, 16)
        warm, steps, turns = (WARM, STEPS, TURNS) if big else (1, 2, 1)
        best = {"Trainer": float("inf"), "a loop by hand": float("inf")}
        losses: dict[str, float] = {}
        for _ in range(turns):
            for name, make in (("Trainer", by_trainer), ("a loop by hand", by_hand)):
                torch.compiler.reset()
                model = network(big).to(device)
                data = [
                    Tokens(batch, context, model.vocabulary, device, count)
                    for count in (warm, steps)
                ]
                seconds, losses[name] = make(model, *data, device=device, compiled=not quick)
                best[name] = min(best[name], seconds)
        tokens = batch * context * steps
        for name, seconds in best.items():
            rows.append(row(f"{name}: tokens", f"{tokens / seconds:,.0f} /s"))
            if big and (peak := peak_of(torch.cuda.get_device_name())):
                used = tokens / seconds * flops_of_a_token(network(big), context) / peak
                rows.append(row("… of the GPU's peak", f"{100 * used:.1f} %"))
        times = best["a loop by hand"] / best["Trainer"]
        rows.append(
            row("Trainer, in the loop by hand", f"{times:.3f} ×", "≥ 0.99 ×" if big else "")
        )
        told = " and ".join(f"{loss:.4f}" for loss in losses.values())
        rows.append(row("mean losses of both", told))
        if there:
            print(torch.cuda.get_device_name(), file=sys.stderr)


def network(big: bool) -> GPT:
    torch.manual_seed(SEED)
    # The vocabulary is padded to a multiple of 64, as one does for the matrix units' sake.
    if big:
        return GPT.preset("gpt2", vocabulary=50_304, dropout=0.0)
    return GPT(64, context=16, width=32, layers=1, heads=2, positions="learned")


def by_trainer(
    model: GPT, warm: Tokens, data: Tokens, *, device: str, compiled: bool
) -> tuple[float, float]:
    clock = _Clock(warm, data, device)
    history = Trainer(
        model, clock, loss=loss_of, learning_rate=RATE, precision="bf16",
        compile=compiled, device=device, quiet=True,
    ).fit()  # fmt: skip
    return clock.took_s, history["loss"][-1]


def by_hand(
    model: GPT, warm: Tokens, data: Tokens, *, device: str, compiled: bool
) -> tuple[float, float]:
    clock = _Clock(warm, data, device)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0, fused=True)
    learner: Any = torch.compile(model) if compiled else model
    losses = []
    for inputs, targets in clock:
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of(learner(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return clock.took_s, torch.stack(losses).double().mean().item()


class _Clock:
    """Batches to warm up with, then those in whose time both loops are measured."""

    def __init__(self, warm: Tokens, data: Tokens, device: str) -> None:
        self._warm, self._data, self._device = warm, data, device
        self.took_s = 0.0

    def __iter__(self) -> Iterator[Any]:
        yield from self._warm
        batches = iter(self._data)
        self._wait()
        began = time.perf_counter()
        yield from batches
        self._wait()
        self.took_s = time.perf_counter() - began

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def flops_of_a_token(model: GPT, context: int) -> float:
    places = sum(each.numel() for each in model.places.parameters()) if model.places else 0
    parameters = sum(each.numel() for each in model.parameters()) - places
    return 6 * parameters + 12 * model.layers * model.width * context


def peak_of(device_name: str) -> float | None:
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)


if __name__ == "__main__":
    main()
