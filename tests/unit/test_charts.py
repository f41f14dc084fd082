"""Charts on a terminal."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.cli.charts import Line, chart


def test_a_rising_line_rises():
    line = Line("loss", range(37), range(37))
    assert chart([line], title="loss", width=30, height=6) == [
        "loss",
        "        36 ┤               ⣀⠔⠊",
        "           │            ⡠⠔⠉",
        "           │         ⡠⠔⠉",
        "        18 ┤      ⣀⠔⠊⠁",
        "           │   ⣀⠔⠊",
        "         0 ┤⡠⠔⠉",
        "           └──────────────────",
        "            0               36",
    ]


def test_several_lines_have_a_legend_and_marks_where_there_are_no_colours():
    lines = [Line("cats", [0, 1], [0, 1]), Line("do\x1b[31mgs", [0, 1], [1, 0])]
    plain = "\n".join(chart(lines, title="t", width=60, height=8))
    assert "• cats" in plain and "× do" in plain and "\x1b" not in plain
    coloured = "\n".join(chart(lines, title="t", width=60, height=8, coloured=True))
    assert "\x1b[36m" in coloured and "\x1b[31mgs" not in coloured


def test_what_is_not_finite_is_a_gap():
    values = [1.0, math.nan, math.inf, 2.0]
    text = chart([Line("x", range(4), values)], title="x", width=40, height=6)
    assert text[1].startswith("         2 ┤")
    assert chart([Line("x", [0], [math.nan])], title="x", width=40, height=6) == [
        "x",
        "(nothing to show)",
    ]


def test_on_a_logarithmic_axis_only_positive_values_stand():
    text = chart([Line("x", range(3), [0.0, 1.0, 100.0])], title="x", width=40, height=6, log=True)
    assert (text[1][:12], text[6][:12]) == ("       100 ┤", "         1 ┤")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-(1 << 53), 1 << 53), st.floats()), max_size=30),
    st.integers(-5, 200),
    st.integers(-5, 40),
    st.booleans(),
)
def test_any_curve_fits_its_width(points, width, height, log):
    points.sort()
    line = Line("x", [x for x, _ in points], [y for _, y in points])
    text = chart([line], title="x", width=width, height=height, log=log)
    assert max(map(len, text)) <= max(width, 30) + 40
