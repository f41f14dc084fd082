"""`leptonai dataset transform`: a version made of another one by a pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from leptonai.cli.groups import Command
from leptonai.cli.output import print_json, say
from leptonai.cli.pipeline import data_library, memory_limit_option, parse_shares, read_pipeline
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect, output_option
from leptonai.spec.names import check_name

MAX_WORKERS = 64


@click.command(
    "transform",
    cls=Command,
    example="""\
leptonai dataset transform sales --pipeline steps.json --name sales-ready --split train=0.8,test=0.2
leptonai dataset transform sales@4 --pipeline sales.safetensors --name sales-ready""",
)
@click.option(
    "-p", "--pipeline", "file", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="A fitted pipeline, or the spec of one, which is fitted on the training part.",
)  # fmt: skip
@click.option("-n", "--name", required=True, help="Of the dataset that it makes.")
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
    name: str,
    shares: str | None,
    seed: int,
    memory_limit: int | None,
    num_workers: int,
    output: str,
    reference: str,
) -> None:
    """Fit a pipeline on the training part, transform all parts, commit the result.

    The version is Parquet in a folder for each part, with the fitted pipeline beside them.
    """
    check_name(name, "dataset")
    data_library()
    from leptonai.data.dataset import Dataset
    from leptonai.data.kinds import is_held_out
    from leptonai.data.pipeline.applying import PIPELINE_FILE, apply, fit_and_apply, parts_of

    limit_bytes = None if memory_limit is None else memory_limit << 20
    pipeline = read_pipeline(file)
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        source = Dataset.from_local(reference, client=client)
        parts = parts_of(source, parse_shares(shares), seed)
        if pipeline.is_fitted:
            for part, samples in parts.items():
                if is_held_out(part):
                    pipeline.check_unseen(samples)
        else:
            say("fitting on the training part")
        with tempfile.TemporaryDirectory(prefix="leptonai-transform-") as folder:
            write = apply if pipeline.is_fitted else fit_and_apply
            files = write(
                pipeline, parts, Path(folder), workers=num_workers, memory_limit_bytes=limit_bytes
            )
            pipeline.save(Path(folder) / PIPELINE_FILE)
            say(f"transformed into {len(files)} files; storing")
            named = source.name if source.version is None else f"{source.name}@{source.version}"
            made = Dataset.create(
                name,
                folder,
                type="tabular",
                lineage={
                    "source": named,
                    "dataset": source.digest,
                    "pipeline": pipeline.digest,
                },
                client=client,
            )
        stored = client.datasets.get(f"{made.name}@{made.version}")
    print_json(stored) if output == "json" else click.echo(f"{made.name}@{made.version}")
