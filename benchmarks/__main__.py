"""Run every benchmark beside its peers, and write the table to benchmarks/results/.

``make bench``, or ``python -m benchmarks [NAME …]``.
"""

import argparse
import json
import sys
import time
from typing import Any, NamedTuple

from benchmarks.parts import parse, run_script
from benchmarks.tables import RESULTS, machine


class Row(NamedTuple):
    """One figure of the table: where it is found (dots lead inwards), and what it should be."""

    what: str
    script: str
    figure: str
    unit: str
    goal: str = ""


ROWS = (
    Row("submit → first act of the process, p50", "first_light", "start_ms_p50", "ms", "≤ 15"),
    Row("… p95", "first_light", "start_ms_p95", "ms"),
    Row("… of a bare subprocess, p50", "first_light", "start_bare_ms_p50", "ms"),
    Row("… with Ray Jobs", "peers", "ray_start_ms_p50", "ms"),
    Row("… with Slurm", "peers", "slurm_start_ms_p50", "ms"),
    Row("trivial jobs through the queue", "first_light", "jobs_per_s", "jobs/s", "≥ 250"),
    Row("… bare asyncio subprocesses", "first_light", "jobs_per_s_bare", "jobs/s"),
    Row("… with Ray Jobs", "peers", "ray_jobs_per_s", "jobs/s"),
    Row("… with Slurm", "peers", "slurm_jobs_per_s", "jobs/s"),
    Row("submissions over HTTP, acknowledged", "first_light", "submissions_per_s_http", "jobs/s"),
    Row(
        "durable submissions, 64 callers",
        "durable_submissions",
        "sqlite.commits_per_s_64",
        "/s",
        "≥ 3,000",
    ),
    Row("… with PostgreSQL", "durable_submissions", "postgresql.commits_per_s_64", "/s"),
    Row("… fsyncs of this disk", "durable_submissions", "disk.fsyncs_per_s", "/s"),
    Row("ready after `up -d`, a new home", "first_light", "ready_first_s", "s", "≤ 1"),
    Row("… a home that was there before", "first_light", "ready_again_s", "s", "≤ 1"),
    Row("memory of control plane and gateway (PSS)", "first_light", "memory_pss_mb", "MB", "≤ 120"),
    Row("CPU while idle", "first_light", "idle_cpu_percent", "%", "< 0.5"),
    Row("`leptonai --help`, p50", "cli_times", "help_ms", "ms", "≤ 150"),
    Row("`leptonai job list`, p50", "cli_times", "job_list_ms", "ms", "≤ 250"),
    Row(
        "requests through the gateway, 64 connections",
        "gateway",
        "gateway.per_second",
        "/s",
        "≥ 8,000",
    ),
    Row(
        "… the gateway's own cost of one",
        "gateway",
        "gateway.gateway_cpu_us_per_request",
        "µs CPU",
        "< 95",
    ),
    Row("… p99", "gateway", "gateway.p99_ms", "ms", "≤ 20"),
    Row("1,000,000 lines of a log, by pages", "logs", "history_s", "s"),
    Row("… what the server's memory grew by", "logs", "history_grew_mb", "MB", "< 32"),
    Row("1,000 followers of a log: a line is late by, p50", "logs", "late_ms_p50", "ms"),
    Row("… CPU of the server", "logs", "followers_server_cpu", "cores", "< 1"),
    Row("… what its memory grew by", "logs", "followers_grew_mb", "MB", "< 8"),
    Row("a no-op photon's cost of a request", "photon", "async_handler_cpu_us", "µs CPU"),
    Row("… of a bare ASGI app", "photon", "bare_cpu_us", "µs CPU"),
    Row("digits MLP, batched, 64 connections", "photon", "mlp_cpu_us", "µs CPU", "≤ 90"),
    Row(
        "… p50 at 1 connection, × without batching", "photon", "batching_p50_ratio_1", "", "≤ 1.05"
    ),
    Row(
        "`job why`, 1,000 running and 1,000 waiting, p50",
        "explanations",
        "why_cpu_ms_p50",
        "CPU ms",
        "≤ 200",
    ),
    Row("… longest pause of the event loop meanwhile", "explanations", "loop_gap_ms", "ms", "≤ 50"),
    Row("… expected by true wait, p50", "explanations", "expected_by_true_wait_p50", ""),
    Row(
        "committing 100,000 small files, by hashing them",
        "data_commit",
        "speed_of_hashing",
        "×",
        "≥ 0.7",
    ),
    Row("… again, one of them changed", "data_commit", "commit_one_changed_s", "s"),
    Row("a page of 500 jobs, of 10,000, p50", "job_lists", "page_500.ms_p50", "ms", "≤ 50"),
    Row("… the last page", "job_lists", "page_500_last.ms_p50", "ms"),
    Row("… by a part of the name", "job_lists", "by_name.ms_p50", "ms", "≤ 100"),
    Row("… by states", "job_lists", "by_state.ms_p50", "ms", "≤ 100"),
    Row("… by user", "job_lists", "by_user.ms_p50", "ms", "≤ 100"),
    Row("… by label", "job_lists", "by_label.ms_p50", "ms", "≤ 100"),
    Row("… by node group", "job_lists", "by_node_group.ms_p50", "ms", "≤ 100"),
    Row("points logged and stored by one process", "runs", "points_per_s", "/s", "≥ 50,000"),
    Row("… lost", "runs", "points_dropped", ""),
    Row("… what the training pays for one", "runs", "log_cpu_us_1_keys", "µs CPU", "≤ 2"),
    Row("a curve of 1,000,000 points, reduced", "runs", "curve_minmax_ms_p50", "ms", "≤ 100"),
    Row("… the server's part", "runs", "curve_minmax_server_cpu_ms", "CPU ms"),
    Row("comparing 1,000 runs", "runs", "compare_ms_p50", "ms", "≤ 300"),
    Row("… the server's part", "runs", "compare_server_cpu_ms", "CPU ms"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    scripts = list(dict.fromkeys(row.script for row in ROWS))
    names = parse(parser, scripts).names
    file = RESULTS / "first-light.json"
    figures = json.loads(file.read_text()) if file.exists() and names != scripts else {}
    for script in names:
        print(f"{script} …", end=" ", flush=True)
        began = time.perf_counter()
        figures[script] = run_script(script)
        print(f"{time.perf_counter() - began:.0f} s", flush=True)
    figures["machine"] = {"text": machine()}
    file.write_text(json.dumps(figures, indent=2) + "\n")
    (RESULTS / "first-light.md").write_text(table(figures))
    print(table(figures))
    return 0


def table(figures: dict[str, dict[str, Any]]) -> str:
    """In Markdown; figures of peers that are not installed are left out."""
    lines = [
        "# First light",
        "",
        f"Measured by `make bench` on {figures['machine']['text']}. Compare within it only.",
        "",
        "| what | measured | goal |",
        "| --- | ---: | ---: |",
    ]
    for row in ROWS:
        value: Any = figures.get(row.script, {})
        for part in row.figure.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            goal = f"{row.goal} {row.unit}" if row.goal else ""
            lines.append(f"| {row.what} | {_number(value)} {row.unit} | {goal} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
