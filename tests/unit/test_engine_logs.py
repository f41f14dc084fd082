from pathlib import Path

import pytest

from leptonai.engines.local import logs
from leptonai.ports.engine import LogChunk, LogMark

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


def test_marks_are_bounded_and_survive(log, monkeypatch):
    monkeypatch.setattr(logs, "MAX_MARKS", 10)
    for number in range(100):
        append(log, 1)
        log.mark(number)
    assert len(log.marks) <= 10
    assert log.marks[-1] == LogMark(99, 1_600)
    assert logs.Log.open(log.path).marks == log.marks
    assert logs.read_marks(log.path) == tuple(log.marks)


def test_a_clock_that_goes_back_makes_no_earlier_mark(log):
    append(log, 1)
    log.mark(100)
    append(log, 1)
    log.mark(50)
    assert log.marks == [LogMark(100, 16), LogMark(100, 32)]


def test_what_was_written_after_the_last_mark_is_dated_by_the_file(log):
    append(log, 1)
    log.mark(100)
    append(log, 1)
    modified = log.path.stat().st_mtime_ns
    assert logs.read_marks(log.path) == (LogMark(100, 16), LogMark(modified, 32))


def test_a_mark_that_a_crash_cut_short_is_left_out(log):
    append(log, 1)
    log.mark(100)
    with log.path.with_name("log.marks").open("ab") as file:
        file.write(b"1234")
    assert logs.Log.open(log.path).marks == [LogMark(100, 16)]


def test_there_is_no_log_where_there_is_no_file(tmp_path):
    assert logs.read(tmp_path / "log", offset=0, limit=1) is None
