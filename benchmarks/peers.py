"""The same figures for Ray Jobs and Slurm, where those are installed. Prints JSON."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RUNS = 5
JOBS = 10


def main() -> None:
    figures: dict[str, float] = {}
    if _has_ray():
        figures |= measure_ray()
    if shutil.which("sbatch") and _slurm_answers():
        figures |= measure("slurm", submit_slurm)
    print(json.dumps(figures))


def measure(peer: str, submit: Callable[[list[str]], object]) -> dict[str, float]:
    """Start latency of one job after another, then how fast a handful ends."""
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for number in range(RUNS):
            mark = Path(folder) / f"start-{number}"
            began = time.perf_counter()
            submit(["touch", str(mark)])
            while not mark.exists():
                time.sleep(0.001)
            times.append(1_000 * (time.perf_counter() - began))
        marks = [Path(folder) / f"job-{number}" for number in range(JOBS)]
        began = time.perf_counter()
        for mark in marks:
            submit(["touch", str(mark)])
        while not all(mark.exists() for mark in marks):
            time.sleep(0.001)
        elapsed = time.perf_counter() - began
    return {
        f"{peer}_start_ms_p50": statistics.median(times),
        f"{peer}_jobs_per_s": JOBS / elapsed,
    }


def measure_ray() -> dict[str, float]:
    ray = str(Path(sys.executable).with_name("ray"))
    subprocess.run([ray, "start", "--head", "--disable-usage-stats"], check=True, stdout=sys.stderr)
    try:
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient("http://127.0.0.1:8265")
        return measure("ray", lambda command: client.submit_job(entrypoint=" ".join(command)))
    finally:
        subprocess.run([ray, "stop"], check=True, stdout=sys.stderr)


def submit_slurm(command: list[str]) -> None:
    wrapped = ["sbatch", "--output=/dev/null", f"--wrap={' '.join(command)}"]
    subprocess.run(wrapped, check=True, stdout=subprocess.DEVNULL)


def _has_ray() -> bool:
    try:
        import ray  # noqa: F401
    except ImportError:
        return False
    return True


def _slurm_answers() -> bool:
    done = subprocess.run(["sinfo", "-h"], capture_output=True, check=False)
    return done.returncode == 0 and bool(done.stdout.strip())


if __name__ == "__main__":
    main()
