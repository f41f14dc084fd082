"""A photon as a directory, and the environment that it asks for."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from leptonai.errors import InvalidRequest, NotFound, Unavailable
from leptonai.serving.environment import python_with
from leptonai.serving.packing import pack, read_packed
from leptonai.spec.photons import METADATA_FILE, Packed

SOURCE = """
from leptonai.photon import Photon

class Counter(Photon):
    requirement_dependency = ["msgspec"]
    deployment_template = {"env": {"START": "5"}, "secret": ["TOKEN"]}
    extra_files = ["data/words.txt"]

    @Photon.handler
    def add(self, x: int) -> int:
        return x
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "words.txt").write_text("one")
    (tmp_path / "counter.py").write_text(SOURCE)
    return tmp_path / "counter.py"


def test_a_packed_photon_is_its_source_and_what_it_asks_for(source: Path, tmp_path: Path) -> None:
    packed = pack(f"{source}:Counter", tmp_path / "packed", "counter")
    assert packed == Packed(
        name="counter",
        file="counter.py",
        photon="Counter",
        requirement_dependency=["msgspec"],
        deployment_template={"env": {"START": "5"}, "secret": ["TOKEN"]},
        extra_files=["data/words.txt"],
    )
    assert read_packed(tmp_path / "packed") == packed
    files = sorted(
        str(p.relative_to(tmp_path / "packed")) for p in (tmp_path / "packed").rglob("*.*")
    )
    assert files == ["counter.py", "data/words.txt", METADATA_FILE]


@pytest.mark.parametrize(
    ("was", "becomes", "error"),
    [
        ('"data/words.txt"', '"../secret.txt"', "../secret.txt is not a file beside the photon"),
        ('"data/words.txt"', '"/etc/passwd"', "/etc/passwd is not a file beside the photon"),
        ('["msgspec"]', '"msgspec"', "Counter.requirement_dependency is no list of texts"),
        ('{"START": "5"}', "{3, 4j}", "deployment_template cannot be written down"),
        ("x: int", "*x: int", r"the handler Counter.add cannot be served: *x: int has no name"),
        ("x: int", "x: slice", "POST /add takes what cannot come as JSON"),
    ],
)
def test_what_cannot_be_packed_is_said(
    source: Path, tmp_path: Path, was: str, becomes: str, error: str
) -> None:
    source.write_text(SOURCE.replace(was, becomes))
    with pytest.raises(InvalidRequest, match=re.escape(error)):
        pack(str(source), tmp_path / "packed", "counter")


def test_a_directory_without_a_photon_or_with_a_wicked_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="holds no photon"):
        read_packed(tmp_path)
    wicked = {"name": "x", "file": "../x.py", "photon": "X"}
    (tmp_path / METADATA_FILE).write_text(json.dumps(wicked))
    with pytest.raises(InvalidRequest, match="is not a file beside"):
        read_packed(tmp_path)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        pack(str(tmp_path / "no.py"), tmp_path / "packed", "counter")


def test_an_environment_is_made_once_and_needs_no_network_for_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    python = python_with(["msgspec>=0.18"], tmp_path)
    said = subprocess.run(
        [python, "-c", "import sys, msgspec; print(sys.prefix)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(said.stdout.strip()) == python.parent.parent
    made = python.parent.parent.stat().st_ino
    assert python_with(["msgspec>=0.18"], tmp_path).parent.parent.stat().st_ino == made
    with pytest.raises(Unavailable, match="pip could not install no-such-package-of-ours"):
        python_with(["no-such-package-of-ours"], tmp_path)
    with pytest.raises(InvalidRequest, match="the requirement '--index-url x' is none"):
        python_with(["--index-url x"], tmp_path)


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named"),
        ("class X(", "cannot be read: .* line 1 of "),
        ("1 / 0", "fails when it is run: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_fails_is_said_to_be_its_authors(
    source: Path, tmp_path: Path, text: str, because: str
) -> None:
    source.write_text(text)
    with pytest.raises(InvalidRequest, match=because):
        pack(str(source), tmp_path / "packed", "counter")
