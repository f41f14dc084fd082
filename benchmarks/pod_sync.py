"""`leptonai pod sync` beside `scp -r` and rsync: 5,000 files, all of them and one change.

    python -m benchmarks.pod_sync [--table]

Needs OpenSSH, and rsync where that is to be measured too. All goes over SSH into a pod of a
platform of its own, but for our own, which goes through the gateway. `scp` knows no change: it
copies all of them again. Prints one JSON object; with `--table` it also writes
benchmarks/results/pod-sync.md.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.tables import Row, write_figures
from leptonai.testing.platform import RunningPlatform

FILES, FILE_BYTES, ROUNDS = 5_000, 4_000, 3
TABLE = (
    Row("`pod sync` of 5,000 files of 4 kB, into an empty folder", "sync_all_s", "s"),
    Row("… rsync", "rsync_all_s", "s"),
    Row("… `scp -r`", "scp_all_s", "s"),
    Row("`pod sync` again, one of them changed, p50", "sync_one_change_s", "s"),
    Row("… rsync, p50", "rsync_one_change_s", "s"),
    Row("`pod exec` of `true`, for what each of ours spends on starting", "nothing_s", "s"),
    Row("`ssh` of `true`, for theirs", "ssh_nothing_s", "s"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    write_table = parser.parse_args().table
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with RunningPlatform(place / "home") as platform:
            platform.cli("pod", "create", "work", "--wait")
            figures = measure(platform, place)
    print(json.dumps(figures, indent=2))
    if write_table:
        command = "python -m benchmarks.pod_sync --table"
        write_figures("pod-sync", "Files into a pod", command, TABLE, figures)


def measure(platform: RunningPlatform, place: Path) -> dict[str, float]:
    project = place / "project"
    for number in range(FILES):
        file = project / f"d{number // 50}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(FILE_BYTES))
    (place / ".ssh").mkdir(mode=0o700)
    key = str(place / ".ssh" / "id_ed25519")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    environment = {**platform.environment, "HOME": str(place)}
    leptonai = [sys.executable, "-m", "leptonai.cli", "pod"]

    def run(*command: str) -> None:
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

    said = subprocess.run(
        [*leptonai, "ssh-config", "work"], env=environment, check=True, capture_output=True
    )
    config = place / "config"
    config.write_bytes(said.stdout)
    alias = said.stdout.split()[1].decode()
    ssh = ("ssh", "-F", str(config))
    ways: dict[str, Callable[[], None]] = {
        "sync": lambda: run(*leptonai, "sync", str(project), "work:synced")
    }
    if shutil.which("rsync"):
        ways["rsync"] = lambda: run(
            "rsync", "-a", "-e", " ".join(ssh), f"{project}/", f"{alias}:rsynced"
        )
    figures: dict[str, float] = {}
    for name, way in ways.items():
        figures[f"{name}_all_s"] = seconds(way)
        times_s = []
        for number in range(ROUNDS):
            (project / "d7" / "f350").write_bytes(os.urandom(FILE_BYTES + 1 + number))
            times_s.append(seconds(way))
        figures[f"{name}_one_change_s"] = statistics.median(times_s)
    figures["scp_all_s"] = seconds(
        lambda: run("scp", "-q", "-r", "-F", str(config), str(project), f"{alias}:copied")
    )
    figures["nothing_s"] = seconds(lambda: run(*leptonai, "exec", "work", "--", "true"))
    figures["ssh_nothing_s"] = seconds(lambda: run(*ssh, alias, "true"))
    kept = place / "home" / "attempts" / "kept"
    for folder in ("synced", "copied", *(["rsynced"] if "rsync" in ways else [])):
        (there,) = kept.glob(f"*/{folder}")
        arrived = sum(1 for file in there.rglob("f*") if file.is_file())
        assert arrived == FILES, f"{folder} has {arrived} of {FILES} files"
    return figures


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
