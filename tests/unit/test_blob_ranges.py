"""Which bytes a request asks for (RFC 9110, 14.1.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.control.api.blobs import byte_range
from leptonai.errors import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "asked"),
    [
        ("bytes=0-", (0, 10)),
        ("bytes=3-", (3, 10)),
        ("bytes=3-4", (3, 5)),
        ("bytes=0-0", (0, 1)),
        ("bytes=3-99", (3, 10)),
        ("bytes=-4", (6, 10)),
        ("bytes=-99", (0, 10)),
        (" bytes=9-9 ", (9, 10)),
        # What is no single range is answered with everything.
        ("", None),
        ("bytes=-", None),
        ("bytes=4-3", None),
        ("bytes=0-1,4-5", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes=²-", None),
        (f"bytes={'9' * 30}-", None),
    ],
)
def test_a_range_is_read_as_the_standard_says(header, asked):
    assert byte_range(header, 10) == asked


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_a_range_that_begins_after_the_end_is_refused(header):
    with pytest.raises(RangeNotSatisfiable, match="the blob has 10 bytes"):
        byte_range(header, 10)


@given(st.text(max_size=30) | st.from_regex(r"bytes=[0-9]*-[0-9]*", fullmatch=True))
def test_whatever_is_asked_nothing_outside_of_the_blob_is_read(header):
    try:
        asked = byte_range(header, 10)
    except RangeNotSatisfiable:
        return
    assert asked is None or 0 <= asked[0] < asked[1] <= 10
