"""A long log read back, and a live one followed by many, against a platform of its own.

    python -m benchmarks.logs [--table] [--lep PATH]

Prints one JSON object; with `--table` it also writes benchmarks/results/logs.md. `--lep` is the
published client: it reads the same million lines, as its users do.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from benchmarks.processes import cpu_s, rss_mb
from benchmarks.tables import Row, write_figures
from leptonai.client import LeptonClient
from leptonai.spec.containers import Container
from leptonai.spec.jobs import JobSpec, LeptonJob
from leptonai.spec.metadata import Metadata
from leptonai.testing.platform import RunningPlatform, eventually

COMMAND = "python -m benchmarks.logs --table --lep lep"
LINES = 1_000_000
LONG = ("seq", "-f", "line %09.0f of a log that is long", str(LINES))
FOLLOWERS = 1_000
STALLED = 50  # more, that never read
FOLLOWED_S = 15
# Each line tells when it was written, and is longer than a pipe to those who do not read.
STEADY = f"""\
import time
time.sleep(8)
end = time.time() + {FOLLOWED_S}
n = 0
while time.time() < end:
    print(n, time.time(), 'x' * 2000, flush=True)
    n += 1
    time.sleep(0.05)
"""

TABLE = (
    Row("`/logs` of 1,000,000 lines in pages of 10,000, through the SDK", "history_s", "s"),
    Row("… the server's part", "history_server_cpu_s", "CPU s"),
    Row("… what the server's memory grew by", "history_grew_mb", "MB", "< 32"),
    Row("the same by the published client: `lep log get --path`", "lep_s", "s"),
    Row("… the server's part", "lep_server_cpu_s", "CPU s"),
    Row("… lines missing, or not in order", "lep_wrong_lines", "", "0"),
    Row("1,000 followers of a live log of 20 lines/s: a line is late by, p50", "late_ms_p50", "ms"),
    Row("… p99", "late_ms_p99", "ms"),
    Row("… lines missing", "lines_missing", "", "0"),
    Row("… CPU of the server", "followers_server_cpu", "cores", "< 1"),
    Row("… memory of the server for each, 50 more not reading", "follower_kb", "KB", "< 100"),
    Row("… what it grew by from a third of the time to the end", "followers_grew_mb", "MB", "< 8"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--lep")
    asked = parser.parse_args()
    figures: dict[str, float] = {}
    with TemporaryDirectory(prefix="bench-logs-", dir="/var/tmp") as directory:
        where = Path(directory)
        with RunningPlatform(where / "home") as platform, platform.client() as client:
            # First, while the server has no memory to spare that it had used before.
            figures |= asyncio.run(followed(platform, client))
            figures |= long_log(platform, client)
            if asked.lep:
                figures |= published_client(platform, client, asked.lep, where)
    print(json.dumps(figures, indent=2))
    if asked.table:
        write_figures("logs", "Logs", COMMAND, TABLE, figures)


def long_log(platform: RunningPlatform, client: LeptonClient) -> dict[str, float]:
    job = client.jobs.create(_job("long", *LONG))
    ended = client.jobs.wait(job.metadata.id or "")
    assert ended.status is not None
    server, before_mb = platform.state.pid, rss_mb(platform.state.pid)
    before_s, began = cpu_s(server), time.perf_counter()
    created_ms, completed_ms = ended.status.creation_time, ended.status.completion_time
    assert created_ms is not None
    assert completed_ms is not None
    number, last_ns = 0, 0
    for at, line in client.jobs.history(
        job.metadata.id or "", created_ms * 1_000_000, completed_ms * 1_000_000
    ):
        number += 1
        assert line == f"line {number:09} of a log that is long"
        assert last_ns < (last_ns := int(at)), "each line has a nanosecond of its own"
    assert number == LINES
    return {
        "history_s": round(time.perf_counter() - began, 2),
        "history_server_cpu_s": round(cpu_s(server) - before_s, 2),
        "history_grew_mb": round(rss_mb(server) - before_mb, 1),
    }


def published_client(
    platform: RunningPlatform, client: LeptonClient, lep: str, where: Path
) -> dict[str, float]:
    (job,) = (each.metadata.id for each in client.jobs.list() if each.metadata.name == "long")
    state = platform.state
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "LEPTON_WORKSPACE_ID": state.workspace,
        "LEPTON_WORKSPACE_TOKEN": platform.token,
        "LEPTON_WORKSPACE_URL": f"{state.url}/api/v2/workspaces/{state.workspace}",
        "LEPTON_CACHE_DIR": str(where / "cache"),
    }
    (where / "cache").mkdir()
    (where / "cache/latest_version_check").write_text(str(int(time.time())))
    before_s, began = cpu_s(state.pid), time.perf_counter()
    out = where / "out.txt"
    done = subprocess.run(
        [lep, "log", "get", "-j", str(job), "--path", str(out), "--without-timestamp"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    took_s, used_s = time.perf_counter() - began, cpu_s(state.pid) - before_s
    numbers = [
        int(line.split()[1]) for line in out.read_text().splitlines() if line.startswith("line ")
    ]
    wrong = LINES - len(numbers) + sum(1 for a, b in pairwise(numbers) if b != a + 1)
    return {
        "lep_s": round(took_s, 1),
        "lep_server_cpu_s": round(used_s, 2),
        "lep_wrong_lines": wrong,
    }


async def followed(platform: RunningPlatform, client: LeptonClient) -> dict[str, float]:
    id = client.jobs.create(_job("steady", "python3", "-c", STEADY)).metadata.id or ""
    replicas = eventually(lambda: client.jobs.replicas(id))
    server = platform.state.pid
    before_mb = rss_mb(server)
    path = f"/api/v2/workspaces/{platform.state.workspace}/jobs/{id}/replicas/{replicas[0].id}/log"
    late_ms: list[float] = []
    stalled = [await _connect(platform, path) for _ in range(STALLED)]
    opened = asyncio.Semaphore(64)

    async def one() -> int:
        async with opened:
            reader, writer = await _connect(platform, path)
        lines = await _lines(reader, late_ms)
        writer.close()
        return lines

    following = [asyncio.create_task(one()) for _ in range(FOLLOWERS)]
    await asyncio.sleep(8 + FOLLOWED_S / 3)
    third_mb, before_s, began = rss_mb(server), cpu_s(server), time.perf_counter()
    await asyncio.sleep(FOLLOWED_S / 2)
    used = (cpu_s(server) - before_s) / (time.perf_counter() - began)
    end_mb = rss_mb(server)
    counts = await asyncio.gather(*following)
    for _, writer in stalled:
        writer.close()
    assert len(set(counts)) == 1, "each follower gets every line"
    written = len(list(client.jobs.log(id, replicas[0].id, follow=False)))
    late_ms.sort()
    return {
        "late_ms_p50": round(statistics.median(late_ms), 1),
        "late_ms_p99": round(late_ms[len(late_ms) * 99 // 100], 1),
        "lines_missing": written * FOLLOWERS - sum(counts),
        "followers_server_cpu": round(used, 2),
        "follower_kb": round((end_mb - before_mb) * 1024 / (FOLLOWERS + STALLED), 1),
        "followers_grew_mb": round(end_mb - third_mb, 1),
    }


async def _connect(
    platform: RunningPlatform, path: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = urlsplit(platform.state.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {platform.token}\r\n\r\n".encode()
    )
    return reader, writer


async def _lines(reader: asyncio.StreamReader, late_ms: list[float]) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    lines, rest = 0, b""
    while size := int(await reader.readline(), 16):
        data = rest + (await reader.readexactly(size + 2))[:-2]
        *whole, rest = data.split(b"\n")
        lines += len(whole)
        if whole:
            late_ms.append((time.time() - float(whole[-1].split()[1])) * 1_000)
    return lines


def _job(name: str, *command: str) -> LeptonJob:
    spec = JobSpec(container=Container(command=[*command]))
    return LeptonJob(metadata=Metadata(id=name), spec=spec)


if __name__ == "__main__":
    main()
