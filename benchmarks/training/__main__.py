"""How fast and how exact training is, beside loops that are written by hand: one table.

``make bench-train``, or ``python -m benchmarks.training [--quick] [NAME …]``. Accelerate and
Lightning are measured where they are installed. Parts that are not named keep what was measured
before. About a quarter of an hour; `--quick` only shows that all of it runs, and writes nothing.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.__main__ import HERE, RESULTS, machine
from benchmarks.parts import parts_table

PARTS = {  # each is the script `benchmarks.training.NAME`
    "loop": "Speed of the loop",
    "start": "Time to the first step",
    "ddp": "Two workers",
    "gpt": "A character-level GPT",
    "checkpoints": "Checkpoints",
    "digits": "Digits",
    "gpu": "On a GPU",
}
TIMEOUT_S = 900


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs, no more")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    given = parser.parse_args()
    if unknown := set(given.names) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    file = RESULTS / "training.json"
    measured: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if given.quick:
        measured = {}
    for name in given.names or PARTS:
        print(f"{name} …", end=" ", flush=True, file=sys.stderr)
        began = time.perf_counter()
        rows = run(name, quick=given.quick)
        measured[name] = {"machine": machine()["text"], "rows": rows}
        if not given.quick:  # each part is kept at once, with the machine that it was measured on
            RESULTS.mkdir(exist_ok=True)
            file.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")
            (RESULTS / "training.md").write_text(table(measured))
        print(f"{time.perf_counter() - began:.0f} s", flush=True, file=sys.stderr)
    print(table(measured))
    return 0


def run(name: str, *, quick: bool) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.training.{name}", *(["--quick"] if quick else [])],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        sys.exit(f"benchmarks/training/{name}.py failed with {done.returncode}")
    return json.loads(done.stdout)["rows"]


def table(measured: dict[str, Any]) -> str:
    return parts_table("Training", "make bench-train", PARTS, measured)


if __name__ == "__main__":
    sys.exit(main())
