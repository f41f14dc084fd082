"""`leptonai secret`: values that workloads need."""

import sys
from pathlib import Path

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import print_json, print_list, say
from leptonai.cli.session import connect, output_option
from leptonai.errors import InvalidRequest
from leptonai.spec.names import check_secret_name

MAX_SECRET_BYTES = 1 << 16

secret = Group(
    name="secret",
    help="Keep values that workloads need. They can be replaced, never read back.",
    example="""\
leptonai secret create HF_TOKEN                    # asks for the value
leptonai job create -n train -s HF_TOKEN -- python train.py""",
)


@secret.does(
    "create",
    example="""\
leptonai secret create HF_TOKEN
leptonai secret create HF_TOKEN < token.txt
leptonai secret create KEY --value-file key.pem""",
)
@click.option("--value", help="The value itself: others can see it in the list of processes.")
@click.option(
    "--value-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the value from a file.",
)
@output_option
@click.argument("name")
def create(value: str | None, value_file: Path | None, output: str, name: str) -> None:
    """Keep a secret: from standard input, or asked for on a terminal.

    One line end at the end of a file or of standard input does not belong to the value.
    """
    check_secret_name(name)
    if value is not None and value_file is not None:
        raise click.UsageError("--value and --value-file exclude each other")
    if value is not None:
        say("warning: a value on the command line stays in the shell's history: use --value-file")
    text = _value(value, value_file)
    if not text:
        raise InvalidRequest("the value is empty", hint="type it, pipe it in, or use --value-file")
    with connect() as client:
        client.secrets.create(name, text)
    if output == "json":
        print_json({"name": name})
    else:
        click.echo(f"created {name}")
        say(f"next: leptonai job create -n train -s {name} --workdir . -- python train.py")


@secret.does("list", example="leptonai secret list")
@output_option
def list_(output: str) -> None:
    """List the names of secrets, never their values."""
    with connect() as client:
        found = client.secrets.list()
    print_list(
        found,
        output,
        ("NAME", "OWNER", "VISIBILITY"),
        lambda item: (item.name, item.owner or "", str(item.visibility or "")),
        none="no secrets yet; create one: leptonai secret create NAME",
    )


@secret.does("remove", example="leptonai secret remove HF_TOKEN")
@output_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove(output: str, names: tuple[str, ...]) -> None:
    """Forget secrets. Workloads that run keep what they were given."""
    with connect() as client:
        for name in names:
            client.secrets.remove(name)
            if output == "table":
                click.echo(f"removed {name}")
    if output == "json":
        print_json([{"name": name, "action": "removed"} for name in names])


def _value(value: str | None, file: Path | None) -> str:
    if value is not None:
        return value
    if file is not None:
        with file.open("rb") as opened:
            content = opened.read(MAX_SECRET_BYTES + 2)
    elif sys.stdin.isatty():
        return str(click.prompt("value", hide_input=True, err=True))
    else:
        content = sys.stdin.buffer.read(MAX_SECRET_BYTES + 2)
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if len(content) > MAX_SECRET_BYTES:
        raise InvalidRequest(
            f"the value is larger than {MAX_SECRET_BYTES} bytes", hint="keep it in a dataset"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as wrong:
        raise InvalidRequest("the value is not UTF-8 text", hint="encode it: base64") from wrong
