"""What a dataset is: which files are samples, what their labels are, what a table's columns hold.

Pure over names and over the bytes of the files that describe others: images are not looked into.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np

from leptonai.data.columns import Array
from leptonai.data.manifest import Field
from leptonai.data.walk import Listing
from leptonai.errors import InvalidRequest

Kind: TypeAlias = Literal[
    "image classification",
    "object detection",
    "tabular",
    "text",
    "text classification",
    "time series",
    "files",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm"})
TABLES = frozenset({"csv", "tsv", "jsonl", "ndjson", "parquet"})
PIPELINE = "safetensors"  # may lie beside tables: what made them
TEXTS = frozenset({"txt", "md"})
SPLITS = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "category", "target", "y")
TEXT_COLUMNS = ("text", "sentence", "review", "content", "document")
MAX_CLASSES = 100_000

Read = Callable[[int], bytes | memoryview]  # the content of a file, by its number


@dataclass(frozen=True)
class Described:
    schema: tuple[Field, ...] = ()
    classes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    header: bool = False
    columns: dict[str, Array] = field(default_factory=dict)


def parse_kind(text: str) -> Kind:
    """`image-classification`, `Image_Classification` and `image classification` are one.

    Raises:
        InvalidRequest: there is no such type.
    """
    plain = re.sub(r"[-_\s]+", " ", text.strip().lower())
    for kind in KINDS:
        if plain == kind:
            return kind
    raise InvalidRequest(f"there is no type {text!a}", hint=f"types are {', '.join(KINDS)}")


def is_held_out(part: str) -> bool:
    """Whether a part of this name is there to examine, not to teach."""
    return SPLITS.get(part.lower(), "train") != "train"


def kind_of(listing: Listing) -> Kind:
    """The most telling type that the names allow; `files` if none does."""
    paths = listing.paths
    count: Counter[str] = Counter()
    for ending, often in Counter([path.rpartition(".")[2] for path in paths]).items():
        count[ending.lower()] += often  # each ending once, not each path's
    tables = sum(count[ending] for ending in TABLES)
    images = sum(count[ending] for ending in IMAGES)
    if images and 2 * images >= len(paths):
        if any(_names_boxes(path) for path in paths):
            return "object detection"
        if tables or _in_class_folders([path for path in paths if _ending(path) in IMAGES]):
            return "image classification"
        return "files"
    if tables and tables + count[PIPELINE] == len(paths):
        return "tabular"
    if sum(count[ending] for ending in TEXTS) == len(paths):
        return "text classification" if _in_class_folders(paths) else "text"
    return "files"


def describe(kind: Kind, listing: Listing, read: Read) -> Described:
    """Raises:
    InvalidRequest: the files are not as this kind has to be; says the file and the row.
    """
    match kind:
        case "files":
            return Described(schema=(Field("bytes", "bytes"),))
        case "image classification":
            return _images(listing, read)
        case "object detection":
            from leptonai.data.boxes import describe_boxes

            return describe_boxes(listing, read)
        case "tabular" | "time series":
            return _table(kind, listing, read)
        case "text" | "text classification":
            return _texts(kind, listing, read)


# --- folders of classes --------------------------------------------------------------------------


def _images(listing: Listing, read: Read) -> Described:
    tables = [n for n, path in enumerate(listing.paths) if _ending(path) in ("csv", "tsv")]
    if tables:
        return _labelled_by_table(listing, tables, read)
    images = [n for n, path in enumerate(listing.paths) if _ending(path) in IMAGES]
    return _foldered(listing, images, Field("image", "image"), "images")


def _foldered(listing: Listing, files: list[int], sample: Field, what: str) -> Described:
    """A folder for each class, in a folder for each split where there are some."""
    paths = listing.paths
    if not files:
        raise InvalidRequest(
            f"there are no {what} in it", hint="name the folder that holds a folder for each class"
        )
    _refuse_empty(listing, files)
    places = [_split_and_class(paths[file]) for file in files]
    for file, (_, name) in zip(files, places, strict=True):
        if not name:
            raise InvalidRequest(
                f"{paths[file]!a} lies in no class folder",
                hint=f"put the {what} of each class in a folder of its own, or use --type files",
            )
    classes = tuple(sorted({name for _, name in places}))
    _refuse_bare_classes(listing, {*classes}, what)
    splits = _split_names([split for split, _ in places])
    return Described(
        schema=(sample, Field("label", "class")),
        classes=classes,
        splits=splits,
        columns=_samples_of(listing, files)
        | _numbered("label", [name for _, name in places], classes, np.int32)
        | (_numbered("split", [split for split, _ in places], splits, np.uint8) if splits else {}),
    )


def _refuse_bare_classes(listing: Listing, classes: set[str], what: str) -> None:
    """A folder beside the classes that holds none of what they hold."""
    beside = [(path, True) for path in listing.empty] + [(path, False) for path in listing.paths]
    for path, is_folder in beside:
        _, name = _split_and_class(path + "/x" if is_folder else path)
        if name and name not in classes:
            folder = path if is_folder else path.rpartition("/")[0]
            raise InvalidRequest(
                f"the class folder {folder!a} holds no {what}", hint="fill it or remove it"
            )


def _split_and_class(path: str) -> tuple[str, str]:
    """Of `train/cat/1.jpg`: train, cat; "" for what is not there."""
    first, *rest = path.split("/")
    split = SPLITS.get(first.lower(), "")
    folders = rest[:-1] if split else [first, *rest][:-1]
    return split, folders[0] if folders else ""


def _in_class_folders(paths: Sequence[str]) -> bool:
    return all(_split_and_class(path)[1] for path in paths)


# --- tables that label files ---------------------------------------------------------------------


def _labelled_by_table(listing: Listing, tables: list[int], read: Read) -> Described:
    from leptonai.data.tables import read_table

    number_of = {path: number for number, path in enumerate(listing.paths)}
    files: list[int] = []
    labels: list[str] = []
    splits: list[str] = []
    for table in tables:
        name = listing.paths[table]
        header, rows = read_table(name, read(table))
        path_at = _column(name, header, PATH_COLUMNS, "names the file")
        label_at = _column(name, header, LABEL_COLUMNS, "is the label")
        split_at = header.index("split") if "split" in header else -1
        folder = name.rpartition("/")[0]
        of_table = SPLITS.get(name.rpartition("/")[2].partition(".")[0].lower(), "")
        for line, row in rows:
            file = _named(row[path_at], folder, number_of)
            if file is None:
                raise InvalidRequest(
                    f"{name}:{line}: {row[path_at]!a} is not in the data",
                    hint=f"paths are below the data's root or below the folder of {name}",
                )
            files.append(file)
            labels.append(_label(f"{name}:{line}", row[label_at]))
            splits.append(SPLITS.get(row[split_at].lower(), "") if split_at >= 0 else of_table)
    _refuse_empty(listing, files)
    if not files:
        raise InvalidRequest(
            f"{listing.paths[tables[0]]} has no rows", hint="one row a file: its path, its label"
        )
    classes = tuple(sorted({*labels}))
    named_splits = _split_names(splits)
    return Described(
        schema=(Field("image", "image"), Field("label", "class")),
        classes=classes,
        splits=named_splits,
        columns=_samples_of(listing, files)
        | _numbered("label", labels, classes, np.int32)
        | (_numbered("split", splits, named_splits, np.uint8) if named_splits else {}),
    )


def _named(path: str, folder: str, number_of: dict[str, int]) -> int | None:
    plain = path.removeprefix("./")
    for candidate in (plain, f"{folder}/{plain}"):
        if candidate in number_of:
            return number_of[candidate]
    return None


def _label(where: str, value: str) -> str:
    if not value.strip():
        raise InvalidRequest(f"{where}: there is no label", hint="label the row, or leave it out")
    return value


def _column(table: str, header: Sequence[str], names: Sequence[str], what: str) -> int:
    lower = [name.lower() for name in header]
    for name in names:
        if name in lower:
            return lower.index(name)
    raise InvalidRequest(
        f"{table}:1: no column {what}: there are {', '.join(header)[:200]}",
        hint=f"call it one of {', '.join(names)}",
    )


# --- tables and texts ----------------------------------------------------------------------------


def _table(kind: Kind, listing: Listing, read: Read) -> Described:
    from leptonai.data.tables import Table, describe_tables

    files = [number for number, path in enumerate(listing.paths) if _ending(path) != PIPELINE]
    for path in [listing.paths[number] for number in files] or listing.paths:
        if _ending(path) not in TABLES:
            raise InvalidRequest(
                f"{path!a} is no table", hint=f"tables end in .{', .'.join(sorted(TABLES))}"
            )
    _refuse_empty(listing, range(len(listing.paths)))
    table: Table = describe_tables(listing, files, read)
    if kind == "time series" and not any(each.type == "time" for each in table.schema):
        _refuse_broken_times(listing, files, read, table.schema)
        raise InvalidRequest(
            f"{listing.paths[0]} has no column of times: it has "
            + ", ".join(f"{each.name} ({each.type})" for each in table.schema)[:200],
            hint="write times as 2026-01-31T12:00:00, or use --type tabular",
        )
    splits = [SPLITS.get(_stem(path), "") for path in listing.paths]
    names = _split_names([splits[number] for number in files])
    columns = dict(table.columns)
    if names:
        splits = [split if split in names else names[0] for split in splits]
        of_file = _numbered("split", splits, names, np.uint8)["split"]
        columns["split"] = of_file[columns["row_file"]]
    return Described(schema=table.schema, splits=names, header=table.header, columns=columns)


def _refuse_broken_times(
    listing: Listing, files: Sequence[int], read: Read, schema: Sequence[Field]
) -> None:
    """A column that begins with times and holds something else further on is one of texts."""
    from leptonai.data.tables import MISSING, is_time, values_of

    for column in (each.name for each in schema if each.type == "text"):
        present = (
            (f"{listing.paths[number]}:{line}", value.strip())
            for number in files
            if _ending(listing.paths[number]) != "parquet"
            for line, value in values_of(listing.paths[number], read(number), column)
            if value.strip().lower() not in MISSING
        )
        if not is_time(next(present, ("", ""))[1]):
            continue
        for where, value in present:
            if not is_time(value):
                raise InvalidRequest(
                    f"{where}: {column!a} is {value[:100]!a}, and no time",
                    hint="write times as 2026-01-31T12:00:00, or leave the field empty",
                )


def _texts(kind: Kind, listing: Listing, read: Read) -> Described:
    paths = listing.paths
    if any(_ending(path) in TABLES for path in paths):
        return _texts_of_table(kind, listing, read)
    files = [number for number, path in enumerate(paths) if _ending(path) in TEXTS]
    if not files:
        raise InvalidRequest(
            "there are no texts in it", hint="texts end in .txt or .md, tables in .csv or .jsonl"
        )
    from leptonai.data.tables import check_text

    for file in files:
        check_text(paths[file], read(file))
    if kind == "text classification":
        return _foldered(listing, files, Field("text", "text"), "texts")
    _refuse_empty(listing, files)
    splits = [SPLITS.get(paths[file].split("/")[0].lower(), "") for file in files]
    names = _split_names(splits)
    return Described(
        schema=(Field("text", "text"),),
        splits=names,
        columns=_samples_of(listing, files)
        | (_numbered("split", splits, names, np.uint8) if names else {}),
    )


def _texts_of_table(kind: Kind, listing: Listing, read: Read) -> Described:
    from leptonai.data.tables import values_of

    described = _table(kind, listing, read)
    names = [each.name for each in described.schema]
    _column(listing.paths[0], names, TEXT_COLUMNS, "is the text")
    if kind == "text":
        return described
    label = names[_column(listing.paths[0], names, LABEL_COLUMNS, "is the label")]
    labels = [
        _label(f"{path}:{line}", value)
        for number, path in enumerate(listing.paths)
        for line, value in values_of(path, read(number), label)
    ]
    classes = tuple(sorted({*labels}))
    if len(classes) > MAX_CLASSES:
        raise InvalidRequest(
            f"the column {label} has {len(classes)} different values", hint="is it the label?"
        )
    schema = tuple(
        Field(each.name, "class" if each.name == label else each.type) for each in described.schema
    )
    columns = described.columns | _numbered("label", labels, classes, np.int32)
    return Described(schema, classes, described.splits, described.header, columns)


# --- parts ---------------------------------------------------------------------------------------


def _samples_of(listing: Listing, files: Sequence[int]) -> dict[str, Array]:
    """Whole files as samples; nothing where that is every file in order."""
    if len(files) == len(listing.paths) and list(files) == list(range(len(files))):
        return {}
    chosen = np.asarray(files, np.uint32)
    return {
        "row_file": chosen,
        "row_at": np.zeros(len(chosen), np.uint64),
        "row_size": listing.sizes[chosen].astype(np.uint64),
    }


def _numbered(
    column: str, values: Sequence[str], names: Sequence[str], type: type[np.integer]
) -> dict[str, Array]:
    number_of = {name: number for number, name in enumerate(names)}
    return {column: np.fromiter((number_of[value] for value in values), type, len(values))}


def _split_names(splits: Sequence[str]) -> tuple[str, ...]:
    """In the order in which people say them; "" for the samples of none."""
    named = {*splits}
    if not named - {""}:
        return ()
    return tuple(each for each in ("train", "validation", "test", "") if each in named)


def _refuse_empty(listing: Listing, files: Sequence[int]) -> None:
    sizes = listing.sizes[np.asarray(files, np.int64)]
    if len(sizes) and not sizes.all():
        path = listing.paths[files[int(np.argmin(sizes))]]
        raise InvalidRequest(f"{path!a} is empty: 0 bytes", hint="fill it or remove it")


def _names_boxes(path: str) -> bool:
    name = path.lower()
    return name.endswith(".json") and (
        "annotation" in name or "instances" in name or "coco" in name
    )


def _ending(path: str) -> str:
    return path.rpartition(".")[2].lower()


def _stem(path: str) -> str:
    """What may name a split: the top folder, or the file itself."""
    first = path.split("/")[0].lower()
    return first if first in SPLITS else path.rpartition("/")[2].partition(".")[0].lower()
