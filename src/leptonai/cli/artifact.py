"""`leptonai model`: named, numbered versions of files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import age, print_facts, print_json, print_table, say
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect, existing_directory, output_option
from leptonai.errors import InvalidRequest
from leptonai.spec.names import check_name

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.client.synchronous import Artifacts
    from leptonai.spec.artifacts import Artifact

Kind = Literal["dataset", "model"]
MIB = 1 << 20


def _group(kind: Kind, help: str, name: str) -> Group:
    """The same commands for both kinds."""
    group = Group(
        name=kind,
        help=help,
        example=f"leptonai {kind} create -n {name} ./{name}\nleptonai {kind} list",
    )

    @group.does(
        "create",
        example=f"""\
leptonai {kind} create -n {name} ./{name}
leptonai {kind} create -n {name} ./{name} --format digits --attribute source=UCI""",
    )
    @click.option("-n", "--name", required=True, help="Versions of a name are numbered from 1.")
    @click.option("--format", default="files", show_default=True, help="What the files are.")
    @click.option("--attribute", "attributes", multiple=True, metavar="KEY=VALUE", help="A fact.")
    @output_option
    @click.argument("directory")
    def create(
        name: str, format: str, attributes: tuple[str, ...], output: str, directory: str
    ) -> None:
        """Register what is in a directory as the next version.

        Files that the newest version already has in the same way make no new one.
        """
        check_name(name, kind)
        source = existing_directory(directory)
        with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
            made = _of(client, kind).push(
                name, source, format=format, attributes=_pairs(attributes)
            )
        print_json(made) if output == "json" else click.echo(_reference(made))

    @group.does("list", example=f"leptonai {kind} list")
    @output_option
    def list_(output: str) -> None:
        """List them, newest versions included."""
        with connect() as client:
            found = _of(client, kind).list()
        if output == "json":
            print_json(found)
        elif found:
            rows = [
                (
                    _reference(each),
                    each.spec.format,
                    _size(each.spec.size_bytes),
                    age(each.metadata.created_at),
                )
                for each in found
            ]
            print_table((kind.upper(), "FORMAT", "SIZE", "AGE"), rows)
        else:
            say(f"no {kind}s yet; create one: leptonai {kind} create -n {name} ./{name}")

    @group.does("get", example=f"leptonai {kind} get {name}\nleptonai {kind} get {name}@1 -o json")
    @output_option
    @click.argument("reference", metavar="NAME[@VERSION]")
    def get(output: str, reference: str) -> None:
        """Show the newest version, or the one that is named."""
        with connect() as client:
            found = _of(client, kind).get(reference)
        print_json(found) if output == "json" else print_facts(_facts(found))

    @group.does("download", example=f"leptonai {kind} download {name} ./{name}")
    @output_option
    @click.argument("reference", metavar="NAME[@VERSION]")
    @click.argument("directory")
    def download(output: str, reference: str, directory: str) -> None:
        """Fetch the files of a version into a directory."""
        with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
            found = _of(client, kind).download(reference, Path(directory))
        print_json(found) if output == "json" else click.echo(_reference(found))

    @group.does("remove", example=f"leptonai {kind} remove {name}@1")
    @output_option
    @click.argument("references", nargs=-1, required=True, metavar="NAME[@VERSION]...")
    def remove(output: str, references: tuple[str, ...]) -> None:
        """Forget a version, or all versions of a name."""
        with connect() as client:
            for reference in references:
                _of(client, kind).remove(reference)
                if output == "table":
                    click.echo(f"removed {reference}")
        if output == "json":
            print_json([{"reference": each, "action": "removed"} for each in references])

    return group


model = _group("model", "Register and fetch trained models.", "digits-cnn")


def _of(client: LeptonClient, kind: Kind) -> Artifacts:
    return client.datasets if kind == "dataset" else client.models


def _reference(artifact: Artifact) -> str:
    return f"{artifact.metadata.name}@{artifact.metadata.version}"


def _facts(artifact: Artifact) -> list[tuple[str, str]]:
    spec = artifact.spec
    return [
        ("version", _reference(artifact)),
        ("format", spec.format),
        ("size", _size(spec.size_bytes)),
        ("digest", spec.digest),
        ("created", f"{age(artifact.metadata.created_at)} ago"),
        *((f"from {role}", of) for role, of in spec.lineage.items()),
        *((name, str(value)) for name, value in spec.attributes.items()),
    ]


def _size(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.1f}MiB" if size_bytes >= MIB else f"{-(-size_bytes // 1024)}KiB"


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InvalidRequest(f"--attribute {text!r} has no value", hint="write KEY=VALUE")
        pairs[key] = value
    return pairs
