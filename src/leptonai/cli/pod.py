"""`leptonai pod`: machines to work in, with files that last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.groups import Group
from leptonai.cli.mounts import storage_options
from leptonai.cli.output import age, answer, print_facts, print_json, print_list, say, span
from leptonai.cli.pod_files import sync
from leptonai.cli.pod_keys import default_keys, read_key
from leptonai.cli.pod_sessions import exec_, forward, proxy, ssh, ssh_config
from leptonai.cli.session import (
    FOLLOW_PATIENCE_S,
    Parsed,
    connect,
    file_option,
    given,
    label_option,
    labels,
    output_option,
    priority_option,
    resource_options,
    variable_options,
)
from leptonai.cli.telling import tells
from leptonai.cli.views import resources_text, state_of
from leptonai.spec.quantities import duration_s

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.containers import EnvVar
    from leptonai.spec.endpoints import LeptonDeployment

pod = Group(
    name="pod",
    help="Work on a machine of the platform: shell, SSH, VS Code, JupyterLab, and files that last.",
    example="""\
leptonai pod create work --gpu 1
leptonai pod ssh work
leptonai pod sync . work:project
leptonai pod stop work""",
)
for command in (exec_, ssh, ssh_config, proxy, forward, sync):
    pod.add_command(command)


@pod.does(
    "create",
    example="""\
leptonai pod create work
leptonai pod create work --gpu 1 --memory 32GiB --idle-stop 2h
leptonai pod create lab --jupyter --wait
leptonai pod create work --ssh-key ~/.ssh/id_ed25519.pub -e HF_HOME=/data/hf -s HF_TOKEN
leptonai pod create work --mount data:/mnt/data --bucket pets
leptonai pod create work --command 'tensorboard --logdir runs --port $LEPTON_PORT_18888'
leptonai pod create again -f spec.json            # {"resource_requirement": {"cpu": 2}}""",
)
@click.option("--jupyter", is_flag=True, help="Start JupyterLab in it; installed if need be.")
@click.option(
    "--idle-stop",
    metavar="DURATION",
    type=Parsed("duration", duration_s),
    help="Stop it when for so long nobody was in it and nothing worked.",
)
@click.option(
    "--ssh-key",
    "ssh_keys",
    multiple=True,
    metavar="FILE",
    help="A public key that SSH lets in; by default the one in ~/.ssh.",
)
@click.option("--ssh-listen", metavar="ADDRESS", help="Of its SSH server: 127.0.0.1, if not said.")
@click.option("--port", "ports", multiple=True, type=click.IntRange(1, 65535), help="One more.")
@click.option("--command", "shell_command", metavar="LINE", help="Run this line of shell in it.")
@resource_options
@variable_options
@storage_options
@priority_option
@label_option
@file_option("Read the pod from a JSON file; flags override it.")
@click.option("--wait", is_flag=True, help="Return when it can be entered.")
@output_option
@click.argument("name")
def create(
    jupyter: bool,
    idle_stop: int | None,
    ssh_keys: tuple[str, ...],
    ssh_listen: str | None,
    ports: tuple[int, ...],
    shell_command: str | None,
    resources: Mapping[str, Any],
    envs: list[EnvVar],
    storage: Mapping[str, Any],
    priority: str | None,
    label_texts: tuple[str, ...],
    file: Path | None,
    wait: bool,
    output: str,
    name: str,
) -> None:
    """Create a pod. Only you and admins of the workspace can enter it."""
    from leptonai.cli.requested import pod_of, read
    from leptonai.spec.containers import HOST_PORT_MAPPING, ContainerPort
    from leptonai.spec.endpoints import LeptonDeployment

    wanted = read(LeptonDeployment, file)
    keys = [read_key(Path(key).expanduser()) for key in ssh_keys]
    if not keys and not (wanted.spec.pod and wanted.spec.pod.ssh_keys):
        keys = default_keys()
    asked = pod_of(
        wanted,
        name=name,
        labels=labels(label_texts),
        command=("/bin/sh", "-c", shell_command) if shell_command else (),
        ports=[
            ContainerPort(container_port=port, expose_strategies=[HOST_PORT_MAPPING])
            for port in ports
        ],
        settings=given(
            ssh_keys=keys or None,
            ssh_listen=ssh_listen,
            jupyter=jupyter or None,
            idle_stop_seconds=idle_stop,
        ),
        priority=priority,
        envs=envs,
        resources=resources,
        storage=storage,
    )
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        submit(client, asked, wait=wait, output=output)


def submit(client: LeptonClient, asked: LeptonDeployment, *, wait: bool, output: str) -> None:
    """Create a pod, and say how to enter it."""
    made = client.pods.create(asked)
    name = made.metadata.name or ""
    if wait:
        say(f"created {name}; waiting until it can be entered")
        made = client.pods.wait_ready(name)
    if output == "json":
        print_json(made)
        return
    click.echo(f"created {name}")
    jupyter = made.spec.pod is not None and made.spec.pod.jupyter
    say(f"next: leptonai pod {'open' if jupyter else 'ssh'} {name}")


@pod.does("list", example="leptonai pod list\nleptonai pod list -o json")
@output_option
def list_(output: str) -> None:
    """List pods."""
    with connect() as client:
        found = client.pods.list()
    headers = ("NAME", "STATE", "NODE", "EACH", "AGE")
    none = "no pods yet; create one: leptonai pod create NAME"
    print_list(found, output, headers, _row, none=none)


@pod.does("get", example="leptonai pod get work\nleptonai pod get work -o json")
@output_option
@click.argument("name")
def get(output: str, name: str) -> None:
    """Show a pod."""
    with connect() as client:
        found = client.pods.get(name)
    print_json(found) if output == "json" else print_facts(_facts(found))


@pod.does("stop", example="leptonai pod stop work")
@output_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def stop(output: str, names: tuple[str, ...]) -> None:
    """End all that runs in pods. Their files stay."""
    with connect() as client:
        made = [client.pods.stop(name) for name in names]
    answer(made, output, *(f"stopping {name}; its files stay" for name in names))


@pod.does("start", example="leptonai pod start work\nleptonai pod start work --wait")
@click.option("--wait", is_flag=True, help="Return when it can be entered.")
@output_option
@click.argument("name")
def start(wait: bool, output: str, name: str) -> None:
    """Start a pod that was stopped, where its files are."""
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        made = client.pods.start(name)
        if wait:
            made = client.pods.wait_ready(name)
    answer(made, output, f"starting {name}")


@pod.does(
    "update",
    example="leptonai pod update work --idle-stop 4h\nleptonai pod update work --memory 64GiB",
)
@click.option(
    "--idle-stop",
    metavar="DURATION",
    type=Parsed("duration", lambda text: 0 if text == "never" else duration_s(text)),
    help='Stop it when so long nobody was in it; "never" ends that.',
)
@resource_options
@output_option
@click.argument("name")
def update(
    idle_stop: int | None,
    resources: Mapping[str, Any],
    output: str,
    name: str,
) -> None:
    """Change a pod. Another size starts it anew, with its files."""
    spec: dict[str, Any] = {}
    if resources:
        spec["resource_requirement"] = resources
    if idle_stop is not None:
        spec["pod"] = {"idle_stop_seconds": idle_stop or None}
    if not spec:
        raise click.UsageError("nothing to change: give at least one option")
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        made = client.pods.update(name, {"spec": spec})
    answer(made, output, f"updated {name}")


@pod.does(
    "remove",
    example="leptonai pod remove work\nleptonai pod remove work --yes\n"
    "leptonai pod remove work --keep-files",
)
@click.option("--keep-files", is_flag=True, help="Leave its files on their node.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_option
@click.argument("name")
def remove(keep_files: bool, yes: bool, output: str, name: str) -> None:
    """Stop a pod and forget it, with its files."""
    with connect() as client:
        found = client.pods.get(name)
        if not (yes or keep_files):
            try:
                click.confirm(f"remove {name} and all files in it?", abort=True, err=True)
            except click.Abort:
                say("nothing was removed; --yes does not ask, --keep-files keeps the files")
                raise
        client.pods.remove(name, keep_files=keep_files)
    if output == "json":
        print_json({"name": name, "action": "removed", "kept_files": keep_files})
        return
    click.echo(f"removed {name}")
    if keep_files and found.status and found.status.files:
        say(f"its files stay on node {found.status.node}, in {found.status.files}")


tells(
    pod,
    "a pod",
    "work",
    events=lambda client, name: client.pods.events(name),
    why=lambda client, name: client.endpoints.why(client.pods.get(name).metadata.name or name),
)


@pod.does("log", example="leptonai pod log work\nleptonai pod log -f work")
@click.option("-f", "--follow", is_flag=True, help="Go on until it ends.")
@click.argument("name")
def log(follow: bool, name: str) -> None:
    """Print what its command and the pod itself wrote."""
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        client.pods.get(name)
        for replica in client.endpoints.replicas(name):
            for line in client.endpoints.log(name, replica.id, follow=follow):
                click.echo(line)


@pod.does("open", example="leptonai pod open lab\nleptonai pod open lab --print")
@click.option("--print", "only_print", is_flag=True, help="Only print the link.")
@click.argument("name")
def open_(only_print: bool, name: str) -> None:
    """Open JupyterLab in a browser: starts it if it does not run, and installs it before that.

    The link works once, within a minute.
    """
    from leptonai.cli.pod_sessions import see_to_jupyter

    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        found = client.pods.wait_ready(name)
        see_to_jupyter(client, found)
        link = client.pods.login(name).url
    if only_print:
        click.echo(link)
        return
    say(f"opening {link.partition('?')[0]}; without a browser: leptonai pod open {name} --print")
    click.launch(link)


def _row(each: LeptonDeployment) -> tuple[str, ...]:
    return (
        each.metadata.name or "",
        state_of(each),
        (each.status.node or "") if each.status else "",
        resources_text(each.spec.resource_requirement),
        age(each.metadata.created_at),
    )


def _facts(each: LeptonDeployment) -> list[tuple[str, str]]:

    status, settings = each.status, each.spec.pod
    idle = settings.idle_stop_seconds if settings else None
    ports = (status.container_port_status or []) if status else []
    return [
        ("name", each.metadata.name or ""),
        ("state", state_of(each)),
        ("message", (status.message or "") if status else ""),
        ("owner", each.metadata.owner or ""),
        ("each", resources_text(each.spec.resource_requirement)),
        ("node", (status.node or "") if status else ""),
        ("files", (status.files or "") if status else ""),
        ("ports", ", ".join(f"{p.container_port}→{p.host_port}" for p in ports if p.host_port)),
        (
            "proxied",
            ", ".join(
                f"{p.container_port} at {p.external_endpoint}" for p in ports if p.external_endpoint
            ),
        ),
        ("ssh", "yes" if status and status.ssh_host_key else ""),
        ("jupyter", (status.jupyter or "") if status else ""),
        ("idle stop", f"after {span(idle)}" if idle else ""),
        ("created", f"{age(each.metadata.created_at)} ago" if each.metadata.created_at else ""),
    ]
