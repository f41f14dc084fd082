"""`check`: reads a dataset once, and asks every gate that concerns it."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leptonai.data.kinds import TEXT_COLUMNS
from leptonai.data.manifest import Field
from leptonai.data.quality import copies, frames, images, texts
from leptonai.data.quality.boxes import box_checks
from leptonai.data.quality.classes import balance
from leptonai.data.quality.columns import (
    Counts,
    Fence,
    column_checks,
    fence_of,
    outlier_check,
    schema_checks,
    with_examples,
)
from leptonai.data.quality.copies import Samples
from leptonai.data.quality.drift import Profile, drift
from leptonai.data.quality.gates import GATES, thresholds
from leptonai.data.quality.near import MAX_NEIGHBOURS
from leptonai.data.quality.report import Found, Histogram, Report, Skipped, judge
from leptonai.data.quality.times import time_checks
from leptonai.data.version import Version
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.data.dataset import Dataset
    from leptonai.data.progress import Progress

NOTHING_EARLIER = "there is nothing to compare with: name an earlier version"
LOOKS = 6  # at a table, about
MAX_SHOWN = 200  # classes and columns in the report's figures
OF_COLUMNS = ("types", "missing", "infinite", "encoding", "outliers")
OF_COPIES = ("duplicates", "label-conflicts", "leakage")
OF_NEAR = ("near-duplicates", "near-leakage")
OF_CLASSES = ("balance", "few-samples")
OF_TIMES = ("timestamps", "gaps")
IMAGE_TYPES = ("image classification", "object detection")
TEXT_TYPES = ("text", "text classification")

Measured = Found | Skipped


@dataclass
class _Seen:
    """What was read of a dataset."""

    measured: list[Measured] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    profile: Profile | None = None
    classes: dict[str, int] = field(default_factory=dict)
    missing: dict[str, float] = field(default_factory=dict)


def check(
    dataset: "Dataset",
    *,
    against: "Dataset | None" = None,
    schema: Mapping[str, str] | None = None,
    fail_on: Mapping[str, float] | Collection[str] = (),
    only: Collection[str] | None = None,
    progress: "Progress | None" = None,
) -> Report:
    """See `Dataset.check`.

    Args:
        only: these gates; all, if not given.
    """
    asked = thresholds(fail_on)
    wanted = {*GATES} if only is None else {*only}
    if not len(dataset):
        raise InvalidRequest(
            "there are no samples to check", hint="name data that has some: `leptonai dataset list`"
        )
    seen = _look(dataset, wanted if against is not None else wanted - {"drift"}, progress)
    found, drawn = _of_drift(seen, against, progress) if "drift" in wanted else ([], [])
    measured = [*seen.measured, *_of_schema(dataset, against, schema), *found]
    outcomes, findings = judge([each for each in measured if each.gate in wanted], asked)
    return Report(
        dataset=dataset.reference,
        type=dataset.type,
        digest=dataset.digest,
        samples=len(dataset),
        against="" if against is None else against.reference,
        outcomes=outcomes,
        findings=findings,
        notes=tuple(seen.notes),
        classes=_largest(seen.classes),
        missing={name: share for name, share in _largest(seen.missing).items() if share},
        drift=tuple(drawn),
    )


def _look(dataset: "Dataset", wanted: Collection[str], progress: "Progress | None") -> _Seen:
    frame = frames.frame_of(dataset)
    if frame is not None:
        seen = _look_at_table(frame, dataset, wanted, progress)
    elif dataset.type in IMAGE_TYPES:
        seen = _look_at_images(dataset, wanted, progress)
    elif dataset.type in TEXT_TYPES:
        seen = _look_at_texts(dataset, wanted, progress)
    else:
        seen = _look_at_files(dataset, wanted)
    told = {each.gate for each in seen.measured}
    seen.measured += [
        Skipped(gate, reason)
        for gates, reason in (
            (
                OF_COLUMNS,
                "the data is no table" if frame is None else "the table has no such columns",
            ),
            (OF_CLASSES, "there are no classes"),
            (("corrupt",), "the samples are no images"),
            (OF_NEAR, "the samples are neither images nor texts"),
            (("boxes",), "there are no boxes"),
            (OF_TIMES, "the data is no time series"),
        )
        for gate in gates
        if gate not in told
    ]
    return seen


# --- tables --------------------------------------------------------------------------------------


def _look_at_table(
    frame: frames.Frame,
    dataset: "Dataset",
    wanted: Collection[str],
    progress: "Progress | None" = None,
) -> _Seen:
    seen = _Seen()
    size = sum(dataset.records.place_of(file)[2] for file in _files_of(dataset))

    def told(looks: int) -> None:
        """Each look goes over all of it."""
        if progress is not None:
            progress(looks * size, LOOKS * size)

    told(0)
    if frame.left_out:
        seen.notes.append(f"not looked into: {', '.join(frame.left_out[:20])}")
    counts = frames.counted(frame)
    told(1)
    seen.missing = {name: of.missing / max(1, of.rows) for name, of in counts.items()}
    if {*OF_COLUMNS} & {*wanted}:
        seen.measured += _of_columns(frame, counts, wanted, seen.notes)
    told(4)  # a sample, what is far out, examples
    if "drift" in wanted:
        seen.profile = frames.profile_of(frame, counts)
    told(5)
    if {*OF_COPIES, *OF_NEAR, *OF_CLASSES} & {*wanted}:
        labels = frames.labels_of(frame)
        if labels is not None:
            numbers, names = labels
            tally = np.bincount(numbers, minlength=len(names)).tolist()
            seen.classes = dict(zip(names, tally, strict=True))
            seen.measured += balance(seen.classes)
        content, counters = frames.contents(frame)
        told(LOOKS)
        if counters:
            seen.notes.append(f"not compared, for it counts the rows: {', '.join(counters)}")
        samples = Samples(
            content,
            frame.where,
            None if labels is None else labels[0],
            () if labels is None else labels[1],
            splits=frame.splits,
            split_names=dataset.records.splits,
        )
        near = None
        if dataset.type in TEXT_TYPES and {*OF_NEAR} & {*wanted}:
            plain = {name.lower(): name for name in frame.types}
            column = next(plain[name] for name in TEXT_COLUMNS if name in plain)
            signed = texts.signatures(texts.texts_of(frame, column), frame.rows)
            near = texts.near_texts(signed, content)
        seen.measured += _of_copies(samples, near, "say nearly the same as", seen.notes)
    if dataset.type == "time series" and {*OF_TIMES} & {*wanted}:
        seen.measured += _of_times(frame, seen.notes)
    told(LOOKS)
    return seen


def _files_of(dataset: "Dataset") -> list[int]:
    rows = dataset.records.columns["row_file"]
    files: list[int] = np.unique(rows if dataset.chosen is None else rows[dataset.chosen]).tolist()
    return files


def _of_columns(
    frame: frames.Frame, counts: Mapping[str, Counts], wanted: Collection[str], notes: list[str]
) -> list[Found]:
    found = column_checks(counts, frame.types)
    fences: dict[str, Fence] = {}
    if "outliers" in wanted:
        values, sampled = frames.sampled_numbers(frame)
        maybe = {name: fence_of(column) for name, column in values.items()}
        fences = {name: fence for name, fence in maybe.items() if fence is not None}
        if sampled < frame.rows:
            notes.append(f"quartiles and drift are of {sampled:,} of {frame.rows:,} rows")
        found += [
            outlier_check(name, count, frame.rows, fences[name])
            for name, count in frames.outside(frame, fences).items()
        ]
        if not fences:
            found.append(Found("outliers", 0, "no column of numbers varies"))
    noted = [(each.gate, each.where) for each in found if each.number and each.gate in wanted]
    return with_examples(found, frames.examples_of(frame, noted, fences))


def _of_times(frame: frames.Frame, notes: list[str]) -> list[Measured]:
    times = frames.times_of(frame)
    assert times is not None, "a time series has a column of times"
    name, keys, times_us, series, rows = times
    told = f"; rows alike in {', '.join(keys)} are a series" if keys else ""
    notes.append(f"the time is {name}{told}")
    return [*time_checks(times_us, series, rows, frame.where)]


# --- images, texts, files ------------------------------------------------------------------------


def _look_at_images(
    dataset: "Dataset", wanted: Collection[str], progress: "Progress | None"
) -> _Seen:
    seen = _Seen()
    seen.classes, near = _classes_of(dataset), None
    content = _known_contents(dataset)
    seen.measured += balance(
        seen.classes, "boxes" if dataset.type == "object detection" else "samples"
    )
    sizes = None
    if content is None or {*OF_NEAR, "corrupt", "boxes", "drift"} & {*wanted}:
        pictures = images.look_at_images(dataset, progress)
        content = pictures.digests
        seen.notes.append(images.rate_note(pictures))
        seen.measured.append(images.corrupt_check(pictures, dataset))
        seen.profile = _with_classes(images.profile_of_images(pictures), seen.classes)
        sizes = pictures.sizes
        if {*OF_NEAR} & {*wanted}:
            near = images.near_images(pictures)
    seen.measured += _of_copies(_samples_of(dataset, content), near, "look like", seen.notes)
    if sizes is not None and "box" in dataset.records.columns:
        boxes, sample_of, _ = _boxes_of(dataset)
        seen.measured += box_checks(boxes, sample_of, sizes, dataset.path_of)
    return seen


def _look_at_texts(
    dataset: "Dataset", wanted: Collection[str], progress: "Progress | None"
) -> _Seen:
    seen = _Seen()
    seen.classes, near = _classes_of(dataset), None
    seen.measured += balance(seen.classes)
    content = _known_contents(dataset)
    if content is None or {*OF_NEAR, "encoding", "drift"} & {*wanted}:
        content, signed, lengths, lost = texts.look_at_texts(dataset, progress)
        seen.measured.append(texts.encoding_check(lost, dataset.path_of))
        seen.profile = _with_classes(
            Profile(numbers={"length": lengths}, rows=len(dataset)), seen.classes
        )
        if {*OF_NEAR} & {*wanted}:
            near = texts.near_texts(signed, content)
    seen.measured += _of_copies(
        _samples_of(dataset, content), near, "say nearly the same as", seen.notes
    )
    return seen


def _look_at_files(dataset: "Dataset", wanted: Collection[str]) -> _Seen:
    seen = _Seen()
    if {*OF_COPIES} & {*wanted}:
        content = _known_contents(dataset)
        if content is None:
            content = _hashed(dataset)
        seen.measured += _of_copies(_samples_of(dataset, content), None, "", seen.notes)
    return seen


def _of_copies(
    samples: Samples,
    near: tuple[NDArray[np.int64], bool] | None,
    alike: str,
    notes: list[str],
) -> list[Measured]:
    measured: list[Measured] = [
        *copies.duplicates(samples),
        *copies.label_conflicts(samples),
        *copies.leakage(samples),
    ]
    if near is not None:
        pairs, complete = near
        measured += copies.near_duplicates(samples, pairs, alike)
        measured += copies.near_leakage(samples, pairs)
        if not complete:
            notes.append(
                "near duplicates are not all: of many alike, only "
                f"{MAX_NEIGHBOURS} were compared with each"
            )
    return measured


def _known_contents(dataset: "Dataset") -> NDArray[np.uint64] | None:
    """Of a committed version they are known without reading: the first 64 bits of SHA-256."""
    if not isinstance(dataset.records, Version):
        return None
    return dataset.records.keys()[_numbers(dataset)]


def _hashed(dataset: "Dataset") -> NDArray[np.uint64]:
    found = np.zeros(len(dataset), np.uint64)
    for at, number in enumerate(_numbers(dataset).tolist()):
        path, _, _ = dataset.records.place_of(number)  # of a version the digests are known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).digest()
        found[at] = int.from_bytes(digest, "little")
    return found


def _numbers(dataset: "Dataset") -> NDArray[np.int64]:
    """[N]: of its samples among the records'."""
    return np.arange(len(dataset)) if dataset.chosen is None else dataset.chosen


def _samples_of(dataset: "Dataset", content: NDArray[np.uint64]) -> Samples:
    columns = dataset.records.columns
    splits = columns["split"][_numbers(dataset)] if "split" in columns else None
    return Samples(
        content,
        dataset.path_of,
        dataset.labels,
        dataset.classes,
        splits,
        dataset.records.splits,
    )


def _classes_of(dataset: "Dataset") -> dict[str, int]:
    labels = dataset.labels
    if labels is None and "box_label" in dataset.records.columns:
        labels = _boxes_of(dataset)[2]
    if labels is None:
        return {}
    tally = np.bincount(labels, minlength=len(dataset.classes)).tolist()
    return dict(zip(dataset.classes, tally, strict=True))


def _boxes_of(dataset: "Dataset") -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Boxes, the sample that each is of, their classes."""
    columns, numbers = dataset.records.columns, _numbers(dataset)
    ends = columns["box_end"].astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    counts = (ends - starts)[numbers]
    sample_of = np.repeat(np.arange(len(numbers)), counts)
    first = np.cumsum(counts) - counts
    at = starts[numbers][sample_of] + np.arange(len(sample_of)) - first[sample_of]
    return columns["box"][at], sample_of, columns["box_label"][at].astype(np.int64)


# --- against an earlier version ------------------------------------------------------------------


def _of_schema(
    dataset: "Dataset", against: "Dataset | None", schema: Mapping[str, str] | None
) -> Sequence[Measured]:
    if schema is not None:
        expected = [Field(name, type) for name, type in schema.items()]
        return schema_checks(expected, dataset.schema)
    if against is None:
        return [Skipped("schema", NOTHING_EARLIER)]
    found = schema_checks(against.schema, dataset.schema, against.classes, dataset.classes)
    if against.type != dataset.type:
        what = f"the data is {dataset.type}, and was {against.type}"
        found.append(Found("schema", 1, what, hint="name the type that is meant: --type"))
    return found


def _of_drift(
    seen: _Seen, against: "Dataset | None", progress: "Progress | None"
) -> tuple[list[Measured], list[Histogram]]:
    if against is None:
        return [Skipped("drift", NOTHING_EARLIER)], []
    if not len(against):
        return [Skipped("drift", "the earlier version has no samples")], []
    before = _look(against, {"drift"}, progress).profile
    if seen.profile is None or before is None:
        return [Skipped("drift", "of plain files nothing can be compared")], []
    return drift(before, seen.profile)


def _with_classes(profile: Profile, classes: Mapping[str, int]) -> Profile:
    if classes:
        profile.counts["class"] = {name: count for name, count in classes.items() if count}
    return profile


def _largest(numbers: Mapping[str, Any]) -> dict[str, Any]:
    order = sorted(numbers, key=lambda name: (-numbers[name], name))
    return {name: numbers[name] for name in order[:MAX_SHOWN]}
