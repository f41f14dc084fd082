"""Photon archives of published clients: what is unpacked, and what is refused."""

import io
import json
import stat
import zipfile
from pathlib import Path

import pytest

from leptonai.control import photon_archives
from leptonai.control.photon_archives import unpack_archive
from leptonai.errors import InvalidRequest, LeptonError, TooLarge
from leptonai.serving.packing import read_packed

SOURCE = "from leptonai.photon import Photon\nclass Counter(Photon):\n    pass\n"


def metadata(**changes: object) -> dict[str, object]:
    return {
        "name": "counter",
        "model": "counter.py:Counter",
        "type": "photon",
        "py_obj": {"name": "Counter", "obj_pkl_file": "obj.pkl", "py_version": "3.11"},
        "requirement_dependency": ["numpy"],
        "system_dependency": None,
        "deployment_template": {"resource_shape": None, "env": {"A": "1"}, "secret": []},
        "image": "default",
        "openapi_schema": {"paths": {}},
        "extra_files": ["data/words.txt"],
        **changes,
    }


def an_archive(where: Path, told: object, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    archive = where / "counter.photon"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        if told is not None:
            zipped.writestr("metadata.json", json.dumps(told))
        for name, content in members:
            zipped.writestr(name, content)
    return archive


def unpack(where: Path, archive: Path) -> Path:
    directory = where / "out"
    directory.mkdir()
    unpack_archive(archive, directory)
    return directory


def test_an_archive_becomes_a_packed_photon_and_its_pickle_is_left_alone(tmp_path: Path) -> None:
    archive = an_archive(
        tmp_path,
        metadata(),
        ("py.py", SOURCE.encode()),
        ("obj.pkl", b"cos\nsystem\n(S'false'\ntR."),
        ("data/words.txt", b"a b"),
    )
    directory = unpack(tmp_path, archive)
    packed = read_packed(directory)
    assert (packed.name, packed.file, packed.photon) == ("counter", "py.py", "Counter")
    assert packed.requirement_dependency == ["numpy"]
    assert packed.deployment_template == {"env": {"A": "1"}, "secret": []}
    assert packed.extra_files == ["data/words.txt"]
    assert sorted(str(each.relative_to(directory)) for each in directory.rglob("*.*")) == [
        "data/words.txt",
        "photon.json",
        "py.py",
    ]


def a_link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("told", "members", "words"),
    [
        (None, [], "no metadata.json"),
        ([], [], "metadata.json"),
        ({"name": "x"}, [], "metadata.json"),
        (metadata(type="hf"), [], "type 'hf'"),
        (metadata(py_obj=None), [("py.py", b"")], "top of its file"),
        (metadata(py_obj={"name": "Outer.Inner"}), [("py.py", b"")], "top of its file"),
        (metadata(py_obj={"name": "import"}), [("py.py", b"")], "top of its file"),
        (metadata(), [], "file that its class is written in"),
        (metadata(), [("py.py", b""), ("../out.txt", b"")], "no plain file"),
        (metadata(), [("py.py", b""), ("/etc/passwd", b"")], "no plain file"),
        (metadata(), [("py.py", b""), ("a\\..\\b", b"")], "no plain file"),
        (metadata(), [("py.py", b""), ("photon.json", b"{}")], "no plain file"),
        (metadata(), [("py.py", b""), (a_link(), b"/etc")], "no plain file"),
        (metadata(), [("py.py", b""), ("py.py", b"")], "twice"),
        (metadata(), [("py.py", b""), ("a", b""), ("a/b", b"")], "'a/b' twice"),
        (metadata(), [("py.py", b""), ("a/b", b""), ("a", b"")], "'a' twice"),
        (metadata(), [("py.py", b""), (".", b"")], "no plain file"),
        (metadata(), [("py.py", b""), ("n" * 300, b"")], "too long a name"),
        (metadata(), [("py.py", b""), ("d/" * 600 + "x", b"")], "too long a name"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(
    tmp_path: Path, told: object, members: list[tuple[str, bytes]], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        unpack(tmp_path, an_archive(tmp_path, told, *members))
    assert [*(tmp_path / "out").iterdir()] == []


def test_what_is_no_zip_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    whole = an_archive(tmp_path, metadata(), ("py.py", SOURCE.encode() * 100)).read_bytes()
    (tmp_path / "out").mkdir()
    for number in range(0, len(whole), 7):
        for damaged in (whole[:number], whole[:number] + b"\xff" + whole[number + 1 :]):
            (tmp_path / "damaged").write_bytes(damaged)
            out = tmp_path / "out" / f"{number}-{len(damaged)}"
            out.mkdir()
            try:
                unpack_archive(tmp_path / "damaged", out)
            except LeptonError as refused:
                assert refused.hint


def test_a_bomb_is_refused_whatever_it_says_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photon_archives, "MAX_UNPACKED_BYTES", 1 << 20)
    honest = an_archive(tmp_path, metadata(), ("py.py", b""), ("zeros", bytes(2 << 20)))
    with pytest.raises(TooLarge):
        unpack(tmp_path, honest)
    raw = io.BytesIO(honest.read_bytes()).getvalue()
    lying = raw.replace((2 << 20).to_bytes(4, "little"), (9).to_bytes(4, "little"))
    assert lying != raw
    honest.write_bytes(lying)
    (tmp_path / "out2").mkdir()
    with pytest.raises((TooLarge, InvalidRequest)):
        unpack_archive(honest, tmp_path / "out2")
    assert sum(each.stat().st_size for each in (tmp_path / "out2").rglob("*")) < 1 << 20
