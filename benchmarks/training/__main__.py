"""How fast and how exact training is, beside loops that are written by hand: one table.

``make bench-train``, or ``python -m benchmarks.training [--quick] [NAME …]``. Accelerate and
Lightning are measured where they are installed. Parts that are not named keep what was measured
before. About a quarter of an hour; `--quick` only shows that all of it runs, and writes nothing.
"""

import argparse
from collections.abc import Iterable

from benchmarks.parts import Benchmark, Row, measure_parts, parse, run_script

PARTS = Benchmark(
    "training",
    "Training",
    "make bench-train",
    {  # each is the script `benchmarks.training.NAME`
        "loop": "Speed of the loop",
        "start": "Time to the first step",
        "ddp": "Two workers",
        "gpt": "A character-level GPT",
        "checkpoints": "Checkpoints",
        "digits": "Digits",
        "gpu": "On a GPU",
    },
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs, no more")
    given = parse(parser, PARTS.parts)
    measure_parts(
        PARTS, given.names, lambda name: rows(name, quick=given.quick), keep=not given.quick
    )


def rows(name: str, *, quick: bool) -> Iterable[Row]:
    answer = run_script(f"training.{name}", *(["--quick"] if quick else []))
    measured: list[Row] = answer["rows"]
    return measured


if __name__ == "__main__":
    main()
