"""`leptonai dataset transform`: a version made of another one by a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.dataset_library import data_library, say_if_two
from leptonai.cli.groups import Command
from leptonai.cli.output import answer, say
from leptonai.cli.pipeline import memory_limit_option, parse_shares, read_pipeline
from leptonai.cli.session import (
    FOLLOW_PATIENCE_S,
    connect,
    output_option,
    resource_options,
)
from leptonai.errors import InvalidRequest
from leptonai.spec.names import check_name

if TYPE_CHECKING:
    from leptonai.data.dataset import Dataset
    from leptonai.data.pipeline import Pipeline

MAX_WORKERS = 64
MAX_JOB_WORKERS = 256


@click.command(
    "transform",
    cls=Command,
    example="""\
leptonai dataset transform sales --pipeline steps.json --name sales-ready --split train=0.8,test=0.2
leptonai dataset transform sales@4 --pipeline sales.safetensors --name sales-ready
leptonai dataset transform sales --pipeline steps.json --name sales-ready --job-workers 4 --cpu 2
leptonai dataset transform ./sales.csv --pipeline steps.json --into ./ready""",
)
@click.option(
    "-p", "--pipeline", "file", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="A fitted pipeline, or the spec of one, which is fitted on the training part.",
)  # fmt: skip
@click.option("-n", "--name", help="Of the dataset that it makes.")
@click.option(
    "--into", type=click.Path(path_type=Path), metavar="DIR", help="Leave the files there instead."
)
@click.option("--split", "shares", metavar="NAME=SHARE,...", help="Divide it: train=0.8,test=0.2.")
@click.option("--seed", default=0, show_default=True, help="Of the split.")
@memory_limit_option
@click.option(
    "--num-workers", type=click.IntRange(1, MAX_WORKERS), metavar="N",
    help="Chunks at once; the result is the same. As memory allows 1 or 2, if not given.",
)  # fmt: skip
@click.option(
    "--job-workers", type=click.IntRange(1, MAX_JOB_WORKERS), metavar="N",
    help="Do it in the workspace, as a job of N workers; the result is the same.",
)  # fmt: skip
@resource_options
@output_option
@click.argument("reference", metavar="NAME[@VERSION]|PATH")
def transform(
    file: Path,
    name: str | None,
    into: Path | None,
    shares: str | None,
    seed: int,
    memory_limit: int | None,
    num_workers: int | None,
    job_workers: int | None,
    resources: Mapping[str, Any],
    output: str,
    reference: str,
) -> None:
    """Fit a pipeline on the training part, transform all parts, commit the result.

    The version is Parquet in a folder for each part, with the fitted pipeline beside them. With
    --into these are left in a directory, and a table of this machine needs no workspace. A job
    fits and commits there, also if this command is cut off; Ctrl-C stops it.
    """
    if (name is None) == (into is None):
        raise InvalidRequest("give --name or --into: one of them", hint="--name sales-ready")
    if into is not None and job_workers is not None:
        raise InvalidRequest("a job makes a version, and leaves no files here", hint="--name NAME")
    if resources and job_workers is None:
        raise InvalidRequest(
            "resources are those of a job's workers", hint="--job-workers 4, or leave them out"
        )
    if name is not None:
        check_name(name, "dataset")
    data_library("polars", "safetensors")
    from leptonai.data.dataset import Dataset

    pipeline, split = read_pipeline(file), parse_shares(shares)
    say_if_two(reference)
    limit_bytes = None if memory_limit is None else memory_limit << 20
    if into is not None:
        if into.exists() and (not into.is_dir() or any(into.iterdir())):
            raise InvalidRequest(f"{into} is not an empty directory", hint="name another one")
        if Path(reference).exists():
            source = Dataset.from_local(reference)
            _write(source, pipeline, into, split, seed, num_workers, limit_bytes)
        else:
            with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
                source = Dataset.from_local(reference, client=client)
                _write(source, pipeline, into, split, seed, num_workers, limit_bytes)
        made = {"into": str(into), "pipeline": pipeline.digest}
        answer(made, output, str(into))
        return
    assert name is not None
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        stored = Dataset.from_local(reference, client=client).transform(
            pipeline,
            name,
            split=split,
            seed=seed,
            num_workers=num_workers,
            job_workers=job_workers,
            resources=resources,
            memory_limit_bytes=limit_bytes,
            client=client,
            tell=say,
        )
        found = client.datasets.get(stored.reference)
    answer(found, output, stored.reference)


def _write(
    source: Dataset,
    pipeline: Pipeline,
    into: Path,
    split: dict[str, float],
    seed: int,
    workers: int | None,
    memory_limit_bytes: int | None,
) -> None:
    from leptonai.data.pipeline.applying import parts_of
    from leptonai.data.transforming.making import write

    parts = parts_of(source, split, seed)
    write(pipeline, parts, into, workers=workers, memory_limit_bytes=memory_limit_bytes, tell=say)
