"""From a table to a version that a model can read, through the command line."""

import contextlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from leptonai import DataLoader, Dataset, Pipeline
from leptonai.cli.__main__ import run
from leptonai.testing.platform import RunningPlatform, eventually


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


def test_a_job_of_workers_makes_the_same_version_also_when_one_is_killed(platform, tmp_path):
    rows = 2 * 262_144 + 1  # 3 chunks: two of the first worker, one of the other
    rng = np.random.default_rng(0)
    pl.DataFrame({"a": rng.integers(0, 9, rows), "y": rng.integers(0, 2, rows)}).write_csv(
        tmp_path / "many.csv"
    )
    spec = {"steps": [{"type": "scale"}, {"type": "to_matrix"}], "target": "y"}
    (tmp_path / "steps.json").write_text(json.dumps(spec))
    platform.cli("dataset", "create", "-n", "many", str(tmp_path / "many.csv"))
    command = ["dataset", "transform", "many", "--pipeline", str(tmp_path / "steps.json")]
    command += ["--split", "train=0.9,test=0.1"]
    here = platform.cli(*command, "--name", "here", "--num-workers", "2")
    assert here.stdout == "here@1\n"

    asked = [*command, "--name", "there", "--job-workers", "2", "--cpu", "0.5"]
    with platform.client() as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(platform.cli, *asked)
        (second,) = eventually(lambda: workers_of("transform-there", 1))
        os.kill(second, signal.SIGSTOP)
        job = client.jobs.list(q="transform-there")[0].metadata.id
        kept = {"pipeline", *(f"chunks-{n:05d}-{n:05d}" for n in (0, 2))}
        eventually(
            lambda: {name for run in client.runs.list(job=job) for name in run.spec.artifacts},
            lambda has: has >= kept,
        )
        assert "there" not in {each.metadata.name for each in client.datasets.list()}
        os.kill(second, signal.SIGKILL)
        assert waiting.result().stdout == "there@1\n"
        assert any("starting it again" in (each.reason or "") + (each.message or "")
                   for each in client.jobs.events(job))  # fmt: skip

        made, expected = (client.datasets.get(name).spec for name in ("there", "here"))
        assert made == expected  # to the digest of its manifest, lineage included
        assert len(client.datasets.versions("there")) == 1
        run = client.runs.list(job=job)[0]
        assert run.spec.datasets == {"source": "many@1", "made": "there@1"}
        assert run.spec.artifacts == {}  # the version holds them


def test_a_job_says_which_value_is_wrong_and_is_not_tried_again(platform, tmp_path):
    lines = ["a", *("x" if at == 2500 else str(at) for at in range(5000))]
    (tmp_path / "wrong.csv").write_text("\n".join(lines))
    (tmp_path / "steps.json").write_text('{"steps": [{"type": "scale"}]}')
    platform.cli("dataset", "create", "-n", "wrong", str(tmp_path / "wrong.csv"))
    command = ["dataset", "transform", "wrong", "--pipeline", str(tmp_path / "steps.json")]
    refused = platform.cli(*command, "--name", "never", "--job-workers", "1", check=False)
    assert refused.returncode == 1
    assert "error: wrong.csv:2502: 'a' is 'x', and the column is integer" in refused.stderr
    with platform.client() as client:
        job = eventually(
            lambda: client.jobs.list(q="transform-never")[0],
            lambda seen: seen.status.state == "Failed",
        )
        events = client.jobs.events(job.metadata.id or "")
        assert "another try would end the same" in events[-1].message
        assert not any("again" in event.message for event in events)
        assert "never" not in {each.metadata.name for each in client.datasets.list()}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--into", "DIR", "--job-workers", "2"], "leaves no files here"),
        (["--name", "x", "--cpu", "2"], "resources are those of a job's workers"),
        (["--name", "x", "--job-workers", "0"], "0"),
    ],
)
def test_what_a_job_cannot_do_is_said_before_anything_is_done(
    tmp_path, monkeypatch, capsys, options, why
):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "nothing"))
    command = ["dataset", "transform", "people", "-p", "steps.json", *options]
    assert run(command) != 0
    assert why in capsys.readouterr().err


def workers_of(job: str, rank: int) -> list[int]:
    """Processes of this machine that work for a job with such a name."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            told = (process / "environ").read_bytes().split(b"\0")
            program = (process / "cmdline").read_bytes().split(b"\0")
            is_ours = b"leptonai.data.transforming.worker" in program and b"python" in program[0]
            of_job = any(each.startswith(f"LEPTON_JOB_NAME={job}".encode()) for each in told)
            if is_ours and of_job and f"RANK={rank}".encode() in told:
                found.append(int(process.name))
    return found
