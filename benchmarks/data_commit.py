"""Committing many small files, beside hashing the same files alone.

Both list the directory, read every file and take its SHA-256; the commit also asks for the state
of each file, packs them, writes them down until they are on the disk, and makes the manifest. In
turns, so that whatever else the machine does hits both; the best turn of each counts.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from leptonai.data.commit import commit
from leptonai.data.shelf import Shelf
from leptonai.data.source import LocalSource

SMALLEST_BYTES, LARGEST_BYTES = 4 << 10, 16 << 10
FILES_A_FOLDER = 1000
BATCH = 500  # files that a worker is given at once
GOAL = 0.7


def make_files(root: Path, count: int) -> int:
    chance = random.Random(0)
    noise = chance.randbytes(1 << 20)
    total = 0
    for number in range(count):
        folder = root / f"{number // FILES_A_FOLDER:03}"
        folder.mkdir(exist_ok=True)
        size = chance.randrange(SMALLEST_BYTES, LARGEST_BYTES)
        at = chance.randrange(len(noise) - size)
        content = number.to_bytes(8, "little") + noise[at : at + size - 8]
        (folder / f"{number:06}.bin").write_bytes(content)
        total += size
    return total


def hash_files(paths: list[str]) -> list[bytes]:
    buffer = memoryview(bytearray(LARGEST_BYTES + 1))
    digests = []
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        size = os.readv(fd, [buffer])
        os.close(fd)
        digests.append(hashlib.sha256(buffer[:size]).digest())
    return digests


def batches(root: Path) -> list[list[str]]:
    paths = [f"{at}/{name}" for at, _, names in os.walk(root) for name in names]
    return [paths[at : at + BATCH] for at in range(0, len(paths), BATCH)]


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall, and of CPU in all processes that have ended."""
    before, wall = os.times(), time.perf_counter()
    act()
    wall = time.perf_counter() - wall
    after = os.times()
    return wall, sum(after[:4]) - sum(before[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "files"
        root.mkdir()
        total = make_files(root, asked.files)
        print(json.dumps(measure(root, Path(scratch), asked.files, total, asked.turns), indent=2))


def measure(root: Path, scratch: Path, files: int, total: int, turns: int) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    best: dict[str, tuple[float, float]] = {}

    def threads() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(hash_files, batches(root)))

    def processes() -> None:
        with ProcessPoolExecutor(cores) as pool:
            list(pool.map(hash_files, batches(root)))

    def first_commit() -> None:
        commit(LocalSource(root), Shelf(scratch / "shelf"))

    def again() -> None:
        commit(LocalSource(root), Shelf(scratch / "shelf"))

    def one_changed() -> None:
        (root / "000" / "000000.bin").write_bytes(time.time_ns().to_bytes(8, "little"))
        made = commit(LocalSource(root), Shelf(scratch / "shelf"))
        assert made.stored_objects == 1, made

    acts = {
        "hash_threads": threads,
        "hash_processes": processes,
        "commit": first_commit,
        "commit_unchanged": again,
        "commit_one_changed": one_changed,
    }
    for turn in range(turns):
        shutil.rmtree(scratch / "shelf", ignore_errors=True)
        for name, act in acts.items():
            took = timed(act)
            best[name] = min(best.get(name, took), took)
            print(f"{turn} {name}: {took[0]:.2f} s, {took[1]:.2f} s CPU", file=sys.stderr)
    fastest = min(best["hash_threads"][0], best["hash_processes"][0])
    leanest = min(best["hash_threads"][1], best["hash_processes"][1])
    return {
        "files": files,
        "bytes": total,
        "cores": cores,
        "objects": sum(1 for _ in (scratch / "shelf" / "sha256").rglob("*/*")),
        **{f"{name}_s": round(wall, 3) for name, (wall, _) in best.items()},
        **{f"{name}_cpu_us_a_file": round(cpu / files * 1e6, 1) for name, (_, cpu) in best.items()},
        "speed_of_hashing": round(fastest / best["commit"][0], 3),
        "speed_of_hashing_by_cpu": round(leanest / best["commit"][1], 3),
        "goal": GOAL,
    }


if __name__ == "__main__":
    main()
