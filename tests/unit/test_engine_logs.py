import os
from pathlib import Path

import pytest

from leptonai.engines.local import logs
from leptonai.ports.engine import LogChunk, LogMarks

S = 1_000_000_000
LINE = b"0123456789abcde\n"  # 16 bytes


@pytest.fixture
def log(tmp_path: Path) -> logs.Log:
    (tmp_path / "log").write_bytes(b"")
    return logs.Log.open(tmp_path / "log")


def append(log: logs.Log, lines: int) -> None:
    with log.path.open("ab") as file:
        file.write(LINE * lines)


def test_a_short_log_is_not_touched(log):
    append(log, 10)
    log.trim(4_096)
    assert logs.read(log.path, offset=0, limit=16) == LogChunk(0, LINE)


def test_dropped_bytes_keep_every_offset(log):
    append(log, 4_096)  # 64 KiB
    log.trim(16_384)
    first = logs.read(log.path, offset=0, limit=16)
    assert first == LogChunk(65_536 - 16_384 + 16, LINE)  # the next line start
    assert logs.read(log.path, offset=65_520, limit=100) == LogChunk(65_520, LINE)
    assert logs.read(log.path, offset=65_536, limit=100) == LogChunk(65_536, b"")


def test_where_there_are_no_holes_the_file_is_moved_away_and_offsets_stay(log):
    log.punch = False
    for round in range(10):
        append(log, 1_000)
        log.trim(16_384)
        assert log.size == (round + 1) * 16_000
    assert sum(path.stat().st_size for path in log.path.parent.glob("log*")) <= 32_768
    first = logs.read(log.path, offset=0, limit=16)
    assert first is not None
    assert first.offset > 0
    assert first.data == LINE
    offset, kept = first.offset, b""
    while chunk := logs.read(log.path, offset=offset, limit=1_000):
        if not chunk.data:
            break
        assert chunk.offset == offset
        offset, kept = offset + len(chunk.data), kept + chunk.data
    assert offset == 160_000
    assert kept == LINE * (len(kept) // 16)


def marks_of(*marks: tuple[int, int]) -> LogMarks:
    return LogMarks.of(marks)


def written_at(log: logs.Log, at_ns: int, lines: int) -> None:
    append(log, lines)
    os.utime(log.path, ns=(at_ns, at_ns))


def test_a_mark_tells_when_the_file_was_written_to(log):
    written_at(log, 1_000, 1)
    log.mark(S)
    assert log.marks == marks_of((1_000, 0), (1_016, 16)), "a nanosecond for each byte"
    written_at(log, 2 * S, 1)
    log.mark(3 * S)
    assert log.marks == marks_of((1_000, 0), (1_016, 16), (2 * S, 32))
    assert logs.Log.open(log.path).marks == log.marks


def test_what_comes_after_a_silence_is_not_spread_over_it(log):
    written_at(log, 1_000, 1)
    log.mark(S)
    log.mark(4 * S)
    written_at(log, 5 * S, 2)
    log.mark(5 * S + 5)
    assert log.marks == marks_of((1_000, 0), (1_016, 16), (4 * S, 16), (5 * S, 48))


def test_the_attempt_began_when_it_was_claimed(log):
    claim = log.path.with_name("claim")
    claim.touch()
    os.utime(claim, ns=(500, 500))
    written_at(log, 1_000, 1)
    log.mark(S)
    assert log.marks == marks_of((500, 0), (1_000, 16))


def test_nothing_is_dated_later_than_now_or_the_end_whatever_the_file_says(log):
    written_at(log, 9_000, 1)
    log.mark(9_004, last=True)
    assert log.marks == marks_of((9_000, 0), (9_004, 16))
    written_at(log, 99 * S, 1)
    log.mark(S, last=True)
    assert log.marks.last_ns == S


def test_marks_come_more_rarely_when_there_are_many(log, monkeypatch):
    monkeypatch.setattr(logs, "MAX_MARKS", 10)
    for second in range(1, 1_000):
        written_at(log, second * S, 1)
        log.mark(second * S)
    assert 10 < len(log.marks) < 30
    assert log.marks.end > 900 * 16


def test_marks_of_dropped_bytes_go_and_the_others_stay_as_they_were(log, monkeypatch):
    monkeypatch.setattr(logs, "MAX_MARKS", 100)
    for second in range(1, 90):
        written_at(log, second * S, 512)
        log.mark(second * S)
    before = log.marks.at_ns[:], log.marks.offsets[:]
    log.trim(65_536)
    assert len(log.marks) < 20
    assert log.marks.at_ns == before[0][-len(log.marks) :]
    assert log.marks.offsets == before[1][-len(log.marks) :]
    assert log.marks.offsets[0] <= log.size - 65_536 < log.marks.offsets[1]
    assert logs.Log.open(log.path).marks == log.marks


def test_a_clock_that_goes_back_makes_no_earlier_mark(log):
    written_at(log, S, 1)
    log.mark(S)
    written_at(log, 50, 1)
    log.mark(50, last=True)
    assert list(log.marks.at_ns) == sorted(log.marks.at_ns)
    assert log.marks.end == 32


def test_a_mark_that_a_crash_cut_short_is_left_out(log):
    written_at(log, 1_000, 1)
    log.mark(S)
    with log.path.with_name("log.marks").open("ab") as file:
        file.write(b"1234")
    again = logs.Log.open(log.path)
    assert again.marks == log.marks
    written_at(log, 2 * S, 1)
    again.mark(2 * S)
    assert logs.Log.open(log.path).marks == again.marks
    assert again.marks.end == 32


def test_a_log_that_its_program_cut_short_keeps_its_marks(log):
    written_at(log, 1_000, 5)
    log.mark(S)
    before = list(log.marks.offsets)
    os.truncate(log.path, 16)
    log.mark(2 * S)
    assert list(log.marks.offsets) == before


def test_there_is_no_log_where_there_is_no_file(tmp_path):
    assert logs.read(tmp_path / "log", offset=0, limit=1) is None
