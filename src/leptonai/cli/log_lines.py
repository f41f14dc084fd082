"""Lines of the past on a terminal: those of a time, that hold a text, the last ones."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

from leptonai.cli.options import as_one
from leptonai.cli.output import print_json
from leptonai.cli.session import Parsed
from leptonai.spec.quantities import past_s

if TYPE_CHECKING:
    from leptonai.spec.replicas import LogLine

F = TypeVar("F", bound=Callable[..., object])

NS_PER_S = 1_000_000_000
# Later than any line. Not our "now": the platform's clock may be ahead of ours, or was set back.
NEVER_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines, and how they are shown."""

    since_s: float | None
    until_s: float | None
    grep: str | None
    tail: int | None
    timestamps: bool

    @property
    def of_a_time(self) -> bool:
        return self.since_s is not None or self.until_s is not None

    @property
    def everything(self) -> bool:
        """As it was written, which needs no dates."""
        plain = self.grep is None and self.tail is None and not self.timestamps
        return plain and not self.of_a_time

    def between_ns(self) -> tuple[int, int]:
        since_s = 0.0 if self.since_s is None else self.since_s
        until_ns = NEVER_NS if self.until_s is None else int(self.until_s * NS_PER_S)
        return int(since_s * NS_PER_S), until_ns

    def check_following(self) -> None:
        """Raises:
        click.UsageError: nobody knows the time of a line that comes now, to the nanosecond.
        """
        if self.of_a_time or self.timestamps:
            raise click.UsageError(
                "a log that is followed has no --since, --until or --timestamps: "
                "leave out -f, or ask for the last lines with --tail"
            )


_MOMENT = Parsed("time", lambda text: past_s(text, time.time()))
# The command gets `wanted`.
line_options = as_one(
    "wanted",
    Wanted,
    click.option("--since", "since_s", type=_MOMENT, help="Written in the last 2h, or since."),
    click.option("--until", "until_s", type=_MOMENT, help="Written before: 10m, or a time."),
    click.option("--grep", metavar="TEXT", help="Lines that hold this text."),
    click.option("--tail", type=click.IntRange(min=0), metavar="N", help="The last N lines."),
    click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time."),
)


def print_lines(
    wanted: Wanted, logs: Mapping[str, Iterable[LogLine]], *, output: str = "table"
) -> None:
    """Of several logs in the order of their times, each line after the prefix of its log."""
    lines = _merged(logs)
    if wanted.tail is not None:
        lines = iter([*lines][-wanted.tail :] if wanted.tail else ())
    if output == "json":
        print_json([{"log": name, "at_ns": at_ns, "line": line} for at_ns, name, line in lines])
        return
    several = len(logs) > 1
    for at_ns, name, line in lines:
        stamp = f"{_time_of(at_ns)} " if wanted.timestamps else ""
        click.echo(stamp + (f"[{name}] " if several else "") + line)


def _merged(logs: Mapping[str, Iterable[LogLine]]) -> Iterator[tuple[int, str, str]]:
    def of(name: str, lines: Iterable[LogLine]) -> Iterator[tuple[int, str, str]]:
        return ((int(at), name, line) for at, line in lines)

    # By time alone: what is sorted here must not be told apart by its text.
    return heapq.merge(*(of(*log) for log in logs.items()), key=lambda line: line[0])


def _time_of(at_ns: int) -> str:
    seconds, ns = divmod(at_ns, NS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09}Z"
