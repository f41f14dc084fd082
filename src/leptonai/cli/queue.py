"""`leptonai queue`: messages that workloads hand each other."""

import sys

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import age, answer, print_json, print_table, say
from leptonai.cli.session import Parsed, connect, output_option
from leptonai.errors import InvalidRequest, NotFound, TooLarge
from leptonai.spec.quantities import duration_s
from leptonai.spec.values import MAX_MESSAGE_BYTES

queue = Group(
    name="queue",
    help="Hand messages from one workload to another, each to one receiver.",
    example="""\
leptonai queue create work
leptonai queue send work 'resize 17.jpg'
leptonai queue receive work --wait 30s""",
)


@queue.does("create", example="leptonai queue create work")
@output_option
@click.argument("name")
def create(output: str, name: str) -> None:
    """Create a queue."""
    with connect() as client:
        made = client.queues.create(name)
    answer(made, output, f"created {name}")


@queue.does("list", example="leptonai queue list")
@output_option
def list_(output: str) -> None:
    """List the queues, and how many messages wait in each."""
    with connect() as client:
        found = [(each, client.queues.length(each.name)) for each in client.queues.list()]
    if output == "json":
        print_json([{"queue": each, "length": length} for each, length in found])
    elif found:
        rows = [
            (
                each.name,
                str(length),
                (each.metadata.owner or "") if each.metadata else "",
                age(each.metadata.created_at if each.metadata else None),
            )
            for each, length in found
        ]
        print_table(("NAME", "WAITING", "OWNER", "AGE"), rows)
    else:
        say("no queues yet; create one: leptonai queue create NAME")


@queue.does("length", example="leptonai queue length work")
@output_option
@click.argument("name")
def length(output: str, name: str) -> None:
    """Print how many messages wait."""
    with connect() as client:
        waiting = client.queues.length(name)
    answer({"name": name, "length": waiting}, output, str(waiting))


@queue.does(
    "send",
    example="leptonai queue send work 'resize 17.jpg'\nleptonai queue send work < message.json",
)
@click.argument("name")
@click.argument("message", required=False)
def send(name: str, message: str | None) -> None:
    """Send MESSAGE, or standard input: text. The same within five minutes is one message."""
    text = _read() if message is None else message
    with connect() as client:
        client.queues.send(name, text)


@queue.does(
    "receive",
    example="leptonai queue receive work\nleptonai queue receive work --wait 5m -o json",
)
@click.option("--wait", type=Parsed("duration", duration_s), help="For one to come: 30s, 5m.")
@output_option
@click.argument("name")
def receive(wait: int | None, output: str, name: str) -> None:
    """Take the first message, and print it; nobody else gets it. Fails where there is none."""
    with connect() as client:
        message = client.queues.receive(name, timeout_s=wait or 0)
    if message is None:
        raise NotFound(f"no message waits in {name}", hint="wait for one: --wait 30s")
    answer({"message": message}, output, message)


@queue.does("remove", example="leptonai queue remove work")
@output_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove(output: str, names: tuple[str, ...]) -> None:
    """Remove queues, with all their messages."""
    with connect() as client:
        for name in names:
            client.queues.remove(name)
            if output == "table":
                click.echo(f"removed {name}")
    if output == "json":
        print_json([{"name": name, "action": "removed"} for name in names])


def _read() -> str:
    if sys.stdin.isatty():
        raise click.UsageError("there is no message: give one, or standard input")
    content = sys.stdin.buffer.read(MAX_MESSAGE_BYTES + 1)
    if len(content) > MAX_MESSAGE_BYTES:
        raise TooLarge(
            f"the message has more than {MAX_MESSAGE_BYTES >> 10} KiB",
            hint="keep it as an object, and send its name: `leptonai object put`",
        )
    try:
        return content.decode()
    except UnicodeDecodeError as wrong:
        raise InvalidRequest("the message is not UTF-8 text", hint="encode it: base64") from wrong
