"""Workers that train together, started as a platform would start them."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TIME_LIMIT_S = 300


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_workers(
    program: Path,
    arguments: Sequence[str],
    *,
    workers: int,
    logs: Path,
    only: Sequence[int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[int]:
    """Exit codes, by rank; what they printed is in ``logs / "RANK.log"``.

    Args:
        only: of these ranks; all if not given.
    """
    logs.mkdir(exist_ok=True, parents=True)
    env = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(workers), "OMP_NUM_THREADS": "1", **(environment or {}),
    }  # fmt: skip
    processes = []
    for rank in only if only is not None else range(workers):
        with (logs / f"{rank}.log").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(program), *arguments],
                    env=env | {"RANK": str(rank)}, stdout=log, stderr=log,
                )
            )  # fmt: skip
    try:
        return [process.wait(TIME_LIMIT_S) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
