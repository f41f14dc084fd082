import json
from pathlib import Path

import numpy as np
import pytest

from leptonai.data.digits import Digits
from leptonai.errors import InvalidRequest, NotFound


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits.load()


def few(digits: Digits) -> Digits:
    return digits.only((5, 3, 8))


def test_there_are_1797_real_images_of_ten_classes(digits: Digits) -> None:
    description = digits.description()
    assert description["count"] == 1797 == sum(description["counts"].values())
    assert description["shape"] == [8, 8, 1]
    assert (digits.images.min(), digits.images.max()) == (0, 16)
    assert min(description["counts"].values()) > 150


def test_what_is_written_can_be_read(digits: Digits, tmp_path: Path) -> None:
    few(digits).write(tmp_path)
    again = Digits.read(tmp_path)
    assert again.ids.tolist() == [5, 3, 8]
    assert again.labels.tolist() == [5, 3, 8]
    np.testing.assert_array_equal(again.images, few(digits).images)


def test_equal_samples_make_equal_bytes(digits: Digits, tmp_path: Path) -> None:
    trees = []
    for name in ("one", "two"):
        digits.write(tmp_path / name)
        trees.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert trees[0] == trees[1]
    assert sorted(trees[0]) == ["dataset.json", "ids.npy", "images.npy", "labels.npy"]


def test_a_missing_file_is_named(digits: Digits, tmp_path: Path) -> None:
    few(digits).write(tmp_path)
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(NotFound, match=r"there is no labels\.npy"):
        Digits.read(tmp_path)


def test_a_pickle_in_the_place_of_an_array_is_not_loaded(digits: Digits, tmp_path: Path) -> None:
    few(digits).write(tmp_path)
    np.save(tmp_path / "labels.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        Digits.read(tmp_path)


def test_inconsistent_shapes_say_what_was_expected_and_got(digits: Digits, tmp_path: Path) -> None:
    few(digits).write(tmp_path)
    np.save(tmp_path / "images.npy", np.zeros((3, 4, 4), dtype=np.uint8))
    with pytest.raises(InvalidRequest, match=r"expected .*\[3, 8, 8\].*got .*\[3, 4, 4\]"):
        Digits.read(tmp_path)


def test_another_format_is_not_taken_for_digits(digits: Digits, tmp_path: Path) -> None:
    few(digits).write(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"format": "letters"}))
    with pytest.raises(InvalidRequest, match="'letters'"):
        Digits.read(tmp_path)
