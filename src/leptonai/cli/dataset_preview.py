"""`leptonai dataset preview`: the first samples, as they are; of a table, its first rows."""

from __future__ import annotations

from contextlib import ExitStack
from io import BytesIO
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.dataset_check import is_registered
from leptonai.cli.dataset_library import data_library
from leptonai.cli.groups import Command
from leptonai.cli.output import columns_that_fit, print_json, print_table, say
from leptonai.cli.session import connect, output_option
from leptonai.spec.quantities import show_bytes

if TYPE_CHECKING:
    from leptonai.data.dataset import Dataset

SHOWN_CHARS = 200  # of one sample
MAX_PREVIEW = 1000
TABLES = ("tabular", "time series")
CELL_CHARS = 40
FLOAT_CHARS = 12  # a longer number is rounded
FLOAT_DIGITS = 8
MAX_COLUMNS = 100


@click.command(
    "preview",
    cls=Command,
    example="""\
leptonai dataset preview digits --samples 5
leptonai dataset preview ./digits                 # what would be committed
leptonai dataset preview sales@2 -o json          # rows as they lie in their files""",
)
@click.option("--samples", default=10, show_default=True, type=click.IntRange(1, MAX_PREVIEW))
@output_option
@click.argument("reference", metavar="NAME[@VERSION]|PATH")
def preview(samples: int, output: str, reference: str) -> None:
    """Show the first samples, spread over the classes; of a table, rows with their columns.

    Of a directory or file of this machine those that a commit would make of it.
    """
    of = data_library()
    with ExitStack() as closing:
        client = closing.enter_context(connect()) if is_registered(reference) else None
        shown = of.from_local(reference, client=client)
        if output == "table" and shown.type in TABLES:
            _print_rows(shown, samples)
            return
        rows = [_sample(shown, at) for at in _spread(shown, samples)]
    if output == "json":
        print_json(rows)
        return
    headers = ("SAMPLE", "FILE", "LABEL", "SIZE", "CONTENT")
    print_table(
        headers,
        [
            (str(row["sample"]), row["file"], row["label"], show_bytes(row["size"]), row["content"])
            for row in rows
        ],
    )


def _print_rows(shown: Dataset, samples: int) -> None:
    """The first rows, under the names and types of their columns."""
    data_library("polars")
    import numpy as np

    fields = shown.schema[:MAX_COLUMNS]
    names = [field.name for field in fields]
    frame = shown.table().frame_of(np.arange(min(samples, len(shown))), names).select(names)
    rows = [[field.type for field in fields]]
    rows += [[_cell(value)[:CELL_CHARS] for value in row] for row in frame.iter_rows()]
    fitting = columns_that_fit([names, *rows])
    print_table(names[:fitting], [row[:fitting] for row in rows])
    more = len(shown.schema) - fitting
    say(
        f"{len(rows) - 1} of {len(shown)} rows"
        + (f"; {more} more columns: `leptonai dataset get` names all" if more else "")
    )


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float) and len(str(value)) > FLOAT_CHARS:
        return f"{value:.{FLOAT_DIGITS}g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _spread(shown: Dataset, samples: int) -> list[int]:
    """The first of each class, then the next of each, …"""
    labels = shown.labels
    if labels is None:
        return list(range(min(samples, len(shown))))
    import numpy as np

    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], labels[order])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - first
    found: list[int] = np.lexsort((labels, rank))[:samples].tolist()
    return found


def _sample(shown: Dataset, at: int) -> dict[str, Any]:
    data, label = shown[at]
    classes = shown.classes
    return {
        "sample": at,
        "file": shown.path_of(at),
        "label": "" if label is None else classes[label],
        "size": len(data),
        "content": (_image_text(data) or _start_text(data))[:SHOWN_CHARS],
    }


def _image_text(data: Any) -> str:
    """`PNG, 28 x 28 RGB`; "" for what is no image, and without a library that would tell."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return ""
    try:
        with Image.open(BytesIO(data)) as image:
            return f"{image.format}, {image.width} x {image.height} {image.mode}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""


def _start_text(data: Any) -> str:
    start = bytes(data[: 4 * SHOWN_CHARS])
    try:
        return start.decode()
    except UnicodeDecodeError as wrong:
        cut = wrong.start >= len(start) - 3 and len(data) > len(start)
        return start[: wrong.start].decode() if cut else start[:16].hex(" ")
