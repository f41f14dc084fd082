"""Curves over time or load, as pictures: panels above each other that share their x axis."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMATS = (".png", ".svg", ".pdf")
WIDTH_IN, PANEL_HEIGHT_IN = 9.0, 2.6
DOTS_PER_INCH = 144
MAX_POINTS = 20_000  # of a curve: several for each column of pixels; more only make files large


@dataclass(frozen=True, slots=True)
class Curve:
    label: str  # "" for the only one of its panel
    x: "Sequence[float] | NDArray[np.float64]"
    y: "Sequence[float] | NDArray[np.float64]"
    steps: bool = False  # each value holds until the next


@dataclass(frozen=True, slots=True)
class Panel:
    y_label: str
    curves: tuple[Curve, ...]
    y_top: float | None = None  # None: as high as its curves; the bottom is 0


def check_drawing(file: Path) -> None:
    """Say what is missing before hours are spent on what shall be drawn.

    Raises:
        InvalidRequest: the name's ending is none of FORMATS, its folder is not there, or
            matplotlib is not installed.
    """
    if file.suffix.lower() not in FORMATS:
        what = f"{str(file)!r} names no kind of picture"
        raise InvalidRequest(what, hint=f"end its name with {', '.join(FORMATS)}")
    if not file.parent.is_dir():
        raise InvalidRequest(f"there is no folder {file.parent}", hint="make it first")
    _matplotlib()


def draw(file: Path, panels: Sequence[Panel], *, title: str, x_label: str) -> None:
    """Write the panels into a file; equal panels give equal pictures. Raises as check_drawing."""
    check_drawing(file)
    figure = _matplotlib().figure.Figure(
        figsize=(WIDTH_IN, 0.8 + PANEL_HEIGHT_IN * len(panels)), layout="constrained"
    )
    figure.suptitle(title)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        for curve in panel.curves:
            every = max(1, -(-len(curve.x) // MAX_POINTS))
            style = "steps-post" if curve.steps else "default"
            x, y = curve.x[::every], curve.y[::every]
            axis.plot(x, y, drawstyle=style, linewidth=1.0, label=curve.label or None)
        axis.set_ylabel(panel.y_label)
        axis.set_ylim(bottom=0, top=panel.y_top)
        axis.margins(x=0)
        axis.grid(alpha=0.3)
        if any(curve.label for curve in panel.curves):
            axis.legend(loc="upper right", frameon=False)
    axes[-1].set_xlabel(x_label)
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with _matplotlib().rc_context({"svg.hashsalt": "leptonai"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a file's name
        figure.savefig(file, dpi=DOTS_PER_INCH, metadata=undated.get(file.suffix.lower()))


def _matplotlib() -> Any:
    """Never its pyplot, which keeps every figure and looks for a display."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as missing:
        hint = "pip install 'openlepton[plot]'"
        raise InvalidRequest("drawing needs matplotlib, which is not there", hint=hint) from missing
    return matplotlib
