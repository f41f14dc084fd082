"""`leptonai token` and `leptonai workspace`: what this machine uses."""

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import print_json
from leptonai.cli.session import output_option

token = Group(
    name="token",
    help="Show the token that this machine uses.",
    example="leptonai token show",
)
workspace = Group(
    name="workspace",
    help="Show the workspace that is used.",
    example="leptonai workspace current",
)


@token.does(
    "show",
    example="""\
leptonai token show
curl -H "Authorization: Bearer $(leptonai token show)" http://127.0.0.1:8420/...""",
)
@output_option
def show(output: str) -> None:
    """Print the bare token: whoever has it may do everything in the workspace."""
    from leptonai.client.connection import resolve

    token_text = resolve().token
    print_json({"token": token_text}) if output == "json" else click.echo(token_text)


@workspace.does("current", example="leptonai workspace current\nleptonai workspace current -o json")
@output_option
def current(output: str) -> None:
    """Print the bare name of the workspace that commands use."""
    from leptonai.client.connection import resolve

    connection = resolve()
    if output == "json":
        print_json({"workspace": connection.workspace, "url": connection.url})
    else:
        click.echo(connection.workspace)
