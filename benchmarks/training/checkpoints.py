"""What a checkpoint costs a training that goes on meanwhile: 100 M parameters and AdamW's state.

    python -m benchmarks.training.checkpoints [--quick]

A model is trained by a loop that uses all cores. In turns some steps are taken without a
checkpoint, and as many in which one is begun, as the Trainer does it: copied aside while training
stands still, and written down by a thread beside it. The difference, at one a minute, is what it
costs. On a machine that others use the wall clock tells mostly of them; so the goal is held against
the time that training stands still and the processor's time that the thread takes from it.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.training.turns import Took, in_turns, middle, part, row, timed
from leptonai.training.saver import Saver, Trained
from leptonai.training.saving import Keep
from leptonai.training.world import World

WIDTH, LAYERS, BATCH = 2_048, 24, 16
EVERY_S = 60.0
MOST_PERCENT = 2.0


def main() -> None:
    with part(__doc__) as (quick, rows), tempfile.TemporaryDirectory() as scratch:
        width, turns = (64, 1) if quick else (WIDTH, 3)
        torch.manual_seed(0)
        model = nn.Sequential(
            *(layer for _ in range(LAYERS) for layer in (nn.Linear(width, width), nn.ReLU()))
        )
        for weights in model.parameters():
            if (
                weights.ndim == 2
            ):  # else so many layers end in numbers too small to be computed fast
                nn.init.kaiming_normal_(weights)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
        inputs = torch.randn(BATCH, width)

        def step() -> None:
            model(inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        saver = Saver(
            Path(scratch), World(0, 1, torch.device("cpu")), Trained(model, optimizer, {}),
            keep=Keep(1, 0), every_steps=None, before=lambda: None,
            after=lambda step: None,
        )  # fmt: skip
        step()
        number, stalls, writes = 0, [], []

        def save() -> None:
            nonlocal number
            number += 1
            saver.save(number, {})

        first_s = timed(save).wall_s
        writes.append(timed(saver.wait))
        steps = steps_that_last(step, 0.1 if quick else 1.3 * writes[0].wall_s + 1)

        def with_one() -> None:
            stalls.append(timed(save).wall_s)
            for _ in range(steps):
                step()
            saver.wait()  # it has ended by itself, where the machine is not too busy

        def without() -> None:
            for _ in range(steps):
                step()

        took = in_turns({"with": with_one, "without": without}, turns)
        for _ in range(1 if quick else 3):
            save()
            writes.append(timed(saver.wait))
        pairs = list(zip(took["with"], took["without"], strict=True))
        longer_s = min(a.wall_s for a, _ in pairs) - min(b.wall_s for _, b in pairs)
        write_cpu_s = min(each.cpu_s for each in writes)
        cores = len(os.sched_getaffinity(0))
        bytes_saved = sum(each.nbytes for each in Trained(model, optimizer, {}).tensors().values())
        rows += [
            row("saved", f"{bytes_saved / 1e9:.2f} GB"),
            row("training stands still, the first time", f"{1e3 * first_s:.0f} ms"),
            row("… later", f"{1e3 * min(stalls):.0f} ms"),
            row("written, nothing beside it", f"{min(each.wall_s for each in writes):.2f} s"),
            row("… CPU time", f"{min(each.cpu_s for each in writes):.2f} s"),
            row("steps without one", f"{steps} in {middle([b.wall_s for _, b in pairs]):.1f} s"),
            row("… longer with one", f"{longer_s:+.2f} s"),
            row("… at one a minute, of step time", f"{100 * longer_s / EVERY_S:+.1f} %"),
            row(
                f"standing still, and the writer's part of {cores} cores, at one a minute",
                f"{100 * (min(stalls) + write_cpu_s / cores) / EVERY_S:.1f} %",
                f"≤ {MOST_PERCENT:g} %",
            ),
        ]  # fmt: skip


def steps_that_last(step: Callable[[], None], seconds: float) -> int:
    took: list[Took] = [timed(step) for _ in range(3)]
    return max(1, round(seconds / min(each.wall_s for each in took)))


if __name__ == "__main__":
    main()
