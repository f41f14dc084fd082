"""What people and programs read: tables, ages, colours, JSON."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar

import click

T = TypeVar("T")
MIN_COLUMN_CHARS = 12  # a column is not cut below
GAP = "  "
_GREEN, _YELLOW, _RED, _GREY = "32", "33", "31", "90"
_STATE_COLOURS = {
    "Ready": _GREEN,
    "Running": _GREEN,
    "Completed": _GREEN,
    "Finished": _GREEN,
    "Queueing": _YELLOW,
    "Awaiting": _YELLOW,
    "Starting": _YELLOW,
    "PendingRetry": _YELLOW,
    "Stopping": _YELLOW,
    "Updating": _YELLOW,
    "Scaling": _YELLOW,
    "Not Ready": _YELLOW,
    "Warning": _YELLOW,
    "Waiting": _YELLOW,
    "Placed": _YELLOW,
    "Failed": _RED,
    "Error": _RED,
    "Unhealthy": _RED,
    "NotReady": _RED,
    "Stopped": _GREY,
    "Archived": _GREY,
    "Deleting": _GREY,
    "ok": _GREEN,
    "warn": _YELLOW,
    "fail": _RED,
    "skipped": _GREY,
}


def print_json(value: object) -> None:
    """For programs: JSON and nothing else."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    click.echo(text)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns; cut to the terminal's width, and coloured, only on a terminal."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    lines = table([headers, *rows], width=width)
    coloured = terminal and wants_colour()
    for row, line in zip([None, *rows], lines, strict=True):
        click.echo(_paint(line, row) if coloured else line, color=coloured)


def answer(value: object, output: str, *words: str) -> None:
    """What commands that change something answer: JSON for programs, or in words."""
    if output == "json":
        print_json(value)
        return
    for line in words:
        click.echo(line)


def print_list(
    found: Sequence[T],
    output: str,
    headers: Sequence[str],
    row: Callable[[T], Sequence[str]],
    *,
    none: str,
) -> None:
    """What `list` commands answer; `none` is said beside an empty answer."""
    if output == "json":
        print_json(found)
    elif found:
        print_table(headers, [row(each) for each in found])
    else:
        say(none)


def fits_terminal(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table needs no cutting; off a terminal any does."""
    if not sys.stdout.isatty():
        return True
    return len(max(table(rows, width=None), key=len)) <= shutil.get_terminal_size().columns


def columns_that_fit(rows: Sequence[Sequence[str]], width: int | None = None) -> int:
    """How many of a table's columns there is room for, at least one, each as narrow as `table` may
    cut it. Without a `width`: on the terminal; off a terminal there is room for all."""
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    widths = [
        min(MIN_COLUMN_CHARS, max(len(printable(cell)) for cell in column))
        for column in zip(*rows, strict=True)
    ]
    if width is None:
        return len(widths)
    ends = accumulate(size + len(GAP) for size in widths)
    return max(1, sum(end - len(GAP) <= width for end in ends))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """One fact a line, those without a value left out."""
    shown = [(name, value) for name, value in facts if value]
    widest = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name:<{widest}}{GAP}{printable(value)}")


def say(text: str) -> None:
    """A word to the person at the terminal, beside the answer."""
    click.echo(text, err=True)


def table(rows: Sequence[Sequence[str]], *, width: int | None) -> list[str]:
    """The lines of a table whose first row are its headers. The widest columns give way first
    where `width` is not enough."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    if width is not None:
        excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
        while excess > 0 and max(widths) > MIN_COLUMN_CHARS:
            widths[widths.index(max(widths))] -= 1
            excess -= 1
    return [
        GAP.join(_fit(cell, size) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def printable(text: str) -> str:
    """One line without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def age(since_ms: int | None, now_ms: int | None = None) -> str:
    """How long ago, in one or two units: "5s", "3m", "2h10m", "4d"."""
    if since_ms is None:
        return ""
    now = int(time.time() * 1_000) if now_ms is None else now_ms
    return span((now - since_ms) / 1_000)


def span(seconds: float) -> str:
    """A length of time for people."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, hours, days = whole // 60, whole // 3_600, whole // 86_400
    if minutes < 60:
        return f"{minutes}m"
    if hours < 48:
        rest = minutes % 60
        return f"{hours}h{rest}m" if rest and hours < 10 else f"{hours}h"
    return f"{days}d"


def _fit(cell: str, size: int) -> str:
    return f"{cell:<{size}}" if len(cell) <= size else cell[: size - 1] + "…"


def wants_colour() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _paint(line: str, row: Sequence[str] | None) -> str:
    if row is None:
        return f"\x1b[1m{line}\x1b[0m"
    for cell in row:
        colour = _STATE_COLOURS.get(cell)
        if colour is not None:
            return line.replace(cell, f"\x1b[{colour}m{cell}\x1b[0m", 1)
    return line
