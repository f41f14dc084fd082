"""How far a long step is: on a terminal a line, elsewhere nothing."""

import io
import sys
from functools import partial

import pytest

from leptonai.cli import progress
from leptonai.cli.progress import Progress, progress_line

MIB = 1 << 20


class Terminal(io.StringIO):
    encoding = "ascii"

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def looked_at(monkeypatch):
    """From within a test: before it, pytest puts its own stderr in place."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def steps(clock, shown, count=4, total=4 * MIB):
    for step in range(count + 1):
        shown(step * MIB, total)
        clock.now += 1.0


def test_a_terminal_sees_one_line_that_goes_at_the_end(clock, monkeypatch):
    terminal = looked_at(monkeypatch)
    with Progress("fetching") as shown:
        steps(clock, shown)
    lines = terminal.getvalue().split("\r\x1b[K")
    assert lines == [
        "",
        "fetching  25%  1.0 of 4.0 MiB  1.0 MiB/s  3s left",
        "fetching  50%  2.0 of 4.0 MiB  1.0 MiB/s  2s left",
        "fetching  75%  3.0 of 4.0 MiB  1.0 MiB/s  1s left",
        "fetching 100%  4.0 of 4.0 MiB  1.0 MiB/s  0s left",
        "",
    ]


def test_what_takes_no_time_shows_nothing(monkeypatch):
    terminal = looked_at(monkeypatch)
    with Progress("fetching") as shown:
        shown(0, MIB)
        shown(MIB, MIB)
    assert terminal.getvalue() == ""


def test_where_nobody_looks_nothing_is_shown(clock, monkeypatch):
    elsewhere = io.StringIO()
    monkeypatch.setattr(sys, "stderr", elsewhere)
    with Progress("fetching") as shown:
        steps(clock, shown)
    assert elsewhere.getvalue() == ""


def test_ctrl_c_is_told_what_comes_of_it(clock, monkeypatch):
    terminal = looked_at(monkeypatch)
    with pytest.raises(KeyboardInterrupt), Progress("fetching") as shown:
        shown(0, MIB)
        raise KeyboardInterrupt
    assert terminal.getvalue() == (
        "interrupted; what is done is kept: the same command goes on from there\n"
    )


def test_where_it_can_be_drawn_there_is_a_bar(clock, monkeypatch):
    terminal = looked_at(monkeypatch)
    terminal.encoding = "utf-8"
    with Progress("fetching") as shown:
        steps(clock, shown)
    shown = terminal.getvalue().split("\r\x1b[K")[2]
    assert shown == f"fetching {'█' * 12}{' ' * 12}▏  50%  2.0 of 4.0 MiB  1.0 MiB/s  2s left"


def test_each_of_several_steps_has_a_rate_of_its_own(clock, monkeypatch):
    terminal = looked_at(monkeypatch)
    with Progress() as shown:
        steps(clock, partial(shown.step, "storing"), count=2)
        steps(clock, partial(shown.step, "sending"), count=2, total=8 * MIB)
    assert terminal.getvalue().split("\r\x1b[K") == [
        "",
        "storing  25%  1.0 of 4.0 MiB  1.0 MiB/s  3s left",
        "storing  50%  2.0 of 4.0 MiB  1.0 MiB/s  2s left",
        "sending …",
        "sending  12%  1.0 of 8.0 MiB  1.0 MiB/s  7s left",
        "sending  25%  2.0 of 8.0 MiB  1.0 MiB/s  6s left",
        "",
    ]


def test_what_was_there_before_is_no_part_of_the_rate():
    told = progress_line("fetching", 30 * MIB, 40 * MIB, 2.0, first=10 * MIB)
    assert told == "fetching  75%  30.0 of 40.0 MiB  10.0 MiB/s  1s left"


def test_of_what_nobody_knows_the_end_there_is_a_rate_alone():
    assert progress_line("fetching", 3 * MIB, 0, 2.0) == "fetching  3.0 MiB  1.5 MiB/s"
