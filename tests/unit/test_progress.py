"""How far a long step is: on a terminal a line, elsewhere nothing."""

import io
import sys

import pytest

from leptonai.cli import progress
from leptonai.cli.progress import Progress

MIB = 1 << 20


class Terminal(io.StringIO):
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


def looked_at(monkeypatch, *, bar=False):
    """From within a test: before it, pytest puts its own stderr in place."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    if not bar:
        monkeypatch.setattr(progress, "_bar", lambda doing: None)
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


def test_where_rich_is_installed_it_draws_a_bar(clock, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    terminal = looked_at(monkeypatch, bar=True)
    with Progress("fetching") as shown:
        steps(clock, shown, total=8 * MIB)
    assert "fetching" in terminal.getvalue() and "50%" in terminal.getvalue()
