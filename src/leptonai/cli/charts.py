"""Curves on a terminal: dots of braille, two by four to a character."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leptonai.cli.output import printable

MIN_WIDTH, MIN_HEIGHT = 30, 6
LABEL_CHARS = 10  # left of the axis
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column of a character
MARKS = "•×+o*#@%"  # of several lines, where there are no colours to tell them apart
COLOURS = (36, 33, 35, 32, 34, 31, 96, 93)
BRAILLE = 0x2800
MAX_EXPONENT = 308  # of ten, that a float can be


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    xs: Sequence[float]
    ys: Sequence[float]


def chart(
    lines: Sequence[Line],
    *,
    title: str,
    width: int,
    height: int,
    log: bool = False,
    coloured: bool = False,
) -> list[str]:
    """The lines of text of a chart with axes and a legend.

    What is not finite, and with `log` what is not positive, is a gap.
    """
    width, height = max(width, MIN_WIDTH) - LABEL_CHARS - 2, max(height, MIN_HEIGHT)
    shown = [_finite(line, log) for line in lines]
    xs = [x for line in shown for x, _ in line if x == x]
    ys = [y for line in shown for _, y in line if y == y]
    if not ys:
        return [printable(title), "(nothing to show)"]
    left, right = min(xs), max(xs)
    low, high = _widened(min(ys), max(ys))
    cells: list[list[int]] = [[0] * width for _ in range(height)]
    owner: list[list[int]] = [[-1] * width for _ in range(height)]
    across, down = 2 * width - 1, 4 * height - 1
    for number, line in enumerate(shown):
        dots = [
            None
            if y != y
            else (
                round((x - left) / (right - left) * across) if right > left else across // 2,
                # Halves, for the span of the largest numbers is none.
                round((high / 2 - y / 2) / (high / 2 - low / 2) * down),
            )
            for x, y in line
        ]
        for column, row in _joined(dots):
            cells[row // 4][column // 2] |= DOTS[row % 4][column % 2]
            owner[row // 4][column // 2] = number
    marks = len(lines) > 1 and not coloured
    text = [printable(title)]
    ticks = {0: high, height // 2: high / 2 + low / 2, height - 1: low}
    for at in range(height):
        label = ""
        if at in ticks:
            label = _number(_power(ticks[at]) if log else ticks[at])
        row_text = "".join(
            _cell(bits, which, marks=marks, coloured=coloured)
            for bits, which in zip(cells[at], owner[at], strict=True)
        )
        text.append(f"{label:>{LABEL_CHARS}} {'┤' if label else '│'}{row_text}".rstrip())
    text.append(f"{'':>{LABEL_CHARS}} └{'─' * width}")
    start, end = _number(left), _number(right)
    text.append(f"{'':>{LABEL_CHARS}}  {start}{end:>{max(1, width - len(start))}}")
    if len(lines) > 1:
        text += [
            f"{'':>{LABEL_CHARS}}  {_sample(number, coloured=coloured)} {printable(line.name)}"
            for number, line in enumerate(lines)
        ]
    return text


def _finite(line: Line, log: bool) -> list[tuple[float, float]]:
    found = []
    for x, y in zip(line.xs, line.ys, strict=True):
        drawn = math.isfinite(y) and (y > 0 or not log)
        found.append((float(x), math.nan if not drawn else math.log10(y) if log else y))
    return found


def _widened(low: float, high: float) -> tuple[float, float]:
    if high > low:
        return low, high
    room = abs(low) / 2 or 1.0
    return low - room, high + room


def _joined(dots: Sequence[tuple[int, int] | None]) -> Iterator[tuple[int, int]]:
    """The dots, and straight lines between neighbours."""
    before: tuple[int, int] | None = None
    for dot in dots:
        if dot is not None:
            if before is None:
                yield dot
            else:
                count = max(abs(dot[0] - before[0]), abs(dot[1] - before[1]), 1)
                for part in range(1, count + 1):
                    yield (
                        round(before[0] + (dot[0] - before[0]) * part / count),
                        round(before[1] + (dot[1] - before[1]) * part / count),
                    )
        before = dot


def _cell(bits: int, which: int, *, marks: bool, coloured: bool) -> str:
    if not bits:
        return " "
    if marks:
        return MARKS[which % len(MARKS)]
    glyph = chr(BRAILLE + bits)
    return f"\x1b[{COLOURS[which % len(COLOURS)]}m{glyph}\x1b[0m" if coloured else glyph


def _sample(number: int, *, coloured: bool) -> str:
    if coloured:
        return f"\x1b[{COLOURS[number % len(COLOURS)]}m⣿\x1b[0m"
    return MARKS[number % len(MARKS)]


def _power(exponent: float) -> float:
    """Of ten."""
    return float("inf") if exponent > MAX_EXPONENT else 10.0**exponent


def _number(value: float) -> str:
    if abs(value) == float("inf"):  # of a label between two large values, or of their powers
        return "inf"
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.4g}"
