"""From the start of a process to the end of its first step, beside one of torch alone.

    python -m benchmarks.training.start

Each time a new process, in turns. All modules are compiled beforehand, as in an installation of
pip's.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

from benchmarks.training.turns import Took, middle, part, row

TURNS = 7
MOST_MORE_S = 0.2
PROCESSES = ("first_step", "first_step_by_hand")


def main() -> None:
    with part(__doc__) as (quick, rows), tempfile.TemporaryDirectory() as compiled:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        took: dict[str, list[Took]] = {name: [] for name in PROCESSES}
        for turn in range(-1, 1 if quick else TURNS):
            for name in PROCESSES[:: -1 if turn % 2 else 1]:
                one = first_step(name, env)
                if turn >= 0:  # before, it compiled
                    took[name].append(one)
        ours, theirs = (took[name] for name in PROCESSES)
        rows.append(row("first step, torch alone", f"{middle([t.wall_s for t in theirs]):.2f} s"))
        rows.append(row("first step, Trainer", f"{middle([t.wall_s for t in ours]):.2f} s"))
        pairs = list(zip(ours, theirs, strict=True))
        more_s = middle([a.wall_s - b.wall_s for a, b in pairs])
        more_cpu_s = middle([a.cpu_s - b.cpu_s for a, b in pairs])
        rows.append(row("… more, of a turn", f"{more_s:+.2f} s", f"≤ +{MOST_MORE_S} s"))
        rows.append(row("… more CPU time, of a turn", f"{more_cpu_s:+.2f} s"))


def first_step(name: str, env: Mapping[str, str]) -> Took:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.training.{name}"],
        stdout=subprocess.PIPE, text=True, check=True, env=env,
    )  # fmt: skip
    ended, cpu_s = map(float, done.stdout.split())
    return Took(cpu_s, ended - began)


if __name__ == "__main__":
    main()
