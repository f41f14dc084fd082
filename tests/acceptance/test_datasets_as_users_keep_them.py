"""Datasets through the command line and the SDK, on a platform that runs."""

import json
import pickle
import shutil

import pytest

from leptonai import Dataset
from leptonai.data.shelf import Shelf
from leptonai.errors import InvalidRequest, NotFound
from leptonai.testing.platform import RunningPlatform


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("datasets") / "home") as running:
        yield running


@pytest.fixture
def client(platform, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(platform.home.path))
    with platform.client() as client:
        yield client


@pytest.fixture
def remote(platform, monkeypatch, tmp_path):
    """The same platform as another machine sees it."""
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "elsewhere"))
    with platform.client() as client:
        assert not client.connection.local
        yield client


def animals(root, count=10):
    for name in ("cat", "dog"):
        for number in range(count):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{name} {number}".encode())
    return root


def test_from_a_folder_to_versions_and_back(platform, tmp_path):
    root = animals(tmp_path / "animals")
    create = ["dataset", "create", "--name", "animals", "--type", "image", "classification"]
    create += ["--source", str(root)]
    first, again = platform.cli(*create), platform.cli(*create)
    assert (first.stdout, again.stdout) == ("animals@1\n", "animals@1\n")
    assert first.stderr == "image classification: 20 samples of 2 classes; 100B\n"
    assert again.stderr == "nothing has changed since; no new version\n"
    (root / "cat" / "0.png").write_bytes(b"another cat")
    (root / "cat" / "1.png").unlink()
    (root / "dog" / "10.png").write_bytes(b"one more")
    assert platform.cli(*create).stdout == "animals@2\n"
    platform.cli("dataset", "alias", "animals@1", "best")
    found = platform.answer("dataset", "get", "animals@best", "-o", "json")
    assert (found["metadata"]["version"], found["aliases"]) == (1, ["best"])
    assert found["spec"]["format"] == "image classification"
    assert found["spec"]["attributes"]["samples"] == 20
    assert "\nclasses      2: cat, dog\n" in platform.cli("dataset", "get", "animals").stdout
    newest = platform.answer("dataset", "get", "animals", "-o", "json")
    assert newest["spec"]["lineage"] == {"source": str(root), "parent": "animals@1"}
    diff = platform.answer("dataset", "diff", "animals@1", "animals@2", "-o", "json")
    assert diff == {
        "added": ["dog/10.png"],
        "removed": ["cat/1.png"],
        "changed": ["cat/0.png"],
        "unchanged": 18,
        "facts": [],
    }
    shown = platform.answer("dataset", "preview", "animals@1", "--samples", "3", "-o", "json")
    assert [(row["label"], row["content"]) for row in shown] == [
        ("cat", "cat 0"),
        ("dog", "dog 0"),
        ("cat", "cat 1"),
    ]
    versions = platform.answer("dataset", "versions", "animals", "-o", "json")
    assert [each["metadata"]["version"] for each in versions] == [1, 2]
    platform.cli("dataset", "download", "animals", str(tmp_path / "copy"))
    assert {
        str(path.relative_to(tmp_path / "copy")): path.read_bytes()
        for path in (tmp_path / "copy").rglob("*.png")
    } == {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}
    again = platform.cli("dataset", "download", "animals", str(tmp_path / "copy"), check=False)
    assert (again.returncode, "is not empty" in again.stderr) == (1, True)
    platform.cli("dataset", "remove", "animals@2")
    assert platform.cli("dataset", "get", "animals").stdout.startswith("version      animals@1")


def test_a_table_is_previewed_with_its_columns(platform, tmp_path):
    file = tmp_path / "sales.csv"
    file.write_text("day,shop,sold,open\n" + "2024-05-01,Nord,3,true\n2024-05-02,,2.5,false\n" * 10)
    platform.cli("dataset", "create", "-n", "sales", str(file))
    shown = platform.cli("dataset", "preview", "sales", "--samples", "2")
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["day", "shop", "sold", "open"],
        ["time", "text", "number", "boolean"],
        ["2024-05-01", "00:00:00", "Nord", "3.0", "true"],
        ["2024-05-02", "00:00:00", "null", "2.5", "false"],
    ]
    assert shown.stderr == "2 of 20 rows\n"
    uncommitted = platform.cli("dataset", "preview", str(file), "--samples", "2")
    assert uncommitted.stdout == shown.stdout
    (row,) = platform.answer("dataset", "preview", "sales", "--samples", "1", "-o", "json")
    assert row["content"] == "2024-05-01,Nord,3,true"


def test_an_alias_names_one_version_at_a_time(client, tmp_path):
    for content in (b"1", b"2"):
        (tmp_path / "data.bin").write_bytes(content)
        Dataset.create("moving", tmp_path / "data.bin", client=client)
    client.datasets.set_alias("moving@1", "best")
    assert client.datasets.set_alias("moving@latest", "best").aliases == ("best",)
    assert client.datasets.get("moving@1").aliases == ()
    assert client.datasets.get("moving@best").metadata.version == 2
    with pytest.raises(InvalidRequest, match="'latest' always is the newest"):
        client.datasets.set_alias("moving@1", "latest")
    client.datasets.drop_alias("moving", "best")
    with pytest.raises(NotFound):
        client.datasets.get("moving@best")


def test_the_same_samples_committed_or_not(client, tmp_path):
    root = animals(tmp_path / "pets")
    committed = Dataset.create("pets", root, client=client)
    uncommitted = Dataset.from_local(root)
    by_name = Dataset.from_local("pets", client=client)
    for dataset in (committed, uncommitted, by_name):
        assert (len(dataset), dataset.classes, dataset.type) == (
            20, ("cat", "dog"), "image classification",
        )  # fmt: skip
        assert dataset[-1] == (b"dog 9", 1)
        assert dataset.path_of(0) == "cat/0.png"
        assert [bytes(each) for each in dataset[5:15:5].read([1, 0])] == [b"dog 0", b"cat 5"]
        with pytest.raises(IndexError):
            dataset[20]
    assert by_name.digest == committed.digest
    assert bytes(pickle.loads(pickle.dumps(committed))[3].data) == b"cat 3"
    assert repr(committed) == "<Dataset pets@1: image classification, 20 samples>"


def test_what_a_version_holds_is_not_stored_again(client, platform, tmp_path):
    def objects():
        return {path.name for path in (platform.home.blobs / "sha256").glob("*/*")}

    root = tmp_path / "big"
    root.mkdir()
    (root / "a").write_bytes(b"a" * (2 << 20))
    (root / "b").write_bytes(b"b" * (2 << 20))
    Dataset.create("big", root, client=client)
    before = objects()
    (root / "b").write_bytes(b"c" * (2 << 20))
    Dataset.create("big", root, client=client)
    assert len(objects() - before) == 2  # the file that changed, and the manifest


def test_another_machine_stores_and_fetches_over_http(remote, platform, tmp_path):
    root = animals(tmp_path / "far")
    Dataset.create("far", root, client=remote)
    cache = tmp_path / "elsewhere" / "cache" / "blobs"
    shutil.rmtree(cache)
    dataset = Dataset.get("far", client=remote)
    assert not any(Shelf(cache).has(digest) for digest in dataset.records.manifest.objects)
    assert bytes(dataset[11].data) == b"dog 1"
    shutil.rmtree(cache)
    remote.datasets.download("far", tmp_path / "copy")
    assert (tmp_path / "copy" / "dog" / "1.png").read_bytes() == b"dog 1"
    # What the workspace has is not sent again, and not read again either.
    shutil.rmtree(cache / "sha256")
    (root / "new.txt").write_bytes(b"notes")
    assert len(Dataset.create("far", root, client=remote)) == 20


def test_a_version_is_refused_unless_all_of_it_is_there(client, platform, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"soon to be gone")
    made = Dataset.create("whole", tmp_path / "data.bin", client=client)
    artifact = client.datasets.get("whole")
    (lost,) = made.records.manifest.objects
    Shelf(platform.home.blobs).path(lost).unlink()
    with pytest.raises(InvalidRequest, match=f"the object {lost} of the manifest is not here"):
        client.datasets.register("other", artifact.spec)
    with pytest.raises(NotFound):
        client.datasets.get("other")


def test_bad_data_is_told_with_file_and_row_and_makes_no_version(platform, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("a,b\n1,2\n3\n")
    done = platform.cli("dataset", "create", "-n", "bad", str(table), check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: t.csv:3: 1 fields, and the header has 2\nhint: ")
    listed = json.loads(platform.cli("dataset", "list", "-o", "json").stdout)
    assert "bad" not in [each["metadata"]["name"] for each in listed]


def test_data_past_a_gate_becomes_no_version_and_a_version_tells_what_was_measured(
    platform, tmp_path
):
    people = tmp_path / "people.csv"
    rows = [f"{n % 50},{'ab'[n % 2]}" for n in range(300)]
    people.write_text("\n".join(["age,city", *rows, *[",a"] * 3]) + "\n")
    create = ["dataset", "create", "-n", "people", str(people), "--fail-on", "missing=0.02"]
    assert platform.cli(*create, "--fail-on", "drift").stdout == "people@1\n"
    kept = platform.answer("dataset", "get", "people", "-o", "json")["spec"]["attributes"]
    assert kept["quality"] == {
        "missing": {"result": "info", "number": 3 / 303, "threshold": 0.02},
        "drift": {"result": "skipped", "threshold": 0.25},
    }
    shown = platform.cli("dataset", "get", "people").stdout
    assert "quality      missing 0.009901 info, drift skipped\n" in shown
    people.write_text("\n".join(["age,city", *rows, *[",a"] * 20]) + "\n")
    refused = platform.cli(*create, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines()[-2] == (
        "error: people failed missing=0.02 with 0.0625: age has no value in 20 of 320 rows, "
        "as in people.csv:302"
    )
    assert len(platform.answer("dataset", "versions", "people", "-o", "json")) == 1
    people.write_text("\n".join(["age,city", *(f"{n % 9},c" for n in range(300))]) + "\n")
    drifted = platform.cli(*create, "--fail-on", "drift", check=False)
    assert "people failed drift=0.25" in drifted.stderr.splitlines()[-2]


def test_a_check_shows_a_line_for_each_gate_and_exits_with_1_where_one_fails(platform, tmp_path):
    people = tmp_path / "shop.csv"
    people.write_text(
        "age,city\n" + "".join(f"{n % 50},{'ab'[n % 2]}\n" for n in range(100)) + ",a\n"
    )
    platform.cli("dataset", "create", "-n", "shop", str(people))
    passed = platform.cli(
        "dataset", "check", str(people), "--against", "shop@1", "--fail-on", "schema"
    )
    assert passed.stdout.startswith("shop.csv: tabular, 101 samples, against shop@1\n")
    texts = platform.cli(
        "dataset", "check", "--type", "object", "detection", str(people), check=False
    )
    assert texts.stderr.startswith("error: there is no COCO file in it\n")
    passed = platform.cli(
        "dataset",
        "check",
        "shop",
        "--against",
        "shop@1",
        "--fail-on",
        "schema",
        "--fail-on",
        "drift",
    )
    assert passed.stdout.splitlines()[0] == "shop@1: tabular, 101 samples, against shop@1"
    assert passed.stderr.splitlines()[-1] == "passed: schema, drift"
    failed = platform.cli("dataset", "check", "shop", "--fail-on", "missing=0", check=False)
    assert failed.returncode == 1
    assert "fail  missing: age has no value in 1 of 101 rows\n      shop.csv:102\n" in failed.stdout
    skipped = platform.cli("dataset", "check", "shop", "--fail-on", "leakage")
    assert skipped.stderr.splitlines()[-1] == (
        "could not be checked: leakage: the data has no splits"
    )
    found = json.loads(
        platform.cli(
            "dataset", "check", "shop", "--fail-on", "missing=0", "-o", "json", check=False
        ).stdout
    )
    assert [each["gate"] for each in found["findings"] if each["severity"] == "fail"] == ["missing"]
