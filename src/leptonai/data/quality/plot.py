"""A report as pictures: classes, what is missing, what has drifted."""

import warnings
from pathlib import Path
from typing import Any

from leptonai.data.quality.report import Histogram, Report
from leptonai.errors import InvalidRequest

MAX_BARS = 20
MAX_DRAWN = 6  # drifted columns
FORMATS = (".png", ".svg", ".pdf")
PANEL_IN = (5.0, 3.2)
DOTS_PER_INCH = 120


def check_plot(file: Path) -> None:
    """
    Raises:
        InvalidRequest: the name's ending is none of `FORMATS`, its folder is not there, or
            matplotlib is not installed.
    """
    if file.suffix.lower() not in FORMATS:
        raise InvalidRequest(
            f"{str(file)!a} names no kind of picture", hint=f"end it with {', '.join(FORMATS)}"
        )
    if not file.absolute().parent.is_dir():
        raise InvalidRequest(f"there is no folder {str(file.parent)!a}", hint="make it first")
    _matplotlib()


def plot(report: Report, file: Path) -> None:
    """Write the pictures into one file. Raises as `check_plot`."""
    check_plot(file)
    panels: list[Any] = []
    if report.classes:
        panels.append(lambda axis: _bars(axis, "samples of each class", report.classes))
    if report.missing:
        panels.append(lambda axis: _bars(axis, "share that is missing", report.missing))
    panels += [lambda axis, of=each: _drift(axis, of) for each in report.drift[:MAX_DRAWN]]
    if not panels:
        panels.append(lambda axis: axis.text(0.1, 0.5, "nothing to draw: no classes, no columns"))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = _matplotlib().figure.Figure(
        figsize=(PANEL_IN[0] * columns, PANEL_IN[1] * rows + 0.4), layout="constrained"
    )
    against = f", against {report.against}" if report.against else ""
    figure.suptitle(_plain(f"{report.dataset}: {report.samples:,} samples{against}"))
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, draw in zip(axes, panels, strict=False):
        draw(axis)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name
        figure.savefig(file, dpi=DOTS_PER_INCH)


def _bars(axis: Any, title: str, numbers: dict[str, Any]) -> None:
    shown = list(numbers.items())
    if len(shown) > MAX_BARS:  # both ends
        shown = shown[: MAX_BARS // 2] + shown[-MAX_BARS // 2 :]
        title += f" ({MAX_BARS} of {len(numbers)})"
    axis.barh([_plain(name) for name, _ in shown][::-1], [number for _, number in shown][::-1])
    axis.set_title(title)
    axis.grid(axis="x", alpha=0.3)


def _drift(axis: Any, of: Histogram) -> None:
    places = range(len(of.bins))
    axis.bar([at - 0.2 for at in places], of.before, width=0.4, label="before")
    axis.bar([at + 0.2 for at in places], of.now, width=0.4, label="now")
    axis.set_xticks(list(places), [_plain(name) for name in of.bins], rotation=60, fontsize=6)
    axis.set_title(_plain(f"{of.name}: PSI {of.psi:.3f}"))
    axis.legend(frameon=False)


def _plain(text: str) -> str:
    """As it is: matplotlib reads formulas between dollar signs."""
    return text[:40].replace("$", r"\$")


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as missing:
        raise InvalidRequest(
            "drawing needs matplotlib, which is not there", hint="pip install 'openlepton[plot]'"
        ) from missing
    return matplotlib
