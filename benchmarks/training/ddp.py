"""Two workers on this machine, gloo between them: the Trainer beside a loop with DDP by hand.

    python -m benchmarks.training.ddp

Both run in the same two processes, in turns, with one thread each; what is compared is the CPU time
of both workers, and beside it the time on the wall.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from benchmarks.training.turns import Took, in_turns, part, row, speed
from leptonai.data import DataLoader
from leptonai.training import Trainer
from leptonai.training.world import World, enter_world, leave_world

WORKERS = 2
BATCH = 128  # of both workers together
FEATURES, CLASSES = 64, 10
RATE = 1e-3
LIMIT_S = 600


def main() -> None:
    if "RANK" in os.environ:
        worker()
        return
    with part(__doc__) as (quick, rows):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = os.environ | {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "WORLD_SIZE": str(WORKERS), "QUICK": "1" if quick else "",
        }  # fmt: skip
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.training.ddp"],
                env=env | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True,
            )
            for rank in range(WORKERS)
        ]  # fmt: skip
        try:
            said = [each.communicate(timeout=LIMIT_S)[0] for each in workers]
        finally:
            for each in workers:
                each.kill()
        assert not any(each.returncode for each in workers), "a worker failed"
        per_s, by_cpu, by_wall = said[0].split()
        rows.append(
            row("MLP 64-256-256-10, batch 2 x 64: Trainer", f"{float(per_s):,.0f} samples/s")
        )
        rows.append(row("… in a loop by hand", f"{float(by_cpu):.3f} ×", "≥ 1 ×"))
        rows.append(row("… by the wall clock", f"{float(by_wall):.3f} ×"))


def worker() -> None:
    torch.set_num_threads(1)
    world = enter_world("cpu")
    steps, turns = (4, 1) if os.environ["QUICK"] else (250, 8)
    torch.manual_seed(0)
    arrays = (
        torch.randn(BATCH * steps, FEATURES).numpy(),
        torch.randint(CLASSES, (BATCH * steps,)).numpy(),
    )
    acts: dict[str, Callable[[], object]] = {
        "ours": lambda: Trainer(
            network(), arrays, learning_rate=RATE, batch_size=BATCH, quiet=True
        ).fit(),
        "by hand": lambda: by_hand(world, arrays),
    }
    took = in_turns({name: together(act) for name, act in acts.items()}, turns)
    both = {name: [summed(world, one) for one in each] for name, each in took.items()}
    ours, theirs = both["ours"], both["by hand"]
    if world.is_first:
        best = min(one.wall_s for one in ours)
        print(BATCH * steps / best, speed(ours, theirs), speed(ours, theirs, by_wall=True))
    leave_world()


def together(act: Callable[[], object]) -> Callable[[], object]:
    """All begin and end it at once."""

    def acted() -> None:
        dist.barrier()
        act()
        dist.barrier()

    return acted


def summed(world: World, took: Took) -> Took:
    cpu_s = world.sums(torch.tensor([took.cpu_s], dtype=torch.float64)).item()
    return Took(cpu_s, world.most([took.wall_s])[0])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, CLASSES)
    )


def by_hand(world: World, arrays: object) -> float:
    model = DistributedDataParallel(network(), gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0, fused=True)
    losses = []
    for inputs, targets in DataLoader(
        arrays, BATCH // WORKERS, True, rank=world.rank, world_size=WORKERS
    ):
        loss = functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    mean = torch.stack(losses).mean()
    dist.all_reduce(mean)
    return mean.item() / WORKERS


if __name__ == "__main__":
    main()
