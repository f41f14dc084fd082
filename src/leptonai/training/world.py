"""`World`: the processes that train together, and how they agree.

The variables are those that torchrun and Lepton set; without them a process trains alone.
"""

import atexit
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from leptonai.errors import Conflict, InvalidRequest, Unavailable

ARRIVAL_S = 300.0  # for all workers to come together
COLLECTIVE_S = 1_800.0  # for one exchange: a worker may be busy with its data
ASK_EVERY_S = 0.05
SETTLE_S, SETTLE_EVERY_S = 5.0, 0.001


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Over all ranks; each gives as many values."""
        if self.size == 1:
            return values
        summed = values.to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(values.device)

    def most(self, values: Sequence[float]) -> list[float]:
        """Of each value the largest that a rank gave: so all go on with the same ones."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return found.tolist()

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        """What each rank has, by rank: tensors of one shape and type."""
        if self.size == 1:
            return [values]
        there = values.to(self.device)
        found = [torch.empty_like(there) for _ in range(self.size)]
        dist.all_gather(found, there)
        return [each.to(values.device) for each in found]

    def gather_json(self, value: Any) -> list[Any]:
        """What each rank has, by rank: whatever JSON can say."""
        mine = json.dumps(value).encode()
        room = int(self.most([len(mine)])[0])
        padded = torch.frombuffer(bytearray(mine.ljust(room)), dtype=torch.uint8)
        return [json.loads(bytes(each.tolist())) for each in self.gather(padded)]

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


def enter_world(
    device: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    arrival_s: float = ARRIVAL_S,
) -> World:
    """Meet the other workers, if there are any. A process does so once; later calls give the same.

    Raises:
        InvalidRequest: a GPU is asked for and there is none; or the variables are no numbers.
        Conflict: another program holds the port that the workers were to meet at.
        Unavailable: not all workers came; says which.
    """
    env = os.environ if environment is None else environment
    rank, size, local = (
        _number(env, *each) for each in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    chosen = _device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=PrefixStore("training", _meet(env, rank, size, arrival_s)),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=COLLECTIVE_S),
        )
        atexit.register(leave_world)
    return World(rank, size, chosen)


def leave_world() -> None:
    """Also done when the process ends: training that succeeded must not fail at its very end.

    A thread of gloo lets go of the tensors of an exchange a little after the exchange. When Python
    is already shutting down by then, it aborts the process ("terminate called without an active
    exception"): so those threads are waited for.
    """
    if not dist.is_initialized():
        return
    dist.destroy_process_group()
    deadline = time.monotonic() + SETTLE_S
    time.sleep(SETTLE_EVERY_S)
    while _exchanging() and time.monotonic() < deadline:
        time.sleep(SETTLE_EVERY_S)


def _exchanging() -> bool:
    """Whether a thread of gloo is at work still (where the system tells)."""
    for thread in Path("/proc/self/task").glob("[0-9]*"):
        try:
            name, _, rest = (thread / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue  # it has ended
        if name == "pt_gloo_runloop" and rest.split()[0] != "S":
            return True
    return False


def _meet(env: Mapping[str, str], rank: int, size: int, arrival_s: float) -> Store:
    """The store through which all find each other, once all are there."""
    host, port = env.get("MASTER_ADDR", "127.0.0.1"), _number(env, "MASTER_PORT", 29_500)
    held_by_torchrun = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    where = f"{host}:{port}"
    try:
        store: Store = TCPStore(
            host,
            port,
            is_master=rank == 0 and not held_by_torchrun,
            timeout=timedelta(seconds=arrival_s),
            wait_for_workers=False,
        )
    except dist.DistNetworkError as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            raise Conflict(
                f"the workers were to meet at {where}, and another program holds that port",
                hint="choose another MASTER_PORT",
            ) from None
        raise Unavailable(
            f"worker {rank} waited {arrival_s:g} s for worker 0 at {where}, in vain",
            hint="see the log of worker 0",
        ) from None
    attempt = env.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"attempt-{attempt}", store)
    store.set(f"arrived-{rank}", "1")
    names = [f"arrived-{each}" for each in range(size)]
    deadline = time.monotonic() + arrival_s
    try:
        while not store.check(names):
            if time.monotonic() > deadline:
                missing = [at for at, name in enumerate(names) if not store.check([name])]
                raise Unavailable(
                    f"of {size} workers {_listed(missing)} did not come within {arrival_s:g} s",
                    hint=f"see the log of worker {missing[0]}",
                )
            time.sleep(ASK_EVERY_S)
    except dist.DistError:
        raise Unavailable(
            f"worker 0 at {where} has gone while worker {rank} waited for the others",
            hint="see the log of worker 0",
        ) from None
    return store


def _listed(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
    return f"worker {shown}" if len(ranks) == 1 else f"the workers {shown}"


def _device(named: str | None, local_rank: int) -> torch.device:
    if named is None:
        named = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(named)
    except RuntimeError:
        raise InvalidRequest(
            f"there is no device {named!r}", hint="for example cpu, cuda or cuda:1"
        ) from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise InvalidRequest(
            "a GPU is asked for, and torch finds none here",
            hint="run it where there is one (leptonai train --gpu 1), or with device='cpu'",
        )
    return device if device.index is not None else torch.device("cuda", local_rank)


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise InvalidRequest(f"{name}={text!r} is no number", hint="unset it to train alone")
    return int(text)
