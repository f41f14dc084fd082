"""`leptonai dataset`: versions of data, from where they lie to where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.artifacts import changed_alias
from leptonai.cli.dataset_check import (
    TypedCommand,
    check,
    fail_on_option,
    summary_line,
    type_option,
)
from leptonai.cli.dataset_library import data_library
from leptonai.cli.dataset_preview import preview
from leptonai.cli.dataset_transform import transform
from leptonai.cli.groups import Group
from leptonai.cli.output import age, answer, print_facts, print_json, print_table, printable, say
from leptonai.cli.progress import Progress
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect, output_option
from leptonai.errors import InvalidRequest
from leptonai.spec.names import check_name
from leptonai.spec.quantities import show_bytes

if TYPE_CHECKING:
    from leptonai.spec.artifacts import Artifact

MAX_DIFF_LINES = 50

dataset = Group(
    name="dataset",
    help="Keep versions of data, and fetch them.",
    example="""\
leptonai dataset create --name digits --type image classification --source ./digits
leptonai dataset list""",
)


@click.command(
    "create",
    cls=TypedCommand,
    example="""\
leptonai dataset create --name digits --type image classification --source ./digits
leptonai dataset create -n sales ./sales.csv""",
)
@click.option("-n", "--name", required=True, help="Versions of a name are numbered from 1.")
@type_option
@click.option("-s", "--source", "named", help="A path; or s3://, gs://, az://, https://.")
@click.option("--lineage", multiple=True, metavar="ROLE=REFERENCE", help="What it was made from.")
@fail_on_option
@output_option
@click.argument("source", required=False)
def create(
    name: str,
    type: str | None,
    named: str | None,
    lineage: tuple[str, ...],
    fail_on: tuple[str, ...],
    output: str,
    source: str | None,
) -> None:
    """Commit what is at a source as the next version.

    Only what has changed is read and stored. Data that the newest version already has in the same
    way makes no new one. Interrupted, the same command goes on where it was. With --fail-on, data
    that is past a gate's threshold becomes no version; `dataset check` tells all there is to tell.
    """
    check_name(name, "dataset")
    if (named is None) == (source is None):
        raise InvalidRequest("name one source", hint="--source PATH, or a path alone")
    of = data_library()
    from leptonai.data.workspace import newest_of

    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        before = newest_of(client, name)
        with Progress() as progress:
            made = of.create(
                name,
                named or source or "",
                type=type,
                lineage=_pairs(lineage),
                fail_on=fail_on,
                client=client,
                progress=progress.step,
            )
        stored = client.datasets.get(made.reference)
    answer(stored, output, stored.reference)
    if output != "json":
        is_new = before is None or stored.reference != before.reference
        say(_made(stored) if is_new else "nothing has changed since; no new version")


dataset.add_command(create)
dataset.add_command(check)
dataset.add_command(preview)
dataset.add_command(transform)


@dataset.does("list", example="leptonai dataset list")
@output_option
def list_(output: str) -> None:
    """List the newest version of each."""
    with connect() as client:
        found = client.datasets.list()
    newest: dict[str | None, Artifact] = {}
    for each in sorted(found, key=lambda each: each.metadata.version or 0):
        newest[each.metadata.name] = each
    chosen = [newest[name] for name in sorted(newest, key=str)]
    if output == "json":
        print_json(chosen)
    elif chosen:
        print_table(("DATASET", "TYPE", "SAMPLES", "SIZE", "ALIASES", "AGE"), _rows(chosen))
    else:
        say("no datasets yet; create one: leptonai dataset create -n digits ./digits")


@dataset.does("versions", example="leptonai dataset versions digits")
@output_option
@click.argument("name")
def versions(output: str, name: str) -> None:
    """List the versions of a name, oldest first, and what each was made from."""
    with connect() as client:
        found = client.datasets.versions(name)
    if output == "json":
        print_json(found)
        return
    rows = [
        (*row, each.spec.lineage.get("source", ""))
        for row, each in zip(_rows(found), found, strict=True)
    ]
    print_table(("DATASET", "TYPE", "SAMPLES", "SIZE", "ALIASES", "AGE", "SOURCE"), rows)


@dataset.does("get", example="leptonai dataset get digits\nleptonai dataset get digits@1 -o json")
@output_option
@click.argument("reference", metavar="NAME[@VERSION]")
def get(output: str, reference: str) -> None:
    """Show a version: the newest, or NAME@VERSION, or NAME@ALIAS."""
    with connect() as client:
        found = client.datasets.get(reference)
    print_json(found) if output == "json" else print_facts(_facts(found))


@dataset.does("diff", example="leptonai dataset diff digits@1 digits@2")
@output_option
@click.argument("before", metavar="NAME@VERSION")
@click.argument("after", metavar="NAME[@VERSION]")
def diff(output: str, before: str, after: str) -> None:
    """Show which files were added, removed and changed between two versions."""
    data_library()
    from leptonai.data.differences import differences
    from leptonai.data.workspace import manifest_of

    with connect() as client:
        one, other = (
            manifest_of(client, client.datasets.get(reference)) for reference in (before, after)
        )
    found = differences(one, other)
    if output == "json":
        print_json(found)
        return
    lines = [
        *(f"+ {path}" for path in found.added),
        *(f"- {path}" for path in found.removed),
        *(f"~ {path}" for path in found.changed),
        *(f"! {what}" for what in found.facts),
    ]
    for line in lines[:MAX_DIFF_LINES]:
        click.echo(printable(line))
    if len(lines) > MAX_DIFF_LINES:
        say(f"… and {len(lines) - MAX_DIFF_LINES} more; -o json has all")
    say(
        f"{len(found.added)} added, {len(found.removed)} removed, {len(found.changed)} changed, "
        f"{found.unchanged} as before"
    )


@dataset.does("download", example="leptonai dataset download digits ./digits")
@output_option
@click.argument("reference", metavar="NAME[@VERSION]")
@click.argument("directory")
def download(output: str, reference: str, directory: str) -> None:
    """Fetch the files of a version into a directory that is new or empty.

    Interrupted, the same command goes on where it was.
    """
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client, Progress("fetching") as progress:
        found = client.datasets.download(reference, Path(directory), progress=progress)
    answer(found, output, found.reference)


@dataset.does("cache", example="leptonai dataset cache\nleptonai dataset cache --clear")
@click.option("--clear", is_flag=True, help="Remove all that no program uses at this moment.")
@output_option
def cache(clear: bool, output: str) -> None:
    """Show what this machine keeps of workspaces elsewhere.

    What was used longest ago goes when there is more than LEPTON_CACHE_BYTES: for example 50GiB;
    else 20GiB, or half of what the disk has left if that is less.
    """
    data_library()
    from leptonai.data.cache import cache_of_this_machine

    kept = cache_of_this_machine()
    removed = kept.empty() if clear else 0
    holding = kept.holding()
    if output == "json":
        print_json({**holding._asdict(), "removed_bytes": removed})
        return
    if clear:
        say(f"{show_bytes(removed)} removed")
    facts = [("place", holding.place), ("objects", str(holding.objects))]
    print_facts(
        [*facts, ("size", show_bytes(holding.bytes)), ("limit", show_bytes(holding.limit_bytes))]
    )


@dataset.does(
    "alias",
    example="leptonai dataset alias digits@3 best\nleptonai dataset alias --drop digits best",
)
@click.option("--drop", is_flag=True, help="Take the alias away; the version stays.")
@output_option
@click.argument("reference", metavar="NAME[@VERSION]")
@click.argument("alias")
def alias(drop: bool, output: str, reference: str, alias: str) -> None:
    """Give a version another name: NAME@ALIAS means it, and no other, until that is changed."""
    with connect() as client:
        found = changed_alias(client.datasets, reference, alias, drop=drop)
    answer(found, output, found.reference)


@dataset.does("remove", example="leptonai dataset remove digits@1")
@output_option
@click.argument("references", nargs=-1, required=True, metavar="NAME[@VERSION]...")
def remove(output: str, references: tuple[str, ...]) -> None:
    """Forget a version, or all versions of a name."""
    with connect() as client:
        for reference in references:
            client.datasets.remove(reference)
            if output == "table":
                click.echo(f"removed {reference}")
    if output == "json":
        print_json([{"reference": each, "action": "removed"} for each in references])


def _made(artifact: Artifact) -> str:
    """`image classification: 78 samples of 2 classes, in train and test; 146.9KiB`."""
    spec = artifact.spec
    told = f"{spec.format}: {spec.attributes.get('samples', 0):,} samples"
    if classes := spec.attributes.get("classes"):
        told += f" of {classes:,} classes"
    if splits := spec.attributes.get("splits"):
        told += f", in {' and '.join(splits)}"
    return f"{told}; {show_bytes(spec.size_bytes)}"


def _rows(artifacts: Any) -> list[tuple[str, ...]]:
    return [
        (
            each.reference,
            each.spec.format,
            str(each.spec.attributes.get("samples", "")),
            show_bytes(each.spec.size_bytes),
            ", ".join(each.aliases),
            age(each.metadata.created_at),
        )
        for each in artifacts
    ]


def _facts(artifact: Artifact) -> list[tuple[str, str]]:
    spec = artifact.spec
    facts = dict(spec.attributes)
    schema = facts.pop("schema", {})
    quality = facts.pop("quality", {})
    if names := facts.pop("class_names", []):
        more = ", …" if len(names) < facts["classes"] else ""
        facts["classes"] = f"{facts['classes']}: {', '.join(names)}{more}"
    return [
        ("version", artifact.reference),
        ("aliases", ", ".join(artifact.aliases)),
        ("type", spec.format),
        ("size", show_bytes(spec.size_bytes)),
        ("digest", spec.digest),
        ("created", f"{age(artifact.metadata.created_at)} ago"),
        *((f"from {role}", of) for role, of in spec.lineage.items()),
        *((name, _text(value)) for name, value in facts.items()),
        ("quality", summary_line(quality)),
        ("schema", ", ".join(f"{name} ({type})" for name, type in schema.items())),
    ]


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        role, equals, of = text.partition("=")
        if not (role and equals and of):
            raise InvalidRequest(f"--lineage {text!r} has no reference", hint="ROLE=REFERENCE")
        pairs[role] = of
    return pairs
