"""`leptonai object`: files under names of the user's choice."""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import age, answer, print_json, print_table, say
from leptonai.cli.progress import Progress
from leptonai.cli.session import connect, first_of, limit_option, output_option
from leptonai.errors import NotFound
from leptonai.spec.quantities import show_bytes

F = TypeVar("F", bound=Callable[..., Any])
STANDARD = "-"  # input, or output

object_ = Group(
    name="object",
    help="Keep files by name: your own, or with --public for everybody in the workspace.",
    example="""\
leptonai object put report.pdf reports/may.pdf
leptonai object list reports/
leptonai object get reports/may.pdf
leptonai object link reports/may.pdf               # a URL that needs no token""",
)


def bucket_option(function: F) -> F:
    return click.option(
        "--public/--private",
        "public",
        default=False,
        help="Everybody's bucket, or the one where each sees their own (the default).",
    )(function)


@object_.does("list", example="leptonai object list\nleptonai object list reports/ --public")
@bucket_option
@limit_option
@output_option
@click.argument("prefix", default="")
def list_(public: bool, limit: int, output: str, prefix: str) -> None:
    """List objects by their keys: those that begin with PREFIX."""
    with connect() as client:
        shown, more = first_of(client.objects.list(_bucket(public), prefix), limit)
    if output == "json":
        print_json(shown)
    elif shown:
        rows = [(show_bytes(each.size), age(each.last_modified), each.key) for each in shown]
        print_table(("SIZE", "AGE", "KEY"), rows)
    else:
        say("no objects there; put one: leptonai object put FILE KEY")
    if more:
        say(f"there are more than {limit}: see --limit, or give a prefix")


@object_.does(
    "put",
    example="""\
leptonai object put report.pdf reports/may.pdf
leptonai object put logo.png                       # as logo.png
tar cz src | leptonai object put - src.tgz --public""",
)
@bucket_option
@click.argument("file", metavar="FILE|-")
@click.argument("key", default="")
def put(public: bool, file: str, key: str) -> None:
    """Put a file, or standard input, in place of what was there."""
    if file == STANDARD:
        if not key:
            raise click.UsageError("standard input has no name: give a KEY")
        with tempfile.NamedTemporaryFile(prefix="leptonai-") as spooled:
            shutil.copyfileobj(sys.stdin.buffer, spooled)
            spooled.flush()
            _put(Path(spooled.name), _bucket(public), key)
        return
    path = Path(file)
    if not path.is_file():
        raise NotFound(f"{file} is no file", hint="name a file of this machine, or - for a pipe")
    _put(path, _bucket(public), key or path.name)


@object_.does(
    "get",
    example="""\
leptonai object get reports/may.pdf
leptonai object get reports/may.pdf ~/may.pdf
leptonai object get src.tgz - --public | tar xz""",
)
@bucket_option
@click.argument("key")
@click.argument("target", default=".", metavar="[TARGET|-]")
def get(public: bool, key: str, target: str) -> None:
    """Fetch an object into TARGET, a file or directory, or to standard output.

    The same command goes on with what was cut off.
    """
    with connect() as client:
        if target == STANDARD:
            with tempfile.TemporaryDirectory(prefix="leptonai-") as directory:
                spooled = Path(directory) / "object"
                with Progress(f"fetching {key}", interrupted="") as progress:
                    client.objects.get(_bucket(public), key, spooled, progress)
                with spooled.open("rb") as opened:
                    shutil.copyfileobj(opened, sys.stdout.buffer)
            return
        to = Path(target)
        if to.is_dir():
            to /= key.rpartition("/")[2]
        with Progress(f"fetching {key}") as progress:
            client.objects.get(_bucket(public), key, to, progress)
    click.echo(f"fetched {to}")


@object_.does(
    "link",
    example="""\
leptonai object link reports/may.pdf
curl -T may.pdf "$(leptonai object link --write reports/may.pdf)\"""",
)
@bucket_option
@click.option("--write", is_flag=True, help="That writes the object, and does not read it.")
@output_option
@click.argument("key")
def link(public: bool, write: bool, output: str, key: str) -> None:
    """Print a URL that reads an object for 15 minutes, for whoever has it. Of a public one: for
    seven days."""
    with connect() as client:
        url = client.objects.link(_bucket(public), key, writes=write)
    answer({"key": key, "url": url}, output, url)


@object_.does("remove", example="leptonai object remove reports/may.pdf")
@bucket_option
@output_option
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
def remove(public: bool, output: str, keys: tuple[str, ...]) -> None:
    """Remove objects. Of one that is not there nothing is said."""
    with connect() as client:
        for key in keys:
            client.objects.remove(_bucket(public), key)
            if output == "table":
                click.echo(f"removed {key}")
    if output == "json":
        print_json([{"key": key, "action": "removed"} for key in keys])


def _put(file: Path, bucket: str, key: str) -> None:
    with connect() as client, Progress(f"putting {key}", interrupted="") as progress:
        client.objects.put(bucket, key, file, progress)
    click.echo(f"put {key} into the {bucket} bucket")


def _bucket(public: bool) -> str:
    return "public" if public else "private"
