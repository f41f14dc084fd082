"""Quality gates, beside the least that anybody would have to do: Pillow loading each image, Polars
reading the table, numpy comparing each hash with each.

In turns, in one process; of CPU time the best turn counts.
"""

import argparse
import io
import json
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from leptonai.data.dataset import Dataset
from leptonai.data.quality import near

BITS = 4
COMPARED = 4_000  # hashes of those that are compared each with each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        images = make_images(root / "images", asked.images)
        table = make_table(root / "table.csv", asked.rows)
        hashes = np.random.default_rng(0).integers(0, 1 << 63, asked.hashes).astype(np.uint64)
        acts: dict[str, Callable[[], object]] = {
            "pillow": lambda: [Image.open(io.BytesIO(p.read_bytes())).load() for p in images],
            "check_images": lambda: Dataset.from_local(root / "images").check(),
            "polars": lambda: pl.read_csv(table),
            "check_table": lambda: Dataset.from_local(table).check(),
            "near_pairs": lambda: near_pairs(hashes),
            "each_with_each": lambda: each_with_each(hashes[:COMPARED]),
        }
        best: dict[str, float] = {}
        for _ in range(asked.turns):
            for name, act in acts.items():
                took = cpu_s(act)
                best[name] = min(best.get(name, took), took)
    quadratic_s = best["each_with_each"] * (asked.hashes / COMPARED) ** 2
    print(
        json.dumps(
            {
                **{f"{name}_cpu_s": round(took, 3) for name, took in best.items()},
                "images_per_cpu_s": round(asked.images / best["check_images"]),
                "speed_of_pillow": round(best["pillow"] / best["check_images"], 3),
                "polars_reads": round(best["check_table"] / best["polars"], 2),
                "hashes": asked.hashes,
                "times_faster_than_each_with_each": round(quadratic_s / best["near_pairs"]),
            },
            indent=2,
        )
    )


def make_images(root: Path, count: int) -> list[Path]:
    chance = np.random.default_rng(0)
    made = []
    for number in range(count):
        pixels = chance.integers(0, 255, (40, 50, 3), np.uint8)
        path = root / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((500, 400), Image.Resampling.BICUBIC).save(path, quality=85)
        made.append(path)
    return made


def make_table(path: Path, rows: int) -> Path:
    chance = np.random.default_rng(0)
    columns = {f"x{at}": chance.normal(size=rows) for at in range(15)}
    words = {f"c{at}": chance.choice(list("abcdef"), rows) for at in range(4)}
    pl.DataFrame({**columns, **words, "label": chance.integers(0, 3, rows)}).write_csv(path)
    return path


def near_pairs(hashes: NDArray[np.uint64]) -> object:
    return near.near_pairs(
        near.hamming_keys(hashes, BITS),
        lambda one, other: near.bits_between(hashes[one], hashes[other]) <= BITS,
    )


def each_with_each(hashes: NDArray[np.uint64]) -> int:
    return sum(
        int(np.count_nonzero(near.bits_between(hashes[at + 1 :], hashes[at]) <= BITS))
        for at in range(len(hashes))
    )


def cpu_s(act: Callable[[], object]) -> float:
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    began = used()
    act()
    return used() - began


if __name__ == "__main__":
    main()
