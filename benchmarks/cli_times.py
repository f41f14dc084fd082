"""How long a person waits for the command line: prints JSON with p50 wall milliseconds.

`python benchmarks/cli_times.py [RUNS]`; the workspace is one in memory, so that only the client
side counts. Beside it stands an empty Python, which nothing written in Python can beat.
"""

import json
import os
import statistics
import subprocess
import sys
import time

from leptonai.testing.workspace_server import TOKEN, WorkspaceServer

RUNS = 20
JOBS = 20  # in the list


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with WorkspaceServer() as server:
        for number in range(JOBS):
            server.add_job(f"job-{number}")
        environment = {
            **os.environ,
            "LEPTON_WORKSPACE_URL": server.url,
            "LEPTON_WORKSPACE_TOKEN": TOKEN,
        }
        cli = [sys.executable, "-m", "leptonai.cli"]
        times = {
            "python_ms": p50_ms([sys.executable, "-c", ""], environment, runs),
            "help_ms": p50_ms([*cli, "--help"], environment, runs),
            "job_create_help_ms": p50_ms([*cli, "job", "create", "--help"], environment, runs),
            "job_list_ms": p50_ms([*cli, "job", "list"], environment, runs),
            "job_list_json_ms": p50_ms([*cli, "job", "list", "-o", "json"], environment, runs),
        }
    print(json.dumps({"runs": runs, "jobs": JOBS, **times}))


def p50_ms(command: list[str], environment: dict[str, str], runs: int) -> float:
    taken = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        taken.append(1_000 * (time.perf_counter() - began))
    return round(statistics.median(taken[1:]), 1)  # the first one fills the caches


if __name__ == "__main__":
    main()
