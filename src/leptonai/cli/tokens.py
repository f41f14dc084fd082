"""`leptonai token`: what lets people in."""

import time

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import age, answer, print_json, print_table, say, span
from leptonai.cli.session import Parsed, connect, output_option
from leptonai.spec.quantities import duration_s
from leptonai.spec.tokens import MEMBER_ROLES, NO_EXPIRY_MS

token = Group(
    name="token",
    help="Give people tokens of their own, and take them back; show the one that is used here.",
    example="""\
leptonai token create ann --expires 90d
leptonai token list
leptonai token show""",
)


@token.does(
    "show",
    example="""\
leptonai token show
curl -H "Authorization: Bearer $(leptonai token show)" http://127.0.0.1:8420/...""",
)
@output_option
def show(output: str) -> None:
    """Print the bare token that this machine uses: whoever has it may do what it allows."""
    from leptonai.client.connection import resolve

    text = resolve().token
    answer({"token": text}, output, text)


@token.does(
    "create",
    example="""\
leptonai token create ann                          # prints it, this once
leptonai token create ben@example.org --role admin --expires 30d
leptonai token create ci --expires 1d > ci.token""",
)
@click.option(
    "--role",
    type=click.Choice(MEMBER_ROLES),
    default="member",
    show_default=True,
    help="A member rules over what is theirs, an admin over all.",
)
@click.option(
    "--expires",
    type=Parsed("duration", duration_s),
    help="Good for so long: 12h, 90d; else for ever.",
)
@output_option
@click.argument("name")
def create(role: str, expires: int | None, output: str, name: str) -> None:
    """Print a new token for NAME, who then owns what is made with it. For admins.

    It is kept nowhere: whoever loses it gets another. A person may have several.
    """
    expires_at_ms = None if expires is None else int((time.time() + expires) * 1_000)
    with connect() as client:
        made = client.tokens.create(
            name, "admin" if role == "admin" else "member", expires_at_ms=expires_at_ms
        )
        url = client.url
    if output == "json":
        print_json(made)
        return
    click.echo(made.value)
    say(f"this is {made.name}'s token {made.id}, of role {made.role}; it is shown this once")
    say(f"next: LEPTON_WORKSPACE_URL={url} LEPTON_WORKSPACE_TOKEN=... leptonai job list")


@token.does("list", example="leptonai token list")
@output_option
def list_(output: str) -> None:
    """List the tokens, masked: one's own, and for an admin all."""
    with connect() as client:
        found = client.tokens.list()
    if output == "json":
        print_json(found)
        return
    rows = [
        (
            each.id,
            each.name,
            each.role,
            each.masked_value,
            _left(each.expires_at),
            age(each.created_at),
        )
        for each in found
    ]
    print_table(("ID", "NAME", "ROLE", "TOKEN", "EXPIRES", "AGE"), rows)


@token.does("remove", example="leptonai token remove 0f3c9a7be2d14586")
@output_option
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def remove(output: str, ids: tuple[str, ...]) -> None:
    """Take tokens back: who has one is not let in any more. What was made with it stays."""
    with connect() as client:
        for id in ids:
            client.tokens.remove(id)
            if output == "table":
                click.echo(f"removed {id}")
    if output == "json":
        print_json([{"id": id, "action": "removed"} for id in ids])


def _left(expires_at_ms: int) -> str:
    if expires_at_ms >= NO_EXPIRY_MS:
        return "never"
    left_s = expires_at_ms / 1_000 - time.time()
    return f"in {span(left_s)}" if left_s > 0 else "expired"
