"""`leptonai workspace`: which one is used, and what holds for all of it."""

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import answer, print_json
from leptonai.cli.session import output_option

workspace = Group(
    name="workspace",
    help="Show the workspace that is used, and set what holds for all of it.",
    example="leptonai workspace current\nleptonai workspace set --feature new-deployment-api",
)

FEATURES = {  # as they are called here, and on the wire
    "new-deployment-api": "enable_new_deployment_api",
    "secure-endpoint-defaults": "enable_secure_endpoint_defaults",
}
feature_names = click.Choice(sorted(FEATURES))


@workspace.does("current", example="leptonai workspace current\nleptonai workspace current -o json")
@output_option
def current(output: str) -> None:
    """Print the bare name of the workspace that commands use."""
    from leptonai.client.connection import resolve

    connection = resolve()
    answer({"workspace": connection.workspace, "url": connection.url}, output, connection.workspace)


@workspace.does(
    "set",
    example="""\
leptonai workspace set --feature new-deployment-api
leptonai workspace set --no-feature secure-endpoint-defaults""",
)
@click.option("--feature", "on", type=feature_names, multiple=True, help="Turn it on.")
@click.option("--no-feature", "off", type=feature_names, multiple=True, help="Turn it off.")
@output_option
def set_(on: tuple[str, ...], off: tuple[str, ...], output: str) -> None:
    """Turn features of the workspace on or off. For admins.

    new-deployment-api: published clients speak the newer wire of endpoints and pods.
    secure-endpoint-defaults: an endpoint that says nothing of who is let in gets its own token.
    """
    from leptonai.cli.session import connect

    if not on and not off:
        raise click.UsageError("name a feature: --feature or --no-feature")
    if both := sorted({*on} & {*off}):
        raise click.UsageError(f"{both[0]} cannot be both on and off")
    wanted = {FEATURES[each]: each in on for each in (*on, *off)}
    with connect() as client:
        info = client.set_features(wanted)
    if output == "json":
        print_json(info.features)
        return
    for name, wire_name in sorted(FEATURES.items()):
        click.echo(f"{name}: {'on' if getattr(info.features, wire_name) else 'off'}")
