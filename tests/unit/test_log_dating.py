from hypothesis import given
from hypothesis import strategies as st

from leptonai.monitoring.logs import MAX_LINE_BYTES, LineDates, Lines, LineSplitter, as_text
from leptonai.ports.engine import LogChunk, LogMarks


def chunks_of(data: bytes, size: int):
    return [LogChunk(at, data[at : at + size]) for at in range(0, len(data), size)]


def split(chunks, *, over=False) -> Lines:
    splitter = LineSplitter()
    parts = [splitter.feed(chunk) for chunk in chunks] + ([splitter.rest()] if over else [])
    return Lines(
        [e for part in parts for e in part.ends], [t for part in parts for t in part.texts]
    )


def test_lines_are_told_with_the_offsets_of_their_ends():
    assert split(chunks_of(b"a\n\nbcd\n", 2)) == Lines([2, 3, 7], [b"a", b"", b"bcd"])


def test_an_open_line_is_told_once_the_attempt_has_finished():
    data = chunks_of(b"done\nhalf", 3)
    assert split(data) == Lines([5], [b"done"])
    assert split(data, over=True) == Lines([5, 9], [b"done", b"half"])


def test_a_long_line_is_told_in_pieces():
    data = b"x" * (2 * MAX_LINE_BYTES + 1) + b"\nend\n"
    lengths = [len(text) for text in split(chunks_of(data, 50_000)).texts]
    assert lengths == [MAX_LINE_BYTES, MAX_LINE_BYTES, 1, 3]


@given(st.integers(0, 3), st.sampled_from(["ż", "€", "🙂"]), st.integers(1_000, 100_000))
def test_a_long_line_is_cut_between_characters_wherever_the_chunks_are(before, character, size):
    text = "y" * before + character * (2 * MAX_LINE_BYTES // len(character.encode()))
    data = text.encode() + b"\nend\n"
    whole, parts = split(chunks_of(data, len(data))), split(chunks_of(data, size))
    assert whole == parts
    assert "".join(piece.decode() for piece in parts.texts[:-1]) == text


def test_after_dropped_output_the_broken_line_is_left_out():
    assert split([LogChunk(0, b"one\ntw"), LogChunk(100, b"next\n")]).texts == [b"one", b"next"]


def test_bytes_that_are_no_text_are_replaced():
    assert as_text(b"\xff\r") == "\ufffd"


def test_a_line_is_dated_between_the_marks_around_its_end():
    dates = LineDates(LogMarks.of([(0, 0), (1_000, 10), (2_000, 20)]), 0, 5_000)
    assert dates.of_each([5, 10, 15, 20]) == [500, 1_000, 1_500, 2_000]
    assert [dates.of(end) for end in (5, 10, 15, 20)] == [500, 1_000, 1_500, 2_000]


def test_nothing_is_dated_outside_the_life_of_the_attempt():
    dates = LineDates(LogMarks.of([(100, 0), (9_000, 2)]), 200, 5_000)
    assert dates.of_each([1, 2]) == [4_550, 5_000]
    assert LineDates(LogMarks.of([(100, 0), (150, 2)]), 200, 5_000).of(2) == 200


def test_a_log_without_marks_dates_nothing():
    dates = LineDates(LogMarks(), 7, None)
    assert dates.end == 0
    assert dates.of(5) == 7
    assert dates.first_end(99) == 1


@st.composite
def marked(draw):
    at, offset, marks = 100, 0, [(100, 0)]
    for later, longer in draw(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 20)))):
        at, offset = at + later, offset + longer
        marks.append((at, offset))
    return LogMarks.of(marks)


@given(marked(), st.integers(50, 400), st.integers(0, 5_000))
def test_dates_ascend_and_bisection_finds_what_a_search_would(marks, first_ns, asked_ns):
    dates = LineDates(marks, first_ns, 4_000)
    ends = list(range(dates.end + 1))
    times = dates.of_each(ends)
    assert times == sorted(times)
    assert times == [dates.of(end) for end in ends]
    assert all(first_ns <= time <= 4_000 for time in times)
    assert dates.first_end(asked_ns) == next(
        (end for end in ends if times[end] >= asked_ns), dates.end + 1
    )


@given(marked(), st.lists(st.tuples(st.integers(1, 99), st.integers(1, 20))))
def test_what_was_dated_once_keeps_its_date_when_the_log_grows(marks, steps):
    before = LineDates(marks, 0, None)
    ends = list(range(before.end + 1))
    dated = before.of_each(ends)
    at, offset = marks.last_ns, marks.end
    for later, longer in steps:
        at, offset = at + later, offset + longer
        marks.at_ns.append(at)
        marks.offsets.append(offset)
    assert LineDates(marks, 0, at).of_each(ends) == dated
