"""`leptonai model`: named, numbered versions of files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.artifacts import changed_alias
from leptonai.cli.groups import Group
from leptonai.cli.output import age, answer, print_facts, print_json, print_table, say
from leptonai.cli.progress import Progress
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect, existing_directory, output_option
from leptonai.errors import InvalidRequest
from leptonai.spec.names import check_name
from leptonai.spec.quantities import show_bytes

if TYPE_CHECKING:
    from leptonai.spec.artifacts import Artifact


model = Group(
    name="model",
    help="Register and fetch trained models.",
    example="leptonai model create -n digits-cnn ./digits-cnn\nleptonai model list",
)


@model.does(
    "create",
    example="""\
leptonai model create -n digits-cnn ./digits-cnn --attribute accuracy=0.98
leptonai model create -n churn ./churn              # holds model.skops, or model.onnx
leptonai model create -n chat ./tiny-chat           # as save_pretrained(DIRECTORY) writes it
leptonai model create -n mine ./mine --format files # as it is, for code of your own""",
)
@click.option("-n", "--name", required=True, help="Versions of a name are numbered from 1.")
@click.option("--format", help="What the files are; found out if not given. Any is not looked at.")
@click.option("--attribute", "attributes", multiple=True, metavar="KEY=VALUE", help="A fact.")
@output_option
@click.argument("directory")
def create(
    name: str, format: str | None, attributes: tuple[str, ...], output: str, directory: str
) -> None:
    """Register what is in a directory as the next version.

    A model of scikit-learn (*.skops), ONNX, Keras, transformers or Lepton itself is recognised, and
    `leptonai endpoint create --model` serves it. Pickles are refused: they could run anything.

    Files that the newest version already has in the same way make no new one.
    """
    from leptonai.serving.kinds.recognising import recognise

    check_name(name, "model")
    source = existing_directory(directory)
    facts: dict[str, Any] = {}
    if format is None:
        found = recognise(source)
        format = found.format if found else "files"
        facts = found.facts if found else {}
    facts |= _pairs(attributes)
    with (
        connect(retry_for_s=FOLLOW_PATIENCE_S) as client,
        Progress("storing", interrupted="nothing was registered") as progress,
    ):
        made = client.models.push(name, source, format=format, attributes=facts, progress=progress)
    if output == "json":
        print_json(made)
        return
    click.echo(made.reference)
    if made.spec.format == "files":
        say("registered as files: no model in them is known that is served without code")


@model.does("list", example="leptonai model list")
@output_option
def list_(output: str) -> None:
    """List them, newest versions included."""
    with connect() as client:
        found = client.models.list()
    if output == "json":
        print_json(found)
    elif found:
        rows = [
            (
                each.reference,
                each.spec.format,
                each.spec.lineage.get("dataset", ""),
                _measured(each),
                show_bytes(each.spec.size_bytes),
                ", ".join(each.aliases),
                age(each.metadata.created_at),
            )
            for each in found
        ]
        print_table(("MODEL", "FORMAT", "FROM", "METRICS", "SIZE", "ALIASES", "AGE"), rows)
    else:
        say("no models yet; a training makes one: model.fit(data, register=NAME)")


@model.does("get", example="leptonai model get digits-cnn\nleptonai model get digits-cnn@1 -o json")
@output_option
@click.argument("reference", metavar="NAME[@VERSION]")
def get(output: str, reference: str) -> None:
    """Show the newest version, or the one that is named."""
    with connect() as client:
        found = client.models.get(reference)
    print_json(found) if output == "json" else print_facts(_facts(found))


@model.does("download", example="leptonai model download digits-cnn ./digits-cnn")
@output_option
@click.argument("reference", metavar="NAME[@VERSION]")
@click.argument("directory")
def download(output: str, reference: str, directory: str) -> None:
    """Fetch the files of a version into a directory."""
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client, Progress("fetching") as progress:
        found = client.models.download(reference, Path(directory), progress=progress)
    answer(found, output, found.reference)


@model.does(
    "alias",
    example="""\
leptonai model alias digits@3 production
leptonai model alias --drop digits production""",
)
@click.option("--drop", is_flag=True, help="Take the alias away; the version stays.")
@output_option
@click.argument("reference", metavar="NAME[@VERSION]")
@click.argument("alias")
def alias(drop: bool, output: str, reference: str, alias: str) -> None:
    """Give a version another name: NAME@ALIAS means it, and no other, until that is changed.

    An endpoint goes on with the version that it was created with.
    """
    with connect() as client:
        found = changed_alias(client.models, reference, alias, drop=drop)
    answer(found, output, found.reference)


@model.does("remove", example="leptonai model remove digits-cnn@1")
@output_option
@click.argument("references", nargs=-1, required=True, metavar="NAME[@VERSION]...")
def remove(output: str, references: tuple[str, ...]) -> None:
    """Forget a version, or all versions of a name."""
    with connect() as client:
        for reference in references:
            client.models.remove(reference)
            if output == "table":
                click.echo(f"removed {reference}")
    if output == "json":
        print_json([{"reference": each, "action": "removed"} for each in references])


def _facts(artifact: Artifact) -> list[tuple[str, str]]:
    spec = artifact.spec
    facts = dict(spec.attributes)
    metrics, signature = _taken(facts, "metrics"), _taken(facts, "signature")
    return [
        ("version", artifact.reference),
        ("aliases", ", ".join(artifact.aliases)),
        ("format", spec.format),
        ("size", show_bytes(spec.size_bytes)),
        ("digest", spec.digest),
        ("created", f"{age(artifact.metadata.created_at)} ago"),
        *((f"from {role}", of) for role, of in spec.lineage.items()),
        *((name, _number(value)) for name, value in metrics.items()),
        *((name, str(value)) for name, value in facts.items()),
        *((name, _told(value)) for name, value in signature.items()),
    ]


def _measured(artifact: Artifact) -> str:
    """What was measured on data that it did not learn from, if there was some."""
    metrics = _taken(dict(artifact.spec.attributes), "metrics")
    held_out = {name: value for name, value in metrics.items() if name.startswith("val_")}
    return ", ".join(f"{name} {_number(value)}" for name, value in (held_out or metrics).items())


def _taken(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """One that is an object; what else somebody called so stays."""
    found = facts.get(name)
    return facts.pop(name) if isinstance(found, dict) else {}


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _told(value: Any) -> str:
    """Of a signature."""
    if isinstance(value, dict):
        return ", ".join(f"{name} ({kind})" for name, kind in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InvalidRequest(f"--attribute {text!r} has no value", hint="write KEY=VALUE")
        pairs[key] = value
    return pairs
