from hypothesis import given
from hypothesis import strategies as st

from leptonai.monitoring.logs import MAX_LINE_BYTES, DatedLine, dated_lines
from leptonai.ports.engine import LogChunk, LogMark


def chunks_of(data: bytes, size: int):
    return [LogChunk(at, data[at : at + size]) for at in range(0, len(data), size)]


def test_a_line_is_dated_between_the_marks_around_its_end():
    marks = (LogMark(1_000, 10), LogMark(2_000, 20))
    lines = dated_lines(chunks_of(b"aaaa\nbbbb\ncccc\ndddd\n", 7), marks, 0, 5_000)
    assert list(lines) == [
        DatedLine(500, "aaaa"),
        DatedLine(1_000, "bbbb"),
        DatedLine(1_500, "cccc"),
        DatedLine(2_000, "dddd"),
    ]


def test_a_mark_made_after_the_end_dates_nothing_later_than_the_end():
    assert list(dated_lines(chunks_of(b"a\n", 9), (LogMark(9_000, 2),), 0, 5_000)) == [
        DatedLine(5_000, "a")
    ]


def test_an_open_line_is_told_once_the_attempt_has_finished():
    data = chunks_of(b"done\nhalf", 3)
    assert [line.text for line in dated_lines(data, (), 0, None)] == ["done"]
    assert [line.text for line in dated_lines(data, (), 0, 99)] == ["done", "half"]


def test_a_long_line_is_told_in_pieces():
    data = b"x" * (2 * MAX_LINE_BYTES + 1) + b"\nend\n"
    lengths = [len(line.text) for line in dated_lines(chunks_of(data, 50_000), (), 0, 9)]
    assert lengths == [MAX_LINE_BYTES, MAX_LINE_BYTES, 1, 3]


def test_after_dropped_output_the_broken_line_is_left_out():
    data = [LogChunk(0, b"one\ntw"), LogChunk(100, b"broken\nnext\n")]
    assert [line.text for line in dated_lines(data, (), 0, None)] == ["one", "next"]


def test_bytes_that_are_no_text_are_replaced():
    assert [line.text for line in dated_lines([LogChunk(0, b"\xff\r\n")], (), 0, None)] == [
        "\ufffd"
    ]


@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=8),
    st.integers(1, 40),
)
def test_lines_keep_their_order_whatever_the_marks_and_chunks(lengths, steps, size):
    data = b"".join(b"y" * length + b"\n" for length in lengths)
    marks, at, offset = [], 100, 0
    for later, longer in steps:
        at, offset = at + later * 100, min(len(data), offset + longer)
        marks.append(LogMark(at, offset))
    lines = list(dated_lines(chunks_of(data, size), tuple(marks), 100, at + 100))
    assert [line.text for line in lines] == ["y" * length for length in lengths]
    times = [line.at_ns for line in lines]
    assert times == sorted(times)
    assert all(time <= at + 100 for time in times)
