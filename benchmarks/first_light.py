"""The platform as its users feel it: start latency, jobs a second, ready time, memory, idle CPU.

Prints JSON; where there is such a thing, beside a bare subprocess in the same run.
"""

import asyncio
import json
import os
import select
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.processes import cpu_s, pss_mb
from leptonai.client import LeptonClient
from leptonai.spec.containers import Container
from leptonai.spec.jobs import JobSpec, JobState, LeptonJob
from leptonai.spec.metadata import Metadata
from leptonai.testing.platform import RunningPlatform

LATENCY_RUNS = 60
JOBS = 1_000
SUBMITTERS = 4
IDLE_S = 15
READY_RUNS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder))))


def measure(folder: Path) -> dict[str, float]:
    figures = {f"{name}_s": value for name, value in ready_times(folder).items()}
    with RunningPlatform(folder / "home") as platform:
        client = platform.client()
        warm_up(client)
        fifo = folder / "started"
        os.mkfifo(fifo)
        command = ["sh", "-c", 'echo > "$0"', str(fifo)]
        figures |= latencies("start_bare_ms", lambda: run_bare(command), fifo)
        figures |= latencies("start_ms", lambda: submit(client, command), fifo)
        figures |= throughput(platform)
        time.sleep(3)
        pids = [platform.state.pid, gateway_pid(platform)]
        figures["memory_pss_mb"] = sum(pss_mb(pid) for pid in pids)
        figures["control_pss_mb"], figures["gateway_pss_mb"] = (pss_mb(pid) for pid in pids)
        figures["idle_cpu_percent"] = idle_cpu(pids)
    return figures


def ready_times(folder: Path) -> dict[str, float]:
    """`leptonai up -d`, from typing it to having the prompt back, when everything answers."""
    first, again = [], []
    for number in range(READY_RUNS):
        platform = RunningPlatform(folder / f"ready-{number}")
        for times in (first, again):
            start = time.perf_counter()
            platform.up()
            times.append(time.perf_counter() - start)
            platform.cli("down")
    return {"ready_first": statistics.median(first), "ready_again": statistics.median(again)}


def warm_up(client: LeptonClient) -> None:
    for _ in range(5):
        client.jobs.wait(submit(client, ["true"]), timeout_s=30)


def submit(client: LeptonClient, command: list[str]) -> str:
    spec = JobSpec(container=Container(command=command))
    job = client.jobs.create(LeptonJob(metadata=Metadata(id="bench"), spec=spec))
    return job.metadata.id or ""


def run_bare(command: list[str]) -> None:
    subprocess.Popen(command)


def latencies(name: str, start: Callable[[], object], fifo: Path) -> dict[str, float]:
    """From before the request to the first act of the user's process."""
    times = []
    for _ in range(LATENCY_RUNS):
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        began = time.perf_counter()
        thread = threading.Thread(target=start)
        thread.start()
        select.select([reader], [], [], 10)
        times.append(1_000 * (time.perf_counter() - began))
        thread.join()
        os.close(reader)
        time.sleep(0.03)
    times.sort()
    return {f"{name}_p50": statistics.median(times), f"{name}_p95": times[int(0.95 * len(times))]}


def throughput(platform: RunningPlatform) -> dict[str, float]:
    """Trivial jobs through the queue, from the first request to the last job's end."""
    began = time.perf_counter()
    asyncio.run(bare_processes(JOBS))
    bare_s = time.perf_counter() - began

    def some(number: int) -> None:
        client = platform.client()
        for _ in range(number, JOBS, SUBMITTERS):
            submit(client, ["true"])

    before = {job.metadata.id for job in platform.client().jobs.list()}
    began = time.perf_counter()
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        list(pool.map(some, range(SUBMITTERS)))
    submitted_s = time.perf_counter() - began
    client = platform.client()
    while unfinished(client):
        time.sleep(0.05)
    finished_s = time.perf_counter() - began
    jobs = [job for job in client.jobs.list() if job.metadata.id not in before]
    completed = sum(job.status.state is JobState.COMPLETED for job in jobs if job.status)
    assert (len(jobs), completed) == (JOBS, JOBS), f"{completed} of {len(jobs)} completed"
    return {
        "jobs_per_s_bare": JOBS / bare_s,
        "jobs_per_s": JOBS / finished_s,
        "submissions_per_s_http": JOBS / submitted_s,
    }


def unfinished(client: LeptonClient) -> bool:
    states = ["Queueing", "Starting", "Running"]
    return bool(client.jobs.list(status=states, limit=1))


async def bare_processes(count: int) -> None:
    limit = asyncio.Semaphore(8)

    async def one() -> None:
        async with limit:
            process = await asyncio.create_subprocess_exec("true")
            await process.wait()

    await asyncio.gather(*(one() for _ in range(count)))


def gateway_pid(platform: RunningPlatform) -> int:
    return int(json.loads((platform.home.gateway / "process.json").read_text())["pid"])


def idle_cpu(pids: list[int]) -> float:
    before = sum(cpu_s(pid) for pid in pids)
    time.sleep(IDLE_S)
    return 100 * (sum(cpu_s(pid) for pid in pids) - before) / IDLE_S


if __name__ == "__main__":
    main()
