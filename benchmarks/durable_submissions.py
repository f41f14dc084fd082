"""How fast commits reach the disk: SQLite, beside PostgreSQL where one is installed.

    python benchmarks/durable_submissions.py [--directory DIR] [--seconds S]

Prints one JSON object. Every commit creates one job and has been synced to disk when it is counted.
The directory must be on a real disk, and open to others where root runs this, because PostgreSQL
does not run as root. `fsyncs_per_s` is what the disk itself can do, one after the other.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from leptonai.core.records import Job
from leptonai.ports.store import Put, Store
from leptonai.spec.containers import Container
from leptonai.spec.jobs import JobSpec
from leptonai.stores import open_store
from leptonai.testing.postgres import find_postgres, postgres_server

CALLERS = (1, 64)
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(TemporaryDirectory(dir=arguments.directory, prefix="bench-"))
        )
        directory.chmod(0o711)
        urls = {"sqlite": f"sqlite:///{directory}/lepton.db"}
        if find_postgres() is not None:
            urls["postgresql"] = stack.enter_context(postgres_server(directory))
        rounds: dict[str, list[dict[str, float]]] = {"disk": [], **{name: [] for name in urls}}
        for _ in range(ROUNDS):  # by turns, so that all suffer alike from what else runs here
            rounds["disk"].append({"fsyncs_per_s": fsyncs_per_second(directory / "probe")})
            for name, url in urls.items():
                rounds[name].append(uvloop.run(measure(url, arguments.seconds)))
    result = {name: medians(measured) for name, measured in rounds.items()}
    if "postgresql" in result:
        result["sqlite_to_postgresql"] = {
            what: round(value / result["postgresql"][what], 2)
            for what, value in result["sqlite"].items()
        }
    print(json.dumps(result, indent=2))


def medians(measured: list[dict[str, float]]) -> dict[str, float]:
    return {
        what: round(statistics.median(one[what] for one in measured), 3) for what in measured[0]
    }


def fsyncs_per_second(path: Path, *, count: int = 500) -> float:
    """Of one page each, appended to a file."""
    page = bytes(4096)
    with path.open("wb", buffering=0) as file:
        began = time.perf_counter()
        for _ in range(count):
            file.write(page)
            os.fdatasync(file.fileno())
        return count / (time.perf_counter() - began)


async def measure(url: str, seconds: float) -> dict[str, float]:
    """Commits a second by many callers, and what one caller alone waits for each."""
    store = await open_store(url)
    numbers: dict[str, float] = {}
    try:
        for callers in CALLERS:
            await commit_for(store, callers, seconds / 10)  # warm
            cpu = time.process_time()
            began = time.perf_counter()
            waits = await commit_for(store, callers, seconds)
            wall = time.perf_counter() - began
            numbers[f"commits_per_s_{callers}"] = round(len(waits) / wall)
            numbers[f"p50_ms_{callers}"] = round(1e3 * statistics.median(waits), 3)
            numbers[f"p99_ms_{callers}"] = round(1e3 * statistics.quantiles(waits, n=100)[98], 3)
            numbers[f"cpu_us_per_commit_{callers}"] = round(
                1e6 * (time.process_time() - cpu) / len(waits), 1
            )
    finally:
        await store.close()
    return numbers


async def commit_for(store: Store, callers: int, seconds: float) -> list[float]:
    """The wait of every commit, in seconds."""
    until = time.perf_counter() + seconds
    waits: list[float] = []

    async def call() -> None:
        while (began := time.perf_counter()) < until:
            await store.commit(Put(a_job()))
            waits.append(time.perf_counter() - began)

    await asyncio.gather(*(call() for _ in range(callers)))
    return waits


def a_job() -> Job:
    key = os.urandom(8).hex()
    return Job(
        workspace="default",
        id=f"train-{key}",
        name="train",
        created_at_ms=time.time_ns() // 1_000_000,
        owner="admin",
        idempotency_key=key,
        spec=JobSpec(
            container=Container(command=["python", "train.py", "--epochs", "10"]),
            resource_shape="cpu.small",
        ),
    )


if __name__ == "__main__":
    main()
