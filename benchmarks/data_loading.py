"""Shuffled images off a disk: the CPU time of one, beside what others take for the same.

    python -m benchmarks.data_loading [--images 4000]

Prints JSON: rows of what, goal and measured. The images are cut out of two real photographs and
kept as JPEG of 128 to 256 pixels a side; every loader decodes them with the same decoder, resizes
them to 128 x 128 with the same library and puts them into batches of 64. What is counted is the CPU
time of the whole process and its children, in turns, so that whatever else the machine does hits
all; the best turn of each counts. Peers that are not installed are left out.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from leptonai.data import DataLoader
from leptonai.data.commit import commit
from leptonai.data.folder import LocalFolder
from leptonai.data.records import Records
from leptonai.data.shelf import Shelf
from leptonai.data.source import LocalSource
from leptonai.data.version import Version

SIDES = (128, 256)
QUALITY = 80
OUT = 128
BATCH = 64
TURNS = 6
THREADS = (1, 2, 4, 8, 16)
CLASSES = 10

Load = Callable[[], Iterable[Any]]  # one epoch of batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--turns", type=int, default=TURNS)
    given = parser.parse_args()
    cv2.setNumThreads(1)  # peers use it in the thread that counts batches; ours have their own
    if find_spec("torch"):
        import torch

        torch.set_num_threads(1)  # else it copies a batch with all cores, and spins
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        make_images(root / "files", given.images)
        records = LocalFolder(root / "files")
        encoded = [bytes(data) for data in records.read(range(len(records)))]

        shelf = Shelf(root / "shelf")
        version = Version.open(shelf, commit(LocalSource(root / "files"), shelf).digest)

        def ours(shuffle: bool, threads: int, records: Records = version) -> Load:
            return lambda: DataLoader(records, BATCH, shuffle, num_workers=threads)

        loads: dict[str, tuple[str, Load]] = {
            "the bare decoder": ("", lambda: map(simplejpeg.decode_jpeg, encoded)),
            "decoded and resized into one array, nothing else": ("", lambda: bare(encoded)),
            "in order": ("≤ 150", ours(False, 1)),
            "globally shuffled": ("≤ 150", ours(True, 1)),
            f"globally shuffled, {cores} threads": ("≤ 150", ours(True, cores)),
            "globally shuffled, uncommitted files": ("", ours(True, 1, records)),
            **{name: ("", load) for name, load in peers(root, records, encoded).items()},
        }
        best = in_turns({name: load for name, (_, load) in loads.items()}, given.turns)
        images = len(records)
        rows = [
            row(f"CPU of an image, {name}", f"{goal} µs".strip() if goal else "", f"{cpu:.0f} µs")
            for name, (goal, _) in loads.items()
            for cpu in [best[name][0] / images * 1e6]
        ]
        bare_cpu, whole = best["the bare decoder"][0], best["globally shuffled"][0]
        rows.append(row("shuffled, in bare decoders", "≤ 1.15", f"{whole / bare_cpu:.2f}"))
        counts = [threads for threads in THREADS if threads <= cores]
        scaled = in_turns({str(count): ours(True, count) for count in counts}, given.turns)
        for count in counts:
            wall = scaled[str(count)][1]
            rows.append(row(f"images a second, threads: {count}", "", f"{images / wall:,.0f} /s"))
            if count > 1:
                times = f"{scaled['1'][1] / wall:.2f} ×"
                rows.append(row("… of one thread's", f"{count} ×", times))
        rows.append(
            row("first batch after construction", "≤ 100 ms", f"{first_batch_ms(version):.0f} ms")
        )
    rows += tabular()
    print(json.dumps({"rows": rows}, indent=2, ensure_ascii=False))


def row(what: str, goal: str, measured: str) -> dict[str, str]:
    return {"what": what, "goal": goal, "measured": measured}


def in_turns(loads: dict[str, Load], turns: int) -> dict[str, tuple[float, float]]:
    """CPU seconds and seconds of the best turn of each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in loads}
    for _ in range(turns):
        for name, load in loads.items():
            cpu, wall = cpu_s(), time.perf_counter()
            for _batch in load():
                pass
            times[name].append((cpu_s() - cpu, time.perf_counter() - wall))
    return {
        name: (min(cpu for cpu, _ in each), min(wall for _, wall in each))
        for name, each in times.items()
    }


def cpu_s() -> float:
    """Of this process, and of its children that have ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def make_images(root: Path, count: int) -> None:
    from sklearn.datasets import load_sample_images

    chance = np.random.default_rng(0)
    photographs = load_sample_images().images
    for number in range(CLASSES):
        (root / str(number)).mkdir(parents=True)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        height, width = (int(side) for side in chance.integers(SIDES[0], SIDES[1] + 1, 2))
        zoom = chance.uniform(1, photograph.shape[0] / SIDES[1])
        rows, columns = int(height * zoom), int(width * zoom)
        top = chance.integers(0, photograph.shape[0] - rows + 1)
        left = chance.integers(0, photograph.shape[1] - columns + 1)
        cut = photograph[top : top + rows, left : left + columns]
        image = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA)
        data = simplejpeg.encode_jpeg(image, quality=QUALITY, colorsubsampling="420")
        (root / str(number % CLASSES) / f"{number:06}.jpg").write_bytes(data)


def bare(encoded: list[bytes]) -> Iterator[np.ndarray]:
    for begin in range(0, len(encoded), BATCH):
        images = np.empty((BATCH, OUT, OUT, 3), np.uint8)
        for row_number, data in enumerate(encoded[begin : begin + BATCH]):
            image = simplejpeg.decode_jpeg(data, fastupsample=True)
            cv2.resize(image, (OUT, OUT), dst=images[row_number])
        yield images


def first_batch_ms(records: Records) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        batches = iter(DataLoader(records, BATCH, True))
        next(batches)
        times.append(1e3 * (time.perf_counter() - began))
        batches.close()
    return min(times)


def tabular() -> list[dict[str, str]]:
    """Rows of 32 numbers and a label, shuffled, beside taking them by hand."""
    chance = np.random.default_rng(0)
    table = {"x": chance.random((1_000_000, 32), np.float32), "y": np.arange(1_000_000)}

    def by_hand() -> Iterator[Any]:
        order = np.random.default_rng(0).permutation(len(table["y"]))
        for begin in range(0, len(order), 1024):
            at = order[begin : begin + 1024]
            yield {name: column[at] for name, column in table.items()}

    loads: dict[str, Load] = {"us": lambda: DataLoader(table, 1024, True), "by hand": by_hand}
    if find_spec("torch"):
        loads["torch"] = lambda: torch_table(table)
    best = in_turns(loads, TURNS)
    return [
        row(f"CPU of a table's row, shuffled, {name}", "", f"{1e9 * cpu / 1_000_000:.0f} ns")
        for name, (cpu, _) in best.items()
    ]


# --- peers ---------------------------------------------------------------------------------------


def decode(data: bytes) -> np.ndarray:
    """What a user of another loader would write."""
    return cv2.resize(simplejpeg.decode_jpeg(data), (OUT, OUT))


def peers(root: Path, records: LocalFolder, encoded: list[bytes]) -> dict[str, Load]:
    found: dict[str, Load] = {}
    makers = {
        "torch": torch_files,
        "datasets": hf_datasets,
        "webdataset": webdataset,
        "streaming": mosaic,
        "lance": lance,
    }
    for module, make in makers.items():
        if find_spec(module):
            try:
                found |= make(root, records, encoded)
            except Exception as error:  # one peer's fault is not the others'
                print(f"{module} cannot be measured: {error!r}", file=sys.stderr)
    return found


class Files:
    """A torch data set over files."""

    def __init__(self, root: Path, records: LocalFolder) -> None:
        self.paths = [str(root / "files" / records.path_of(n)) for n in range(len(records))]
        self.labels = records.labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        with open(self.paths[number], "rb") as file:  # noqa: PTH123
            return decode(file.read()), int(self.labels[number])


def torch_loader(dataset: Any, *, shuffle: bool | None = None, workers: int = 0) -> Load:
    from torch.utils.data import DataLoader as TorchLoader

    return lambda: TorchLoader(dataset, BATCH, shuffle=shuffle, num_workers=workers)


def torch_files(root: Path, records: LocalFolder, encoded: list[bytes]) -> dict[str, Load]:
    files = Files(root, records)
    return {
        "torch DataLoader over files, shuffled": torch_loader(files, shuffle=True),
        "torch DataLoader over files, shuffled, 2 workers": torch_loader(
            files, shuffle=True, workers=2
        ),
    }


def torch_table(table: dict[str, np.ndarray]) -> Iterable[Any]:
    import torch
    from torch.utils.data import BatchSampler, RandomSampler, TensorDataset
    from torch.utils.data import DataLoader as TorchLoader

    dataset = TensorDataset(*(torch.from_numpy(column) for column in table.values()))
    batches = BatchSampler(RandomSampler(dataset), 1024, drop_last=False)
    return TorchLoader(dataset, sampler=batches, batch_size=None)


def hf_datasets(root: Path, records: LocalFolder, encoded: list[bytes]) -> dict[str, Load]:
    from datasets import Dataset

    labels = records.labels.tolist()
    arrow = Dataset.from_dict({"data": encoded, "label": labels})
    arrow.save_to_disk(root / "hf")
    dataset = Dataset.load_from_disk(root / "hf")

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        return {"image": [decode(data) for data in batch["data"]], "label": batch["label"]}

    return {"HF datasets, shuffled": torch_loader(dataset.with_transform(transform), shuffle=True)}


def webdataset(root: Path, records: LocalFolder, encoded: list[bytes]) -> dict[str, Load]:
    import webdataset as wds

    with wds.TarWriter(str(root / "shard.tar")) as writer:
        for number, data in enumerate(encoded):
            label = int(records.labels[number])
            writer.write({"__key__": f"{number:06}", "jpg": data, "cls": label})

    def load() -> Iterable[Any]:
        shards = wds.WebDataset(str(root / "shard.tar"), shardshuffle=False).shuffle(1000)
        pairs = shards.to_tuple("jpg", "cls").map_tuple(decode, int)
        return torch_loader(pairs)()

    return {"webdataset, shuffled within 1,000": load}


def mosaic(root: Path, records: LocalFolder, encoded: list[bytes]) -> dict[str, Load]:
    from streaming import MDSWriter, StreamingDataset

    with MDSWriter(out=str(root / "mds"), columns={"data": "bytes", "label": "int"}) as writer:
        for number, data in enumerate(encoded):
            writer.write({"data": data, "label": int(records.labels[number])})

    class Decoded(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
            sample = super().__getitem__(number)
            return decode(sample["data"]), sample["label"]

    dataset = Decoded(local=str(root / "mds"), shuffle=True, batch_size=BATCH)
    return {"mosaicml-streaming, shuffled": torch_loader(dataset)}


def lance(root: Path, records: LocalFolder, encoded: list[bytes]) -> dict[str, Load]:
    import lance as lancedb
    import pyarrow as pa
    import torch

    table = pa.table({"data": encoded, "label": records.labels})
    dataset = lancedb.write_dataset(table, str(root / "images.lance"))

    def load() -> Iterator[Any]:
        order = np.random.default_rng(0).permutation(len(encoded))
        for begin in range(0, len(order), BATCH):
            rows = dataset.take(order[begin : begin + BATCH].tolist())
            images = np.stack([decode(data.as_py()) for data in rows["data"]])
            yield torch.from_numpy(images), torch.tensor(rows["label"].to_numpy())

    return {"Lance, shuffled": load}


if __name__ == "__main__":
    main()
