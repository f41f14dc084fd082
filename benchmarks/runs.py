"""Recording runs and reading them back, against a platform of its own.

    python -m benchmarks.runs [--table]

Prints one JSON object; with `--table` it also writes benchmarks/results/runs.md. A process logs at
a steady pace, with TensorBoard's files and all; what its training pays is the CPU of its own
thread. Then curves of a million points are asked for reduced to a thousand, and a thousand runs are
listed with their summaries.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.processes import cpu_s
from benchmarks.tables import Row, write_figures
from leptonai.blobs.points import Batch, Series, encode_batch
from leptonai.client import LeptonClient
from leptonai.spec.metadata import Metadata
from leptonai.spec.runs import Run, RunSpec
from leptonai.testing.platform import RunningPlatform
from leptonai.tracking.active import begin

PACE_PER_S = 60_000
PACE_FOR_S = 10.0
TICK_S = 0.01
CALLS = 20_000
ROUNDS = 9
CURVE_POINTS = 1_000_000
BATCH = 40_000
RUNS = 1_000
KEYS = 20

TABLE = (
    Row(
        "points logged and stored by one process, sustained for 10 s",
        "points_per_s",
        "/s",
        "≥ 50,000",
    ),
    Row("… lost", "points_dropped", "", "0"),
    Row("… CPU of the logging thread for one", "log_cpu_us_1_keys", "µs", "≤ 2"),
    Row("… with ten keys in a call", "log_cpu_us_10_keys", "µs"),
    Row(
        "… CPU of the process for one, TensorBoard's files written",
        "process_cpu_us_per_point",
        "µs",
    ),
    Row("… CPU of the server for one", "server_cpu_us_per_point", "µs"),
    Row(
        "a curve of 1,000,000 points reduced to 1,000 by minmax, p50",
        "curve_minmax_ms_p50",
        "ms",
        "< 100",
    ),
    Row("… the server's part", "curve_minmax_server_cpu_ms", "CPU ms"),
    Row("… by lttb, p50", "curve_lttb_ms_p50", "ms", "< 100"),
    Row("… the server's part", "curve_lttb_server_cpu_ms", "CPU ms"),
    Row(
        "comparing 1,000 runs of 20 metrics and 10 parameters, p50", "compare_ms_p50", "ms", "< 300"
    ),
    Row("… the server's part", "compare_server_cpu_ms", "CPU ms"),
    Row("… through the SDK, decoded, p50", "compare_sdk_ms_p50", "ms"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    write_table = parser.parse_args().table
    with TemporaryDirectory(prefix="bench-runs-", dir="/var/tmp") as directory:
        where = Path(directory)
        os.chdir(where)
        figures = log_cost(where)
        with RunningPlatform(where / "home") as platform, platform.client() as client:
            figures |= steady_pace(where, client, platform.state.pid)
            figures |= long_curve(client, platform.state.pid)
            figures |= many_runs(client, platform.state.pid)
    print(json.dumps(figures, indent=2))
    if write_table:
        write_figures("runs", "Runs", "python -m benchmarks.runs --table", TABLE, figures)


def log_cost(where: Path) -> dict[str, float]:
    """What a training pays: the CPU of its own thread."""
    run = _begin(where, None)
    figures = {}
    for name, values in (("1", {"loss": 0.5}), ("10", {f"key{i}": 0.5 for i in range(10)})):
        best = math.inf
        for _ in range(ROUNDS):
            began = time.thread_time()
            for step in range(CALLS):
                run.log(values, step=step)
            best = min(best, (time.thread_time() - began) / CALLS / len(values))
            run.flush()
        figures[f"log_cpu_us_{name}_keys"] = round(1e6 * best, 2)
    run.finish()
    return figures


def steady_pace(where: Path, client: LeptonClient, server: int) -> dict[str, float]:
    run = _begin(where, client)
    run.flush()
    each = round(PACE_PER_S * TICK_S)
    own_s, server_s, began, step = time.process_time(), cpu_s(server), time.perf_counter(), 0
    while time.perf_counter() - began < PACE_FOR_S:
        due_s = began + TICK_S * (step // each + 1)
        for _ in range(each):
            run.log(loss=1 / (step + 1), step=step)
            step += 1
        time.sleep(max(0.0, due_s - time.perf_counter()))
    logged_s = time.perf_counter() - began
    safe = run.flush()
    took_s = time.perf_counter() - began
    used_s, server_used_s = time.process_time() - own_s, cpu_s(server) - server_s
    run.finish()
    stored = client.runs.get(run.id).status
    assert safe and stored is not None
    assert stored.summary["loss"].step == step - 1
    return {
        "points_per_s": round(step / took_s),
        "points_dropped": run.dropped,
        "behind_at_the_end_s": round(took_s - logged_s, 2),
        "process_cpu_us_per_point": round(1e6 * used_s / step, 2),
        "server_cpu_us_per_point": round(1e6 * server_used_s / step, 2),
    }


def long_curve(client: LeptonClient, server: int) -> dict[str, float]:
    id = "1" * 32
    client.runs.start(Run(metadata=Metadata(id=id, name="long"), spec=RunSpec()))
    for number, start in enumerate(range(0, CURVE_POINTS, BATCH), 1):
        steps = array("q", range(start, start + BATCH))
        values = array("f", (math.sin(step / 9_999) + step % 7 for step in steps))
        times = array("q", (1_700_000_000_000 + 7 * step for step in steps))
        wide = array("d", values)
        series = Series("loss", steps.tobytes(), wide.tobytes(), times.tobytes())
        client.runs.append(id, encode_batch(Batch("a" * 16, number, 0, (series,))))
    figures = {}
    for method in ("minmax", "lttb"):
        ask = partial(client.runs.metrics, id, "loss", method=method)
        figures |= _milliseconds(f"curve_{method}", ask, server)
    return figures


def many_runs(client: LeptonClient, server: int) -> dict[str, float]:
    one = (array("q", (1,)).tobytes(), array("d", (0.5,)).tobytes(), array("q", (7,)).tobytes())
    series = tuple(Series(f"key{number}", *one) for number in range(KEYS))
    for number in range(RUNS):
        id = f"{number:032x}"
        spec = RunSpec(params={f"param{i}": i * number for i in range(10)})
        labels = {"project": "bench"}
        client.runs.start(Run(metadata=Metadata(id=id, name="many", labels=labels), spec=spec))
        client.runs.append(id, encode_batch(Batch("b" * 16, 1, 0, series)))
    found = client.runs.list(labels="project=bench")
    assert len(found) == RUNS

    def ask() -> None:
        client._calls.ask(_request(f"/runs?query=project%3Dbench&page_size={RUNS}"))

    listed = partial(client.runs.list, labels="project=bench")
    return _milliseconds("compare", ask, server) | _milliseconds("compare_sdk", listed, server)


def _request(path: str):  # type: ignore[no-untyped-def]
    from leptonai.client.messages import Request

    return Request(method="GET", path=path)


def _begin(where: Path, client: LeptonClient | None):  # type: ignore[no-untyped-def]
    return begin(
        "bench",
        params=None,
        tags=None,
        project=None,
        id=None,
        directory=where / "runs",
        client=client,
        local=client is None,
    )


def _milliseconds(name: str, ask: Callable[[], object], server: int) -> dict[str, float]:
    """What the asker waits for, and what it costs the server: the latter does not depend upon what
    else runs on the machine."""
    ask()
    took, before_s = [], cpu_s(server)
    for _ in range(ROUNDS):
        began = time.perf_counter()
        ask()
        took.append(1e3 * (time.perf_counter() - began))
    return {
        f"{name}_ms_best": round(min(took), 1),
        f"{name}_ms_p50": round(statistics.median(took), 1),
        f"{name}_server_cpu_ms": round(1e3 * (cpu_s(server) - before_s) / ROUNDS, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
