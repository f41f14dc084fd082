"""From a table to a version that a model can read, through the command line."""

import json

import numpy as np
import polars as pl
import pytest

from leptonai import DataLoader, Dataset, Pipeline
from leptonai.cli.__main__ import run
from leptonai.testing.platform import RunningPlatform


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("tables") / "home") as running:
        yield running


def test_a_table_is_fitted_transformed_divided_and_kept_with_its_pipeline(
    platform, tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    people = pl.DataFrame(
        {
            "age": rng.integers(0, 99, 500),
            "town": rng.choice(["Ulm", "Bonn", ""], 500),
            "rich": rng.choice(["no", "yes"], 500),
        }
    )
    people.write_csv(tmp_path / "people.csv")
    spec = {
        "steps": [{"type": t} for t in ("clean", "impute", "scale", "one_hot", "to_matrix")],
        "target": "rich",
    }
    (tmp_path / "steps.json").write_text(json.dumps(spec))
    platform.cli("dataset", "create", "-n", "people", str(tmp_path / "people.csv"))
    command = ["dataset", "transform", "people", "--pipeline", str(tmp_path / "steps.json")]
    command += ["--name", "ready", "--split", "train=0.8,test=0.2", "--num-workers", "2"]
    assert platform.cli(*command).stdout == "ready@1\n"
    assert platform.cli(*command, "--memory-limit", "1GiB").stdout == "ready@1\n"  # the same

    found = platform.answer("dataset", "get", "ready", "-o", "json")
    assert found["spec"]["attributes"]["splits"] == ["train", "test"]
    assert found["spec"]["lineage"]["source"] == "people@1"
    platform.cli("dataset", "download", "ready", str(tmp_path / "ready"))
    pipeline = Pipeline.load(tmp_path / "ready" / "pipeline.safetensors")
    assert found["spec"]["lineage"]["pipeline"] == pipeline.digest

    monkeypatch.setenv("LEPTON_HOME", str(platform.home.path))
    with platform.client() as client:
        source, ready = (Dataset.get(name, client=client) for name in ("people", "ready"))
        for part, samples in source.split(train=0.8, test=0.2).items():
            x, y = pipeline.transform(samples)
            kept = ready.split()[part].frame().collect()
            assert (kept.drop("rich").to_numpy() == x).all()
            assert kept["rich"].to_list() == y.tolist()
        assert sum(len(x) for x, _ in DataLoader(source, 64, pipeline=pipeline)) == 500

    shown = platform.cli("pipeline", "show", str(tmp_path / "ready" / "pipeline.safetensors"))
    assert "people@1 train: 400 samples" in shown.stdout
    fit = ["pipeline", "fit", str(tmp_path / "steps.json"), "--dataset", "people"]
    fit += ["--split", "train=0.8,test=0.2", "-o", str(tmp_path / "again")]
    assert platform.cli(*fit).stdout.strip() == pipeline.digest
    whole = [*fit[:5], "-o", str(tmp_path / "whole")]
    platform.cli(*whole)
    command[4] = str(tmp_path / "whole")
    refused = platform.cli(*command, check=False)
    assert "fitted on 100 of these 100 samples" in refused.stderr


def test_a_table_of_this_machine_is_transformed_without_a_workspace(tmp_path, monkeypatch, capsys):
    frame = pl.DataFrame({"age": [*range(50)], "town": ["Ulm", "Bonn"] * 25})
    frame.write_csv(tmp_path / "people.csv")
    spec = {"steps": [{"type": "scale"}, {"type": "one_hot"}, {"type": "to_matrix"}]}
    (tmp_path / "steps.json").write_text(json.dumps(spec))
    command = ["dataset", "transform", str(tmp_path / "people.csv")]
    command += ["--pipeline", str(tmp_path / "steps.json"), "--split", "train=0.8,test=0.2"]
    command += ["--into", str(tmp_path / "ready")]
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "nothing"))
    assert (run(command), capsys.readouterr().out) == (0, f"{tmp_path / 'ready'}\n")
    files = sorted(str(p.relative_to(tmp_path / "ready")) for p in tmp_path.glob("ready/**/*.*"))
    assert files == ["pipeline.safetensors", "test/00000.parquet", "train/00000.parquet"]
    pipeline = Pipeline.load(tmp_path / "ready" / "pipeline.safetensors")
    parts = Dataset.from_local(tmp_path / "people.csv").split(train=0.8, test=0.2)
    kept = pl.read_parquet(tmp_path / "ready" / "test" / "00000.parquet")
    assert (kept.to_numpy() == pipeline.transform(parts["test"])).all()
    assert run(command) != 0
    assert "is not an empty directory" in capsys.readouterr().err
