"""`leptonai dataset transform`: a version made of another one by a pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leptonai.cli.dataset_library import data_library
from leptonai.cli.groups import Command
from leptonai.cli.output import print_json, say
from leptonai.cli.pipeline import memory_limit_option, parse_shares, read_pipeline
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect, output_option
from leptonai.errors import InvalidRequest
from leptonai.spec.names import check_name

if TYPE_CHECKING:
    from leptonai.data.dataset import Dataset
    from leptonai.data.pipeline import Pipeline

MAX_WORKERS = 64


@click.command(
    "transform",
    cls=Command,
    example="""\
leptonai dataset transform sales --pipeline steps.json --name sales-ready --split train=0.8,test=0.2
leptonai dataset transform sales@4 --pipeline sales.safetensors --name sales-ready
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
    "--num-workers", default=1, show_default=True, type=click.IntRange(1, MAX_WORKERS),
    help="Chunks at once; the result is the same.",
)  # fmt: skip
@output_option
@click.argument("reference", metavar="NAME[@VERSION]|PATH")
def transform(
    file: Path,
    name: str | None,
    into: Path | None,
    shares: str | None,
    seed: int,
    memory_limit: int | None,
    num_workers: int,
    output: str,
    reference: str,
) -> None:
    """Fit a pipeline on the training part, transform all parts, commit the result.

    The version is Parquet in a folder for each part, with the fitted pipeline beside them. With
    --into these are left in a directory, and a table of this machine needs no workspace.
    """
    if (name is None) == (into is None):
        raise InvalidRequest("give --name or --into: one of them", hint="--name sales-ready")
    if name is not None:
        check_name(name, "dataset")
    data_library("polars", "safetensors")
    from leptonai.data.dataset import Dataset
    from leptonai.data.pipeline.applying import parts_of

    def write(source: Dataset, folder: Path) -> Pipeline:
        pipeline = read_pipeline(file)
        limit_bytes = None if memory_limit is None else memory_limit << 20
        parts = parts_of(source, parse_shares(shares), seed)
        files = _write(pipeline, parts, folder, num_workers, limit_bytes)
        say(f"transformed into {len(files)} files")
        return pipeline

    if into is not None:
        if into.exists() and (not into.is_dir() or any(into.iterdir())):
            raise InvalidRequest(f"{into} is not an empty directory", hint="name another one")
        if Path(reference).exists():
            pipeline = write(Dataset.from_local(reference), into)
        else:
            with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
                pipeline = write(Dataset.from_local(reference, client=client), into)
        made = {"into": str(into), "pipeline": pipeline.digest}
        print_json(made) if output == "json" else click.echo(into)
        return
    assert name is not None
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        source = Dataset.from_local(reference, client=client)
        with tempfile.TemporaryDirectory(prefix="leptonai-transform-") as folder:
            pipeline = write(source, Path(folder))
            stored = Dataset.create(
                name,
                folder,
                type="tabular",
                lineage={
                    "source": source.reference,
                    "dataset": source.digest,
                    "pipeline": pipeline.digest,
                },
                client=client,
            )
        found = client.datasets.get(stored.reference)
    print_json(found) if output == "json" else click.echo(stored.reference)


def _write(
    pipeline: Pipeline,
    parts: dict[str, Dataset],
    folder: Path,
    workers: int,
    memory_limit_bytes: int | None,
) -> list[Path]:
    """Into a folder for each part, with the pipeline beside them."""
    from leptonai.data.kinds import is_held_out
    from leptonai.data.pipeline.applying import PIPELINE_FILE, apply, fit_and_apply

    if pipeline.is_fitted:
        for part, samples in parts.items():
            if is_held_out(part):
                pipeline.check_unseen(samples)
    else:
        say("fitting on the training part")
    write = apply if pipeline.is_fitted else fit_and_apply
    files = write(pipeline, parts, folder, workers=workers, memory_limit_bytes=memory_limit_bytes)
    pipeline.save(folder / PIPELINE_FILE)
    return files
