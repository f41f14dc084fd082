"""What is measured of data as it lies on a disk or in a version: tables, images, texts, files."""

import io
import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

from leptonai.data import decoding
from leptonai.data.commit import commit
from leptonai.data.dataset import Dataset
from leptonai.data.quality import frames
from leptonai.data.quality.plot import plot
from leptonai.data.shelf import Shelf
from leptonai.data.source import LocalSource
from leptonai.data.version import Version
from leptonai.errors import InvalidRequest


def results(report, *, but=()):
    """Of every gate that was checked and is not fine."""
    return {
        each.gate: (each.result, each.number)
        for each in report.outcomes
        if each.result not in ("ok", "skipped", *but)
    }


def reasons(report):
    return {each.gate: each.reason for each in report.outcomes if each.result == "skipped"}


def found(report, gate):
    return [
        (each.where, each.number, [(one.where, one.text) for one in each.examples])
        for each in report.findings
        if each.gate == gate
    ]


def table(root, text, name="t.csv"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return root


def people(count, start=0, **changed):
    """Rows that are fine, but for some: `_3="…"` is the fourth."""
    rows = [
        changed.get(f"_{n}", f"{n + start},{20 + n % 50},{100.5 + n / 100},{'ab'[n % 2]}")
        for n in range(count)
    ]
    return "id,age,weight,label\n" + "\n".join(rows) + "\n"


def picture(seed, size=(96, 64)):
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def encoded(image, **options):
    data = io.BytesIO()
    image.save(data, "JPEG", **{"quality": 92, **options})
    return data.getvalue()


def pictures(root, files):
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def committed(root, shelf, kind=None):
    shelf = Shelf(shelf)
    return Dataset(
        Version.open(shelf, commit(LocalSource(root), shelf, kind=kind).digest), name="d"
    )


# --- tables --------------------------------------------------------------------------------------


def test_who_waits_for_a_table_is_told_how_far_it_is(tmp_path):
    told = []
    dataset = Dataset.from_local(table(tmp_path, people(100)))
    dataset.check(progress=lambda *at: told.append(at))
    assert told[0][0] == 0 and told[-1][0] == told[-1][1] == 6 * len(people(100))
    assert told == sorted(told)


def test_a_table_in_order_has_nothing_to_say(tmp_path):
    report = Dataset.from_local(table(tmp_path / "d", people(200))).check()
    assert results(report) == {}
    assert report.classes == {"a": 100, "b": 100}
    assert report.notes == ("not compared, for it counts the rows: id",)


def test_what_is_wrong_with_a_table_is_told_with_file_and_row(tmp_path):
    text = people(
        200, _3="3,,100.5,b", _4="4,NA,100.5,a", _9="9,29,inf,b", _11="11,31,100000,b",
        _12="12,32,100.5,", _20="20,many,100.5,a", _31="31,50,102.5,b", _33="33,50,102.5,b",
    )  # fmt: skip
    report = Dataset.from_local(table(tmp_path / "d", text)).check(fail_on={"missing": 0.005})
    assert found(report, "missing") == [
        ("age", 0.01, [("t.csv:5", ""), ("t.csv:6", "")]),
        ("label", 0.005, [("t.csv:14", "")]),
    ]
    assert found(report, "types") == [("age", 0.005, [("t.csv:22", "many")])]
    assert found(report, "infinite") == [("weight", 0.005, [("t.csv:11", "inf")])]
    assert found(report, "outliers") == [("weight", 0.005, [("t.csv:13", "100000.0")])]
    assert found(report, "duplicates")[0][2][0] == ("t.csv:35", "as t.csv:33")
    assert [each.gate for each in report.failed] == ["missing"]
    assert report.missing == {"age": 0.01, "label": 0.005}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_same_rows_give_the_same_numbers_however_they_are_written(tmp_path, ending):
    rows = pl.DataFrame(
        {
            "age": [20 + n % 50 if n % 10 else None for n in range(300)],
            "weight": [float("nan") if n == 7 else n / 3 for n in range(300)],
            "city": [f"c{n % 3}" for n in range(300)],
            "label": ["no" if n % 4 else "yes" for n in range(300)],
        }
    )
    file = tmp_path / f"d.{ending}"
    match ending:
        case "csv":
            rows.write_csv(file)
        case "jsonl":
            rows.with_columns(pl.col("weight").fill_nan(None)).write_ndjson(file)
        case "parquet":
            rows.write_parquet(file)
    report = Dataset.from_local(file).check()
    assert results(report) == {"missing": ("warn", 0.1)}
    assert report.missing == {"age": 0.1, "weight": 1 / 300}
    assert report.classes == {"no": 225, "yes": 75}


def test_columns_that_hold_nothing_or_are_alike_are_no_trouble(tmp_path):
    text = "a,b\n" + "NA,5\n" * 50
    report = Dataset.from_local(table(tmp_path / "d", text)).check()
    assert results(report) == {"missing": ("warn", 1.0), "duplicates": ("warn", 0.98)}
    assert reasons(report)["balance"] == "there are no classes"


def test_rows_leak_between_the_tables_of_splits_and_labels_contradict(tmp_path):
    root = table(tmp_path / "d", people(40), "train.csv")
    table(root, people(40, start=100, _0="1,21,100.51,b", _1="1,21,100.51,a"), "test.csv")
    report = Dataset.from_local(root).check(fail_on=["leakage=0.5", "label-conflicts"])
    leak = [each for each in report.findings if each.gate == "leakage"]
    assert [(each.where, each.severity, each.number) for each in leak] == [("test", "info", 0.05)]
    assert [(each.where, each.text) for each in leak[0].examples] == [
        ("test.csv:2", "as train.csv:3"), ("test.csv:3", "as train.csv:3"),
    ]  # fmt: skip
    assert [each.gate for each in report.failed] == ["label-conflicts"]


def test_a_table_is_compared_with_an_earlier_one(tmp_path):
    before = Dataset.from_local(table(tmp_path / "one", people(1000)))
    same = Dataset.from_local(table(tmp_path / "same", people(1000, start=1)))
    assert results(same.check(against=before)) == {}
    older = people(1000).replace(",2", ",4").replace("weight", "mass")
    now = Dataset.from_local(table(tmp_path / "two", older))
    report = now.check(against=before, fail_on={"drift": 0.25, "schema": 0})
    assert [each.gate for each in report.failed] == ["schema", "drift"]
    assert [each.what for each in report.findings if each.gate == "schema"] == [
        "mass is new: number", "weight has gone: it was number",
    ]  # fmt: skip
    assert report.drift[0].name == "age"
    assert sum(report.drift[0].now) == pytest.approx(1)


def test_a_table_is_compared_with_the_columns_that_are_expected(tmp_path):
    data = Dataset.from_local(table(tmp_path / "d", people(20)))
    expected = {"id": "integer", "age": "integer", "weight": "number", "label": "text"}
    assert data.check(schema=expected, fail_on=["schema"]).failed == ()
    report = data.check(schema=expected | {"age": "number"}, fail_on=["schema"])
    assert [each.what for each in report.findings if each.severity == "fail"] == [
        "age is integer, and was number"
    ]


def test_a_large_table_is_sampled_and_the_report_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "SAMPLED_ROWS", 1_000)
    report = Dataset.from_local(table(tmp_path / "d", people(20_000))).check()
    sampled = next(note for note in report.notes if note.startswith("quartiles"))
    assert (
        sampled.endswith("of 20,000 rows") and 900 < int(sampled.split()[5].replace(",", "")) < 1100
    )


def test_a_table_that_is_too_large_to_hold_is_scanned_and_says_the_same(tmp_path, monkeypatch):
    text = people(500, _3="3,,inf,b", _20="20,many,100.5,a", _31="31,50,102.5,b")
    root = table(table(tmp_path / "d", text, "train.csv"), people(90, start=7), "test.csv")
    held = Dataset.from_local(root).check(against=Dataset.from_local(root))
    monkeypatch.setattr(frames, "HELD_BYTES", 0)
    assert Dataset.from_local(root).check(against=Dataset.from_local(root)) == held
    assert results(held)["missing"] == ("info", 1 / 590)


def test_some_rows_of_a_version_are_told_by_their_own_lines(tmp_path):
    root = table(tmp_path / "d", people(100, _60="60,,100.5,a", _61="61,,100.5,b"))
    data = committed(root, tmp_path / "shelf")
    report = data.only(np.arange(99, 49, -1)).check()
    assert (report.samples, found(report, "missing")) == (
        50, [("age", 0.04, [("t.csv:62", ""), ("t.csv:63", "")])],
    )  # fmt: skip


def test_texts_of_a_table_are_near_each_other(tmp_path):
    words = ["".join(chr(97 + n * n * k % 26) for k in range(1, 9)) for n in range(26)]
    rows = [" ".join(words[n:] + words[:n]) for n in range(0, 26, 2)]
    lines = [json.dumps({"text": text, "label": "x"}) for text in [*rows[:1], rows[0] + " so"]]
    lines += [
        json.dumps({"text": f"{n} {'qwertzuiop'[n:]} {n * 7919}", "label": "y"}) for n in range(8)
    ]
    lines.append(json.dumps({"text": "lost \ufffd", "label": "y"}))
    report = Dataset.from_local(
        table(tmp_path / "d", "\n".join(lines), "t.jsonl"), type="text classification"
    ).check()
    assert found(report, "near-duplicates") == [("", 1 / 11, [("t.jsonl:2", "as t.jsonl:1")])]
    assert found(report, "encoding") == [("text", 1 / 11, [("t.jsonl:11", "lost \ufffd")])]


def test_a_time_series_is_asked_for_its_times(tmp_path):
    hours = [0, 1, 2, 2, 3, 4, 9, 8, 10, 11, 12, 13]
    text = "when,value\n" + "\n".join(f"2026-01-01T{h:02}:00:00,{h}" for h in hours)
    report = Dataset.from_local(table(tmp_path / "d", text), type="time series").check()
    assert [each[2] for each in found(report, "timestamps")] == [
        [("t.csv:9", "2026-01-01T08:00:00")], [("t.csv:5", "2026-01-01T02:00:00")],
    ]  # fmt: skip
    assert found(report, "gaps")[0][2] == [("t.csv:9", "4h before 2026-01-01T08:00:00")]


def test_series_that_share_a_table_are_told_apart_by_their_texts_and_other_texts_are_values(
    tmp_path,
):
    apart = "when,shop,value\n" + "".join(
        f"2026-01-{day:02},{shop},1\n" for day in range(1, 29) for shop in "ab"
    )
    one = "when,sky,value\n" + "".join(
        f"2026-01-{day:02},{'ab'[day % 3 // 2]},1\n" for day in range(1, 29)
    )
    for text, note in (
        (apart, "the time is when; rows alike in shop are a series"),
        (one, "the time is when"),
    ):
        report = Dataset.from_local(table(tmp_path / "d", text), type="time series").check()
        assert (results(report, but=("info",)), report.notes) == ({}, (note,))


# --- images, texts, files ------------------------------------------------------------------------


@pytest.fixture
def animals():
    return {
        f"{split}/{name}/{n}.jpg": encoded(picture(hash_of(split, name, n)))
        for split in ("train", "test")
        for name in ("cat", "dog")
        for n in range(30)
    }


def hash_of(split, name, n):
    return 1000 * ("train", "test").index(split) + 100 * ("cat", "dog").index(name) + n


def test_images_in_order_have_nothing_to_say(tmp_path, animals):
    report = Dataset.from_local(pictures(tmp_path / "d", animals)).check()
    assert results(report) == {}
    assert report.notes[0].startswith("120 images decoded in ")


def test_images_that_are_cut_copied_or_copied_in_another_size_are_found(tmp_path, animals):
    cut = animals["train/cat/3.jpg"]
    animals["train/cat/3.jpg"] = cut[: len(cut) // 2]
    animals["train/cat/4.jpg"] = b"no image"
    animals["test/dog/0.jpg"] = animals["train/dog/0.jpg"]
    animals["test/dog/1.jpg"] = encoded(
        picture(hash_of("train", "dog", 1)).resize((80, 50)), quality=60
    )
    animals["train/dog/2.jpg"] = animals["train/cat/2.jpg"]
    root = pictures(tmp_path / "d", animals)
    report = Dataset.from_local(root).check(fail_on=["corrupt", "leakage"])
    assert results(report) == {
        "corrupt": ("fail", 2 / 120),
        "leakage": ("fail", 1 / 60),
        "near-leakage": ("warn", 2 / 60),
        "near-duplicates": ("info", 1 / 120),
        "duplicates": ("info", 1 / 120),
        "label-conflicts": ("warn", 2 / 120),
    }
    assert [where for where, _ in found(report, "corrupt")[0][2]] == [
        "train/cat/3.jpg", "train/cat/4.jpg",
    ]  # fmt: skip
    assert found(report, "leakage") == [
        ("test", 1 / 60, [("test/dog/0.jpg", "as train/dog/0.jpg")])
    ]
    version = committed(root, tmp_path / "shelf")
    again = version.check(fail_on=["corrupt", "leakage"])
    assert again.findings == report.findings


def test_an_image_that_unpacks_to_too_much_is_refused_and_counted(tmp_path, animals, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1 << 16)
    animals["train/cat/0.jpg"] = encoded(Image.new("RGB", (300, 300)))
    report = Dataset.from_local(pictures(tmp_path / "d", animals)).check()
    ((_, share, ((where, told),)),) = found(report, "corrupt")
    assert (share, where) == (1 / 120, "train/cat/0.jpg")
    assert told == "an image of 300 x 300 pixels; 65536 pixels are the most"


def test_plain_areas_of_other_brightness_are_not_alike(tmp_path):
    files = {f"a/{n}.jpg": encoded(Image.new("RGB", (64, 64), (n * 25,) * 3)) for n in range(10)}
    report = Dataset.from_local(pictures(tmp_path / "d", files)).check()
    assert "near-duplicates" not in results(report)
    assert "all 10 samples are of one class, a" in next(
        each.what for each in report.findings if each.gate == "balance"
    )


def test_darker_images_and_other_classes_have_drifted(tmp_path, animals):
    before = Dataset.from_local(pictures(tmp_path / "one", animals))
    dark = {
        path: encoded(picture(n).point(lambda level: level // 3))
        for n, path in enumerate(animals)
        if "dog" in path or n % 5 == 0
    }
    report = Dataset.from_local(pictures(tmp_path / "two", dark)).check(against=before)
    drifted = {each.where for each in report.findings if each.gate == "drift"}
    assert {"brightness", "class"} <= drifted and "width" not in drifted
    plot(report, tmp_path / "drift.png")
    assert (tmp_path / "drift.png").read_bytes().startswith(b"\x89PNG")


def test_boxes_are_held_against_the_size_of_their_image(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 96, 64]},
            {"id": 2, "image_id": 2, "category_id": 1, "bbox": [90, 0, 20, 10]},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [1, 1, 0, 10]},
            {"id": 4, "image_id": 2, "category_id": 1, "bbox": [1, 1, 5, 10]},
        ],
    }  # fmt: skip
    root = pictures(
        tmp_path / "d",
        {
            "1.jpg": encoded(picture(1)),
            "2.jpg": encoded(picture(2)),
            "instances.json": json.dumps(coco).encode(),
        },
    )
    report = committed(root, tmp_path / "shelf").check(fail_on=["boxes=0.3"])
    assert sorted(found(report, "boxes")) == [
        ("", 0.25, [("2.jpg", "[1, 1, 0, 10] of 96x64")]),
        ("", 0.25, [("2.jpg", "[90, 0, 20, 10] of 96x64")]),
    ]
    assert (report.failed, report.classes) == ((), {"cat": 4})
    image = committed(root, tmp_path / "shelf").only([1]).check(fail_on=["boxes=0.3"])
    assert [each.gate for each in image.failed] == ["boxes"]


def test_texts_in_folders_are_compared_whatever_their_case(tmp_path):
    text = "the quick brown fox jumps over the lazy dog while nobody in town looks at it"
    files = {
        "pos/1.txt": text,
        "neg/2.txt": text.upper(),
        "neg/3.txt": "something else",
        "pos/4.txt": text,
    }
    root = pictures(tmp_path / "d", {path: text.encode() for path, text in files.items()})
    report = Dataset.from_local(root, type="text classification").check()
    assert found(report, "near-duplicates") == [("", 0.25, [("pos/1.txt", "as neg/2.txt")])]
    assert found(report, "duplicates") == [("", 0.25, [("pos/4.txt", "as pos/1.txt")])]


def test_of_plain_files_copies_are_found_and_all_else_is_skipped_with_a_reason(tmp_path):
    root = pictures(tmp_path / "d", {"a.bin": b"1", "b.bin": b"2", "c.bin": b"1"})
    for data in (Dataset.from_local(root), committed(root, tmp_path / "shelf")):
        report = data.check(against=Dataset.from_local(root))
        assert found(report, "duplicates") == [("", 1 / 3, [("c.bin", "as a.bin")])]
        assert reasons(report)["drift"] == "of plain files nothing can be compared"
        assert reasons(report)["leakage"] == "the data has no splits"
        assert all(reasons(report).values())


def test_nothing_to_check_is_refused_rather_than_passed(tmp_path):
    data = Dataset.from_local(table(tmp_path / "d", people(5)))
    with pytest.raises(InvalidRequest, match="there are no samples to check"):
        data[:0].check()


def test_a_damaged_parquet_file_is_refused_in_words(tmp_path):
    file = tmp_path / "d.parquet"
    pl.DataFrame({"a": list(range(100_000))}).write_parquet(file)
    data = file.read_bytes()
    file.write_bytes(data[:100] + bytes(len(data) // 2) + data[100 + len(data) // 2 :])
    with pytest.raises(InvalidRequest, match="cannot be read"):
        Dataset.from_local(file).check()
