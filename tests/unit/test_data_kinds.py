"""What a dataset is found to be, and what is wrong with one that is not as its type has to be."""

import csv
import io
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leptonai.data.commit import commit
from leptonai.data.kinds import KINDS, kind_of, parse_kind
from leptonai.data.manifest import Field
from leptonai.data.shelf import Shelf
from leptonai.data.source import LocalSource
from leptonai.data.version import Version
from leptonai.errors import InvalidRequest

PNG = b"\x89PNG"


def data(root, **contents):
    """`cat__1_png` is the file cat/1.png."""
    for name, content in contents.items():
        stem, _, ending = name.replace("__", "/").rpartition("_")
        path = root / f"{stem}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


@pytest.fixture
def make(tmp_path):
    def make(kind=None, **contents):
        source = LocalSource(data(tmp_path / "data", **contents))
        shelf = Shelf(tmp_path / "shelf")
        made = commit(source, shelf, kind=kind)
        return Version.open(shelf, made.digest)

    return make


def samples(version):
    return [bytes(each) for each in version.read(range(len(version)))]


def labels(version):
    return [version.classes[label] for label in version.labels]


def splits(version):
    facts = version.manifest.facts
    return [facts.splits[split] for split in version.manifest.columns["split"]]


@pytest.mark.parametrize(
    "text", ["image classification", "image-classification", " Image_Classification"]
)
def test_a_type_has_one_name_however_it_is_written(text):
    assert parse_kind(text) == "image classification"


def test_an_unknown_type_is_refused_with_all_there_are():
    with pytest.raises(InvalidRequest, match="no type 'images'") as refused:
        parse_kind("images")
    assert all(kind in refused.value.hint for kind in KINDS)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["cat/1.jpg", "dog/2.JPEG"], "image classification"),
        (["train/cat/1.jpg", "test/dog/2.png"], "image classification"),
        (["1.jpg", "2.jpg", "labels.csv"], "image classification"),
        (["images/1.jpg", "annotations/instances_val.json"], "object detection"),
        (["1.jpg", "2.jpg"], "files"),
        (["a.csv"], "tabular"),
        (["a.parquet", "b.parquet"], "tabular"),
        (["a.jsonl"], "tabular"),
        (["a.txt", "b/c.md"], "text"),
        (["good/a.txt", "bad/c.txt"], "text classification"),
        (["model.bin", "a.csv"], "files"),
    ],
)
def test_the_type_is_found_by_the_names(tmp_path, names, kind):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()
    assert kind_of(LocalSource(tmp_path).list()) == kind


# --- images --------------------------------------------------------------------------------------


def test_a_folder_for_each_class(make):
    version = make(dog__1_png=PNG, cat__2_jpg=b"c2", cat__1_jpg=b"c1", README_md="all")
    assert version.manifest.facts.type == "image classification"
    assert version.manifest.facts.schema == (Field("image", "image"), Field("label", "class"))
    assert samples(version) == [b"c1", b"c2", PNG]
    assert labels(version) == ["cat", "cat", "dog"]
    assert version.manifest.file_count == 4


def test_folders_for_each_split(make):
    version = make(train__a__1_png=b"1", val__a__2_png=b"2", test__b__3_png=b"3")
    assert samples(version) == [b"3", b"1", b"2"]
    assert splits(version) == ["test", "train", "validation"]
    assert labels(version) == ["b", "a", "a"]


def test_a_table_of_paths_and_labels(make):
    version = make(
        images__1_png=b"1",
        images__2_png=b"2",
        labels_csv='path,label,split\nimages/2.png,"cat, big",train\n./images/1.png,dog,test\n',
    )
    assert samples(version) == [b"2", b"1"]
    assert (labels(version), splits(version)) == (["cat, big", "dog"], ["train", "test"])


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        ({"cat__1_png": PNG, "bird__notes_doc": "x"}, "the class folder 'bird' holds no images"),
        ({"cat__1_png": PNG, "x_png": PNG}, "'x.png' lies in no class folder"),
        ({"cat__1_png": PNG, "cat__2_png": ""}, "'cat/2.png' is empty: 0 bytes"),
        ({"a_txt": "x"}, "there are no images in it"),
        ({"a_png": PNG, "l_csv": "path,label\nb.png,cat\n"}, "l.csv:2: 'b.png' is not in the data"),
        ({"a_png": PNG, "l_csv": "path,label\na.png,cat\na.png\n"}, "l.csv:3: 1 fields, and the"),
        ({"a_png": PNG, "l_csv": "path,colour\na.png,cat\n"}, "l.csv:1: no column is the label"),
        ({"a_png": PNG, "l_csv": "path,label\n"}, "l.csv has no rows"),
        ({"a_png": PNG, "l_csv": "path,label\na.png, \n"}, "l.csv:2: there is no label"),
        ({"a_png": PNG, "l_csv": b"path,label\n\xff,cat\n"}, "l.csv:2: the text is not UTF-8"),
    ],
)
def test_images_that_are_not_as_they_have_to_be(make, contents, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        make("image classification", **contents)


def test_an_empty_class_folder_is_said(make, tmp_path):
    (tmp_path / "data" / "bird").mkdir(parents=True)
    with pytest.raises(InvalidRequest, match="the class folder 'bird' holds no images"):
        make(cat__1_png=PNG)


# --- boxes ---------------------------------------------------------------------------------------


def coco(**changes):
    whole = {
        "images": [{"id": 7, "file_name": "b.png", "width": 3}, {"id": 3, "file_name": "a.png"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 20, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 10, "bbox": [0, 0, 1, 1.5]},
            {"id": 3, "image_id": 3, "category_id": 10, "bbox": [5, 6, 7, 8]},
        ],
        "categories": [{"id": 10, "name": "dog"}, {"id": 20, "name": "cat"}],
    }
    return json.dumps(whole | changes)


def test_coco(make):
    version = make(images__a_png=b"a", images__b_png=b"b", annotations__instances_train_json=coco())
    columns = version.manifest.columns
    assert version.manifest.facts.type == "object detection"
    assert (samples(version), version.classes) == ([b"b", b"a"], ("cat", "dog"))
    assert columns["box_end"].tolist() == [1, 3]
    assert columns["box"].tolist() == [[0, 0, 1, 1.5], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert columns["box_label"].tolist() == [1, 0, 1]
    assert splits(version) == ["train", "train"]


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        ({"a_png": b"a", "x_json": coco()}, "x.json: the image 'b.png' is not in the data"),
        ({"a_png": b"a", "x_json": "{"}, "x.json is not COCO"),
        ({"a_png": b"a", "x_json": coco(images=[])}, "x.json names no images"),
        ({"a_png": b"a"}, "there is no COCO file"),
        (
            {"a_png": b"a", "b_png": b"b", "x_json": coco(categories=[])},
            "x.json: annotation 1 is of the category 20",
        ),
        ({"a_png": b"", "b_png": b"b", "x_json": coco()}, "'a.png' is empty"),
    ],
)
def test_coco_that_contradicts_itself(make, contents, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        make("object detection", **contents)


# --- tables --------------------------------------------------------------------------------------


def test_the_rows_of_a_csv(make):
    version = make(
        t_csv="\ufeffid,name,when,score,ok\r\n"
        '1,"a ""b"", c\nd",2026-01-01,1.5,true\r\n\r\n2,,2026-01-02T03:04:05,NA,False'
    )
    assert version.manifest.facts.type == "tabular" and version.manifest.facts.header
    assert [(each.name, each.type) for each in version.manifest.facts.schema] == [
        ("id", "integer"), ("name", "text"), ("when", "time"), ("score", "number"),
        ("ok", "boolean"),
    ]  # fmt: skip
    assert samples(version) == [
        b'1,"a ""b"", c\nd",2026-01-01,1.5,true',
        b"2,,2026-01-02T03:04:05,NA,False",
    ]


@pytest.mark.parametrize("block_bytes", [1, 2, 7])
@pytest.mark.parametrize("end", ["", "\n", "\r\n\r\n"])
@pytest.mark.parametrize(
    "rows",
    [
        ["1,é", '2,"x\ny,z"', "3,", "44,looooooooong ü"],
        ["1,é", "", "3,", "44,looooooooong ü"],  # without quotes
    ],
)
def test_rows_are_found_across_blocks(make, monkeypatch, rows, end, block_bytes):
    import leptonai.data.tables as tables

    monkeypatch.setattr(tables, "SCANNED_BYTES", block_bytes)
    text = "\n".join(["a,b", *rows])
    version = make(t_csv=text + end)
    assert [each.decode() for each in samples(version)] == [row for row in rows if row]
    with pytest.raises(InvalidRequest, match=rf"t\.csv:{text.count(chr(10)) + 2}: 3 fields"):
        make(t_csv=f"{text}\n5,6,7{end}")


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(*[st.text('ab,"\n\u00e9', max_size=9)] * 2), min_size=1, max_size=12),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    end=st.sampled_from(["\n", "\r\n"]),
    block_bytes=st.integers(1, 40),
)
def test_blocks_of_any_size_have_the_same_rows(rows, quoting, end, block_bytes):
    import leptonai.data.tables as tables

    text = io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator=end).writerows([("x", "y"), *rows])
    content = text.getvalue().encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "SCANNED_BYTES", block_bytes)
        _, starts, sizes = tables._csv_rows("t.csv", content)
    found = [content[at : at + size].decode() for at, size in zip(starts, sizes, strict=True)]
    assert [tuple(next(csv.reader(io.StringIO(each, newline="")))) for each in found] == rows


@settings(deadline=None, max_examples=60)
@given(text=st.text('a,"\n', max_size=12), block_bytes=st.integers(1, 16))
@example(text='a,"', block_bytes=3)
def test_quotes_are_right_or_wrong_whatever_the_blocks(text, block_bytes):
    import leptonai.data.tables as tables

    content = f"x,y\n{text}\n1,2\n".encode()

    def told():
        try:
            _, starts, sizes = tables._csv_rows("t.csv", content)
        except InvalidRequest:  # which of several faults comes first is another matter
            return None
        return starts.tolist(), sizes.tolist()

    at_once = told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "SCANNED_BYTES", block_bytes)
        assert told() == at_once
    if at_once is not None:  # then Python reads the same
        strict = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
        assert len([row for row in strict if row]) == len(at_once[0]) + 1


def test_a_field_may_be_a_long_text(make):
    version = make("text classification", t_csv=f"text,label\n{'a' * 200_000},x\nb,y\n")
    assert version.manifest.facts.classes == ("x", "y")


def test_semicolons_and_tabs_divide_too(make):
    assert len(make(a_csv="x;y\n1;2\n").manifest.facts.schema) == 2


def test_files_of_one_dataset_are_one_table(make):
    version = make(test_csv="a\n1\n", train_csv="a\n2.5\n3\n")
    assert version.manifest.facts.schema == (Field("a", "number"),)
    assert samples(version) == [b"1", b"2.5", b"3"]
    assert splits(version) == ["test", "train", "train"]


def test_json_lines(make):
    version = make(t_jsonl='{"a": 1, "b": null}\n\n{"b": "x", "a": 2.5}\r\n{"c": [1]}')
    assert [(each.name, each.type) for each in version.manifest.facts.schema] == [
        ("a", "number"), ("b", "text"), ("c", "list"),
    ]  # fmt: skip
    assert samples(version)[1:] == [b'{"b": "x", "a": 2.5}', b'{"c": [1]}']


def test_fields_of_json_lines_come_in_the_order_of_the_first_file(make):
    version = make(a_jsonl='{"b": 1, "a": "x"}\n', b_jsonl='{"a": "y", "b": 2.5}\n')
    schema = version.manifest.facts.schema
    assert schema == (Field("b", "number"), Field("a", "text"))


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        ({"t_csv": "a,b\n1,2\n3\n"}, "t.csv:3: 1 fields, and the header has 2"),
        ({"t_csv": 'a,b\n"1\n\n2",2\n3,4,5\n'}, "t.csv:5: 3 fields, and the header has 2"),
        ({"t_csv": 'a,b\n1,"2\n3\n4,5\n'}, "t.csv:2: a quote is opened in this row, and never"),
        ({"t_csv": 'a,b\n1,2\n3,5" pipe\n4,6" pipe\n'}, "t.csv:3: a quote within a field that"),
        ({"t_csv": 'a,b\n"1\n2",3\n4, "5, 6"\n'}, "t.csv:4: a quote within a field that"),
        ({"t_csv": 'a,b\n1,"x"y\n'}, "t.csv:2: a quote within a field that"),
        ({"t_csv": "a,b\r1,2\r"}, "t.csv:1: a line ends in a carriage return alone"),
        ({"t_csv": "a,b\n1,x\ry\n"}, "t.csv:2: a line ends in a carriage return alone"),
        ({"t_csv": "a,a\n1,2\n"}, "t.csv:1: the column 'a' is there twice"),
        ({"t_csv": "a,b\n"}, "t.csv has a header and no rows"),
        ({"t_csv": ""}, "'t.csv' is empty: 0 bytes"),
        ({"t_csv": b"a,b\n1,2\n\xe4,3\n"}, "t.csv:3: the text is not UTF-8"),
        ({"t_csv": "a,b\n1,2\n", "u_csv": "a,c\n1,2\n"}, "u.csv has the columns a, c, and t.csv"),
        ({"t_csv": "a\n1\n", "u_csv": "a\ntrue\n"}, "u.csv: the column 'a' is boolean, and was"),
        ({"t_jsonl": '{"a": 1}\n[1]\n'}, "t.jsonl:2: not a JSON object"),
        ({"t_jsonl": '{"a": 1}\n{"a": "x"}\n'}, "t.jsonl:2: 'a' is text, and was integer on"),
        ({"t_jsonl": '{"a": 1}\n{"a": '}, "t.jsonl:2: not a JSON object"),
        ({"t_jsonl": "\n\n"}, "t.jsonl has no rows"),
        ({"t_parquet": "PAR1"}, "t.parquet is not Parquet"),
        ({"t_csv": "a\n1\n", "x_bin": "b"}, "'x.bin' is no table"),
    ],
)
def test_tables_that_are_not_as_they_have_to_be(make, contents, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        make("tabular", **contents)


def test_parquet_says_its_own_types(make, tmp_path):
    import polars

    (tmp_path / "data").mkdir()
    table = polars.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, 2.5]})
    table.write_parquet(tmp_path / "data" / "t.parquet")
    version = make()
    assert [(each.name, each.type) for each in version.manifest.facts.schema] == [
        ("a", "integer"), ("b", "text"), ("c", "number"),
    ]  # fmt: skip


def test_a_time_series_needs_times(make):
    assert len(make("time series", t_csv="at,x\n2026-01-01,1\n")) == 1
    with pytest.raises(InvalidRequest, match=r"no column of times: it has at \(integer\)"):
        make("time series", t_csv="at,x\n1,1\n")
    with pytest.raises(InvalidRequest, match=r"no column of times: it has at \(text\)"):
        make("time series", t_csv="at,x\nnoon,1\n2026-01-01,2\n")
    with pytest.raises(InvalidRequest, match=r"t\.csv:4: 'at' is 'noon', and no time"):
        make("time series", t_csv="at,x\n2026-01-01,1\nNA,2\nnoon,3\n")


# --- texts ---------------------------------------------------------------------------------------


def test_texts_are_samples_one_a_file(make):
    assert samples(make(a_txt="one", b__c_md="two")) == [b"one", b"two"]


def test_texts_in_class_folders(make):
    version = make(good__a_txt="yes", bad__b_txt="no")
    assert (samples(version), labels(version)) == ([b"no", b"yes"], ["bad", "good"])


@pytest.mark.parametrize(
    "contents",
    [{"t_csv": "text,label\nyes,good\nno,bad\n"},
     {"t_jsonl": '{"text": "yes", "label": "good"}\n{"text": "no", "label": "bad"}\n'}],
)  # fmt: skip
def test_texts_in_a_table(make, contents):
    version = make("text classification", **contents)
    assert labels(version) == ["good", "bad"]
    assert Field("label", "class") in version.manifest.facts.schema


@pytest.mark.parametrize(
    ("contents", "where"),
    [({"t_csv": 'text,label\n"a\nb",x\nc,\n'}, "t.csv:4"),
     ({"t_jsonl": '{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n'}, "t.jsonl:2"),
     ({"t_jsonl": '{"text": "a", "label": "x"}\n{"text": "b"}\n'}, "t.jsonl:2")],
)  # fmt: skip
def test_a_row_without_a_label_is_said(make, contents, where):
    with pytest.raises(InvalidRequest, match=f"{where}: there is no label"):
        make("text classification", **contents)


def test_a_text_in_another_encoding_is_said_with_its_line(make):
    with pytest.raises(InvalidRequest, match=r"b\.txt:3: the text is not UTF-8"):
        make(a_txt="fine", b_txt=b"one\ntwo\nthr\xe9e\n")
