"""Pictures of what was simulated."""

import sys

import pytest

from leptonai.errors import InvalidRequest
from leptonai.testing.simulator.drawing import Curve, Panel, draw

PANELS = [
    Panel("GPUs in use", (Curve("", [0, 1, 3], [0, 8, 4], steps=True),), y_top=8),
    Panel("jobs", (Curve("waiting", [0, 1, 3], [0, 2, 1]), Curve("running", [0, 3], [1, 1]))),
]
BEGINNINGS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("ending", BEGINNINGS)
def test_equal_panels_give_equal_pictures_of_the_kind_that_the_name_says(tmp_path, ending):
    contents = []
    for name in ("one", "two"):
        file = tmp_path / (name + ending)
        draw(file, PANELS, title="queue", x_label="hours")
        contents.append(file.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(BEGINNINGS[ending])


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        (
            "out.gif",
            "'{folder}/out.gif' names no kind of picture",
            "end its name with .png, .svg, .pdf",
        ),
        ("out", "'{folder}/out' names no kind of picture", "end its name with .png, .svg, .pdf"),
        ("absent/out.png", "there is no folder {folder}/absent", "make it first"),
    ],
)
def test_a_picture_that_cannot_be_written_is_an_error(tmp_path, name, message, hint):
    with pytest.raises(InvalidRequest) as wrong:
        draw(tmp_path / name, PANELS, title="queue", x_label="hours")
    assert (wrong.value.message, wrong.value.hint) == (message.format(folder=tmp_path), hint)


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidRequest) as wrong:
        draw(tmp_path / "out.png", PANELS, title="queue", x_label="hours")
    assert wrong.value.hint == "pip install 'openlepton[plot]'"
