"""`leptonai endpoint`: servers behind the gateway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.endpoint_log import log
from leptonai.cli.endpoint_views import facts_of, print_requests, row_of, url_of
from leptonai.cli.engine_options import asked_engine, engine_options
from leptonai.cli.gateway_options import (
    addresses_patch,
    admitting,
    gateway_options,
    gateway_patch,
    overridden,
)
from leptonai.cli.groups import Group
from leptonai.cli.mounts import storage_options
from leptonai.cli.output import answer, print_facts, print_json, print_list, say
from leptonai.cli.rollout import rollout, rollout_options
from leptonai.cli.scaling import scaling_options
from leptonai.cli.session import (
    FOLLOW_PATIENCE_S,
    connect,
    environment_options,
    file_option,
    given,
    label_option,
    labels,
    output_option,
    priority_option,
    resource_options,
)
from leptonai.cli.telling import tells
from leptonai.cli.views import (
    print_dry_run,
    print_replicas,
)
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.containers import EnvVar
    from leptonai.spec.endpoints import LeptonDeployment
    from leptonai.spec.rollouts import RolloutPlan

endpoint = Group(
    name="endpoint",
    help="Serve models and programs over HTTP, behind the gateway.",
    example="""\
leptonai endpoint create -n digits --model digits-cnn
leptonai endpoint list
leptonai endpoint update digits --replicas 2""",
)
endpoint.add_command(log)
endpoint.add_command(rollout)


@endpoint.does(
    "create",
    context_settings={"allow_interspersed_args": False},
    example="""\
leptonai endpoint create -n digits --model digits-cnn --replicas 2
leptonai endpoint create -n digits --model digits-cnn@production
leptonai endpoint create -n digits --model digits-cnn --max-replicas 8 \\
    --target-concurrency 4 --scale-to-zero-after 10m
leptonai endpoint create -n counter --photon counter
leptonai endpoint create -n files --port 8000 --command 'python -m http.server $PORT'
leptonai endpoint create -n chat --model tiny-chat --rate-limit 60 --token-limit 20000
leptonai endpoint create -n chat --model big-chat --gpu 2 --engine vllm
leptonai endpoint create -n app --workdir . --port 8080 --tokens my-secret-token -- \\
    python serve.py""",
)
@click.option("-n", "--name", help="Lower-case letters, digits and dashes; part of its URL.")
@click.option("--model", metavar="NAME[@VERSION|@ALIAS]", help="Serve this registered model.")
@click.option("--photon", metavar="NAME[@VERSION|@ALIAS]", help="Serve this registered photon.")
@click.option("--command", "shell_command", metavar="LINE", help="Run this line of shell.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where the command listens: $PORT.")
@scaling_options
@click.option("--tokens", multiple=True, metavar="TOKEN", help="Let its bearer in.")
@click.option("--public", is_flag=True, help="Let everybody in, without a token.")
@click.option("--health-path", metavar="PATH", help="Ready when GET PATH answers below 400.")
@resource_options
@environment_options
@storage_options
@priority_option
@engine_options
@gateway_options
@label_option
@file_option("Read the endpoint from a JSON file; flags override it.")
@click.option("--dry-run", is_flag=True, help="Only say where and when it would start.")
@click.option("--wait", is_flag=True, help="Return when it is ready.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Wait at most so many seconds.")
@output_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def create(
    name: str | None,
    model: str | None,
    photon: str | None,
    shell_command: str | None,
    port: int | None,
    scaling: Mapping[str, Any],
    tokens: tuple[str, ...],
    public: bool,
    health_path: str | None,
    resources: Mapping[str, Any],
    container_image: str | None,
    envs: list[EnvVar],
    workdir: Path | None,
    storage: Mapping[str, Any],
    priority: str | None,
    engine: str | None,
    engine_options: tuple[str, ...],
    label_texts: tuple[str, ...],
    file: Path | None,
    dry_run: bool,
    wait: bool,
    timeout: float | None,
    output: str,
    command: tuple[str, ...],
    **gateway: Any,
) -> None:
    """Create an endpoint, from a registered model or photon, or from a command.

    Without --tokens and --public, the tokens of the workspace open it.
    """
    from leptonai.cli.photon import as_its_template, registered_photon
    from leptonai.cli.requested import endpoint_of, read
    from leptonai.spec.endpoints import LeptonDeployment

    if photon is not None and model is not None:
        raise click.UsageError("--model and --photon exclude each other")
    served_by = asked_engine(engine, engine_options, model)
    asked = endpoint_of(
        read(LeptonDeployment, file),
        name=name,
        labels=labels(label_texts),
        model=model or photon,
        command=_argv(shell_command, command),
        image=container_image,
        port=port,
        scaling=scaling,
        tokens=tokens,
        public=public,
        health_path=health_path or served_by.health_path,
        priority=priority,
        envs=[*served_by.variables, *envs],
        resources=resources,
    )
    asked = _with(
        asked,
        gateway=overridden(asked.spec.gateway, gateway_patch(gateway)),
        auth_config=admitting(asked.spec.auth_config, addresses_patch(gateway)),
        **storage,
    )
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        if photon is not None:
            version = registered_photon(client, photon)
            asked = as_its_template(_with(asked, model=version.reference), version)
        elif asked.spec.model is not None:
            asked = _with(asked, model=_version(client, asked.spec.model))
        if dry_run:
            print_dry_run(client.endpoints.dry_run(asked), output)
            return
        if workdir is not None:
            asked = _with(asked, workdir=client.trees.push(workdir))
        submit(client, asked, wait=wait, timeout_s=timeout, output=output)


def submit(
    client: LeptonClient,
    asked: LeptonDeployment,
    *,
    wait: bool,
    output: str,
    timeout_s: float | None = None,
) -> None:
    """Create an endpoint, and print where it is asked."""
    made = client.endpoints.create(asked)
    name = made.metadata.name or ""
    if wait:
        say(f"created {name}; waiting until it is ready")
        made = client.endpoints.wait_ready(name, timeout_s)
    if output == "json":
        print_json(made)
        return
    click.echo(url_of(made) or name)
    if not wait:
        say(f"next: leptonai endpoint why {name}")


@endpoint.does("list", example="leptonai endpoint list\nleptonai endpoint list -o json")
@output_option
def list_(output: str) -> None:
    """List endpoints."""
    with connect() as client:
        found = client.endpoints.list()
    print_list(
        found,
        output,
        ("NAME", "STATE", "READY", "AGE", "URL"),
        row_of,
        none="no endpoints yet; create one: leptonai endpoint create -n NAME --model MODEL",
    )


@endpoint.does(
    "get",
    example="""\
leptonai endpoint get digits
leptonai endpoint get digits --plot
leptonai endpoint get digits -o json""",
)
@click.option("--plot", is_flag=True, help="Draw the requests that it is scaled by.")
@output_option
@click.argument("name")
def get(plot: bool, output: str, name: str) -> None:
    """Show an endpoint."""
    with connect() as client:
        found = client.endpoints.get(name)
        if output == "json":
            print_json(client.endpoints.requests(name) if plot else found)
            return
        replicas = client.endpoints.replicas(name)
        requests = client.endpoints.requests(name) if plot else None
    print_facts(facts_of(found))
    if replicas:
        click.echo()
        print_replicas(replicas)
    if requests is not None:
        click.echo()
        print_requests(requests)


@endpoint.does(
    "update",
    example="""\
leptonai endpoint update digits --replicas 2
leptonai endpoint update digits --min-replicas 1 --max-replicas 8 --slo 'p95<200ms'
leptonai endpoint update digits --schedule 'Mon-Fri 08:00-18:00 min=4'
leptonai endpoint update digits --model digits-cnn@2
leptonai endpoint update digits --model digits-cnn@2 --canary 10%
leptonai endpoint update digits -e THREADS=4 --strategy blue-green
leptonai endpoint update digits -e THREADS=4 --shadow 20%
leptonai endpoint update digits --retry always --balance cookie
leptonai endpoint update digits --hedge p95
leptonai endpoint update digits --domain digits.example.org
leptonai endpoint update digits --allow-address 10.0.0.0/8 --allow-address 192.0.2.7
leptonai endpoint update digits --replicas 0         # stops it""",
)
@click.option("--model", metavar="NAME[@VERSION|@ALIAS]", help="Serve this registered model.")
@click.option("--command", "shell_command", metavar="LINE", help="Run this line of shell.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where the command listens.")
@scaling_options
@click.option("--tokens", multiple=True, metavar="TOKEN", help="In place of all old ones.")
@click.option("--public/--no-public", default=None, help="Let everybody in, or only tokens.")
@resource_options
@environment_options
@priority_option
@rollout_options
@gateway_options
@output_option
@click.argument("name")
def update(
    model: str | None,
    shell_command: str | None,
    port: int | None,
    scaling: Mapping[str, Any],
    tokens: tuple[str, ...],
    public: bool | None,
    resources: Mapping[str, Any],
    container_image: str | None,
    envs: list[EnvVar],
    workdir: Path | None,
    priority: str | None,
    plan: RolloutPlan | None,
    output: str,
    name: str,
    **gateway: Any,
) -> None:
    """Change an endpoint. Replicas are replaced one after another where that is needed, or as
    --strategy, --canary or --shadow says: `leptonai endpoint rollout` follows that."""
    from leptonai.cli.requested import merged_variables

    resources = {**resources, **scaling.get("resource_requirement", {})}
    container = given(
        command=list(_argv(shell_command, ())) or None,
        image=container_image,
        ports=None if port is None else [{"container_port": port}],
    )
    spec: dict[str, Any] = dict(
        given(
            model=model,
            api_tokens=[{"value": token} for token in tokens] or None,
            allow_unauthenticated_access=public,
            resource_requirement=resources or None,
            container=container or None,
            queue_config=None if priority is None else {"priority_class": priority},
            gateway=gateway_patch(gateway) or None,
            auth_config=addresses_patch(gateway) or None,
        )
    )
    if "auto_scaler" in scaling:
        spec["auto_scaler"] = scaling["auto_scaler"]
    if shell_command is not None and model is None:
        spec["model"] = None  # a command takes the place of a model
    changed = envs
    if not (spec or changed or workdir):
        raise click.UsageError("nothing to change: give at least one option")
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        if model is not None:
            spec["model"] = _version(client, model)
        if changed:
            spec["envs"] = merged_variables(client.endpoints.get(name).spec.envs, changed)
        if workdir is not None:
            spec["workdir"] = client.trees.push(workdir)
        made = client.endpoints.update(name, {"spec": spec}, rollout=plan)
    if output == "json":
        print_json(made)
    else:
        click.echo(f"updated {name}")
        follow = "why" if plan is None else "rollout status"
        say(f"next: leptonai endpoint {follow} {name}")


@endpoint.does("remove", example="leptonai endpoint remove digits")
@output_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove(output: str, names: tuple[str, ...]) -> None:
    """Stop endpoints and forget them."""
    with connect() as client:
        for name in names:
            client.endpoints.remove(name)
            if output == "table":
                click.echo(f"removed {name}")
    if output == "json":
        print_json([{"name": name, "action": "removed"} for name in names])


@endpoint.does("restart", example="leptonai endpoint restart digits")
@output_option
@click.argument("name")
def restart(output: str, name: str) -> None:
    """Replace every replica, one after another."""
    with connect() as client:
        made = client.endpoints.restart(name)
    answer(made, output, f"restarting {name}")


tells(
    endpoint,
    "an endpoint",
    "digits",
    events=lambda client, name: client.endpoints.events(name),
    why=lambda client, name: client.endpoints.why(name),
)


def _argv(shell_command: str | None, command: Sequence[str]) -> Sequence[str]:
    if shell_command is None:
        return command
    if command:
        raise click.UsageError("--command and a command after -- exclude each other")
    if not shell_command.strip():
        raise InvalidRequest("the command is empty", hint="for example --command 'python app.py'")
    return ("/bin/sh", "-c", shell_command)


def _version(client: LeptonClient, model: str) -> str:
    """The version that it means now: an endpoint does not change by itself."""
    return client.models.get(model).reference


def _with(asked: LeptonDeployment, **changes: Any) -> LeptonDeployment:
    import msgspec

    return msgspec.structs.replace(asked, spec=msgspec.structs.replace(asked.spec, **changes))
