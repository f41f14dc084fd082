"""Several logs at once, on one terminal."""

import queue
import threading
from collections.abc import Iterator, Mapping

import click

from leptonai.errors import InvalidRequest

MAX_FOLLOWED = 64  # each takes a thread and a connection
MAX_WAITING_LINES = 1_000  # read, not yet printed


def follow_all(logs: Mapping[str, Iterator[str]], having: str | None = None) -> None:
    """Print the lines of all logs that hold a text as they come, each after its prefix, until all
    have ended.

    Raises:
        InvalidRequest: too many.
    """
    if having is not None:
        logs = {prefix: _having(having, lines) for prefix, lines in logs.items()}
    if len(logs) == 1:
        for prefix, lines in logs.items():
            for line in lines:
                click.echo(prefix + line)
        return
    if len(logs) > MAX_FOLLOWED:
        raise InvalidRequest(
            f"{len(logs)} logs are too many to follow at once",
            hint=f"choose up to {MAX_FOLLOWED} of them with --worker",
        )
    lines_read: queue.Queue[str | Exception | None] = queue.Queue(MAX_WAITING_LINES)
    for prefix, lines in logs.items():
        threading.Thread(target=_read, args=(prefix, lines, lines_read), daemon=True).start()
    reading = len(logs)
    while reading:
        item = lines_read.get()
        if isinstance(item, Exception):
            raise item
        if item is None:
            reading -= 1
        else:
            click.echo(item)


def _having(text: str, lines: Iterator[str]) -> Iterator[str]:
    return (line for line in lines if text in line)


def _read(
    prefix: str, lines: Iterator[str], lines_read: "queue.Queue[str | Exception | None]"
) -> None:
    try:
        for line in lines:
            lines_read.put(prefix + line)
        lines_read.put(None)
    except Exception as failure:
        lines_read.put(failure)  # raised where it is printed
