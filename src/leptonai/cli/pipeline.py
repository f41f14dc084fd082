"""`leptonai pipeline`: what is learnt from training data, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.dataset_library import data_library, say_if_two
from leptonai.cli.groups import Group
from leptonai.cli.output import print_facts, print_json
from leptonai.cli.session import Parsed, output_option
from leptonai.errors import InvalidRequest, NotFound
from leptonai.spec.quantities import memory_mib

if TYPE_CHECKING:
    from leptonai.data.pipeline import Pipeline

MAX_SPEC_BYTES = 16 << 20
SHOWN_COLUMNS = 40

pipeline = Group(
    name="pipeline",
    help="Fit what prepares data, and look at it.",
    example="""\
leptonai pipeline fit steps.json --dataset sales -o sales.safetensors
leptonai pipeline show sales.safetensors""",
)

memory_limit_option = click.option(
    "--memory-limit",
    type=Parsed("2GiB", memory_mib),
    help="What may be held of the data; the rest goes to temporary files.",
)


@pipeline.does(
    "fit",
    example="""\
leptonai pipeline fit steps.json --dataset sales@3 -o sales.safetensors
leptonai pipeline fit steps.json --dataset ./sales.csv --split train=0.8,test=0.2 -o p.safetensors
# steps.json: {"steps": [{"type": "impute"}, {"type": "to_matrix"}], "target": "price"}""",
)
@click.option("-d", "--dataset", "reference", required=True, metavar="NAME|PATH")
@click.option("--split", "shares", metavar="NAME=SHARE,...", help="Fit on the part train of it.")
@click.option("--seed", default=0, show_default=True, help="Of the split.")
@memory_limit_option
@click.option("-o", "--into", required=True, type=click.Path(path_type=Path), metavar="FILE")
@click.argument("spec", type=click.Path(path_type=Path), metavar="SPEC.json")
def fit(
    reference: str,
    shares: str | None,
    seed: int,
    memory_limit: int | None,
    into: Path,
    spec: Path,
) -> None:
    """Learn from the training part of a dataset, and from it alone."""
    data_library("polars", "safetensors")
    from leptonai.data.dataset import Dataset
    from leptonai.data.pipeline.applying import parts_of, teaching_part

    made = read_pipeline(spec)
    if made.is_fitted:
        raise InvalidRequest(f"{spec} is fitted already", hint="leptonai pipeline show FILE")
    say_if_two(reference)
    parts = parts_of(Dataset.from_local(reference), parse_shares(shares), seed)
    made.fit(
        teaching_part(parts)[1],
        memory_limit_bytes=None if memory_limit is None else memory_limit << 20,
    )
    made.save(into)
    click.echo(made.digest)


@pipeline.does("show", example="leptonai pipeline show sales.safetensors")
@output_option
@click.argument("file", type=click.Path(path_type=Path))
def show(output: str, file: Path) -> None:
    """Show a fitted pipeline: its steps, its columns, and what taught it."""
    data_library("polars", "safetensors")
    from leptonai.data.pipeline.applying import facts_of

    facts = facts_of(read_pipeline(file))
    if output == "json":
        print_json(facts)
        return
    on = facts["fitted_on"]
    taught = " ".join(filter(None, (on["reference"], on["part"]))) or "rows that were given"
    classes = facts["classes"]
    print_facts(
        [
            ("digest", facts["digest"]),
            *((f"step {n}", _step(step)) for n, step in enumerate(facts["steps"], start=1)),
            ("columns in", _few([f"{name} ({t})" for name, t in facts["columns_in"].items()])),
            ("columns out", _few(facts["columns_out"])),
            ("target", facts["target"] or ""),
            ("classes", "" if classes is None else _few([str(each) for each in classes])),
            ("fitted on", f"{taught}: {on['samples']} samples"),
            ("made by", ", ".join(f"{name} {of}" for name, of in facts["made_by"].items())),
        ]
    )


def read_pipeline(path: Path) -> Pipeline:
    """A fitted one, or the spec of one that is not.

    Raises:
        NotFound, InvalidRequest: there is no such file, or it is neither.
    """
    import msgspec

    from leptonai.data.pipeline import Pipeline
    from leptonai.data.pipeline.pipeline import from_spec

    try:
        with path.open("rb") as file:
            start = file.read(1)
            if start not in (b"{", b"["):
                return Pipeline.load(path)
            text = start + file.read(MAX_SPEC_BYTES)
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist", hint="check the path") from None
    except (IsADirectoryError, PermissionError) as wrong:
        raise InvalidRequest(f"{path} cannot be read: {wrong.strerror}") from None
    try:
        told = msgspec.json.decode(text)
    except msgspec.DecodeError as wrong:
        raise InvalidRequest(
            f"{path} is not JSON: {wrong}", hint="`leptonai pipeline fit --help` shows one"
        ) from None
    return from_spec(told)


def parse_shares(text: str | None) -> dict[str, float]:
    """`train=0.8,test=0.2`.

    Raises:
        InvalidRequest: it is not written so, or a name is none of a part.
    """
    shares: dict[str, float] = {}
    for each in (text or "").split(",") if text else []:
        name, _, share = each.strip().partition("=")
        if name not in ("train", "validation", "test"):
            raise InvalidRequest(
                f"--split: {name!a} is no part", hint="parts are train, validation and test"
            )
        try:
            shares[name] = float(share)
        except ValueError:
            raise InvalidRequest(
                f"--split: {each!a} has no share", hint="--split train=0.8,test=0.2"
            ) from None
    return shares


def _step(told: dict[str, Any]) -> str:
    options = ", ".join(f"{name}={value}" for name, value in told.items() if name != "type")
    return f"{told['type']}({options})"


def _few(names: list[str]) -> str:
    more = f", … {len(names) - SHOWN_COLUMNS} more" if len(names) > SHOWN_COLUMNS else ""
    return ", ".join(names[:SHOWN_COLUMNS]) + more
