"""`leptonai kv`: small values by key, for workloads to share."""

import sys
from pathlib import Path

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import age, answer, print_json, print_list, printable, say
from leptonai.cli.session import connect, first_of, limit_option, output_option
from leptonai.errors import NotFound, TooLarge
from leptonai.spec.values import MAX_VALUE_BYTES

kv = Group(
    name="kv",
    help="Keep small values by key, in key spaces that all workloads share.",
    example="""\
leptonai kv create results
leptonai kv put results job-7 '{"loss": 0.1}'
leptonai kv get results job-7""",
)


@kv.does("create", example="leptonai kv create results")
@output_option
@click.argument("space")
def create(output: str, space: str) -> None:
    """Create a key space."""
    with connect() as client:
        made = client.key_spaces.create(space)
    answer(made, output, f"created {space}")


@kv.does("list", example="leptonai kv list")
@output_option
def list_(output: str) -> None:
    """List the key spaces."""
    with connect() as client:
        found = client.key_spaces.list()
    print_list(
        found,
        output,
        ("NAME", "OWNER", "AGE"),
        lambda each: (each.name, each.metadata.owner or "", age(each.metadata.created_at)),
        none="no key spaces yet; create one: leptonai kv create NAME",
    )


@kv.does("keys", example="leptonai kv keys results\nleptonai kv keys results --prefix job-")
@click.option("--prefix", default="", help="Only keys that begin so.")
@limit_option
@output_option
@click.argument("space")
def keys(prefix: str, limit: int, output: str, space: str) -> None:
    """List keys, in the order in which they were first put."""
    with connect() as client:
        shown, more = first_of(client.key_spaces.keys(space, prefix), limit)
    if output == "json":
        print_json(shown)
    else:
        for key in shown:
            click.echo(printable(key))
    if more:
        say(f"there are more than {limit}: see --limit and --prefix")


@kv.does(
    "get",
    example="leptonai kv get results job-7\nleptonai kv get results weights --to weights.bin",
)
@click.option(
    "--to", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write it to a file."
)
@click.argument("space")
@click.argument("key")
def get(file: Path | None, space: str, key: str) -> None:
    """Print a value: exactly its bytes."""
    with connect() as client:
        value = client.key_spaces.get(space, key)
    if file is not None:
        file.write_bytes(value)
        return
    sys.stdout.buffer.write(value)
    if sys.stdout.isatty() and not value.endswith(b"\n"):
        click.echo()


@kv.does(
    "put",
    example="""\
leptonai kv put results job-7 done
leptonai kv put results weights --file weights.bin
date | leptonai kv put results now""",
)
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="Put what it holds.")
@click.argument("space")
@click.argument("key")
@click.argument("value", required=False)
def put(file: Path | None, space: str, key: str, value: str | None) -> None:
    """Put a value in place of what was there: VALUE, a file's bytes, or those of standard input."""
    if value is not None and file is not None:
        raise click.UsageError("a value and --file exclude each other")
    content = _read(file) if value is None else value.encode(errors="surrogateescape")
    if len(content) > MAX_VALUE_BYTES:
        raise TooLarge(
            f"the value has more than {MAX_VALUE_BYTES >> 10} KiB",
            hint="keep it as an object, and its name here: `leptonai object put`",
        )
    with connect() as client:
        client.key_spaces.put(space, key, content)


@kv.does("delete", example="leptonai kv delete results job-7 job-8")
@click.argument("space")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
def delete(space: str, keys: tuple[str, ...]) -> None:
    """Delete keys, with their values."""
    with connect() as client:
        for key in keys:
            client.key_spaces.delete(space, key)


@kv.does("remove", example="leptonai kv remove results")
@output_option
@click.argument("spaces", nargs=-1, required=True, metavar="SPACE...")
def remove(output: str, spaces: tuple[str, ...]) -> None:
    """Remove key spaces, with all their values."""
    with connect() as client:
        for space in spaces:
            client.key_spaces.remove(space)
            if output == "table":
                click.echo(f"removed {space}")
    if output == "json":
        print_json([{"name": space, "action": "removed"} for space in spaces])


def _read(file: Path | None) -> bytes:
    """One byte more than a value may have tells of any larger one."""
    if file is None:
        if sys.stdin.isatty():
            raise click.UsageError("there is no value: give one, --file, or standard input")
        return sys.stdin.buffer.read(MAX_VALUE_BYTES + 1)
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_VALUE_BYTES + 1)
    except FileNotFoundError as missing:
        raise NotFound(f"there is no {file}", hint="check the path") from missing
