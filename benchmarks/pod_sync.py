"""`leptonai pod sync` beside `scp -r` and rsync: 5,000 files, all of them and one change."""

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

from leptonai.testing.platform import RunningPlatform

FILES, FILE_BYTES, ROUNDS = 5_000, 4_000, 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with RunningPlatform(place / "home") as platform:
            platform.cli("pod", "create", "work", "--wait")
            print(json.dumps(_measure(platform, place), indent=2))


def _measure(platform: RunningPlatform, place: Path) -> dict[str, float]:
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
    ways: dict[str, Callable[[], None]] = {
        "sync": lambda: run(*leptonai, "sync", str(project), "work:synced"),
        "scp": lambda: run("scp", "-q", "-r", "-F", str(config), str(project), f"{alias}:copied"),
    }
    if shutil.which("rsync"):
        shell = f"ssh -F {config}"
        ways["rsync"] = lambda: run("rsync", "-a", "-e", shell, f"{project}/", f"{alias}:rsynced")
    figures: dict[str, float] = {}
    for name, way in ways.items():
        figures[f"{name}_all_s"] = _seconds(way)
        times = []
        for number in range(ROUNDS):
            (project / "d7" / "f350").write_bytes(os.urandom(FILE_BYTES + number))
            times.append(_seconds(way))
        figures[f"{name}_one_change_s"] = statistics.median(times)
    figures["nothing_s"] = _seconds(lambda: run(*leptonai, "exec", "work", "--", "true"))
    return figures


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
