"""`leptonai photon`: model servers that are written as classes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import age, answer, print_json, print_list, print_table, say
from leptonai.cli.progress import Progress
from leptonai.cli.scaling import scaling_options
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect, given, output_option
from leptonai.errors import AlreadyExists, InvalidRequest, NotFound
from leptonai.spec.names import check_name

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.artifacts import Artifact
    from leptonai.spec.endpoints import LeptonDeployment
    from leptonai.spec.photons import Packed

photon = Group(
    name="photon",
    help="Pack model servers that are written as classes, and run them.",
    example="""\
leptonai photon create -n counter -m counter.py:Counter
leptonai photon run -n counter --local --port 9000
leptonai photon run -n counter""",
)

_model_option = click.option(
    "-m", "--model", "reference", metavar="FILE.py[:Class]", help="Where its class is written."
)
_name_option = click.option("-n", "--name", required=True, help="Of the photon.")


@photon.does("create", example="leptonai photon create -n counter -m counter.py:Counter")
@_name_option
@click.option(
    "-m",
    "--model",
    "reference",
    required=True,
    metavar="FILE.py[:Class]",
    help="Where its class is written.",
)
@output_option
def create(name: str, reference: str, output: str) -> None:
    """Pack a photon on this machine: its source, and what it requires.

    The file is run, to learn what its class asks for.
    """
    packed = _pack(name, reference)
    if output == "json":
        print_json(packed)
    else:
        click.echo(str(_folder(name)))
        say(f"next: leptonai photon run -n {name}")


@photon.does("push", example="leptonai photon push -n counter")
@_name_option
@output_option
def push(name: str, output: str) -> None:
    """Register a packed photon as the next version of its name."""
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        made = _push(client, name)
    answer(made, output, made.reference)


@photon.does("list", example="leptonai photon list\nleptonai photon list --local")
@click.option("--local", is_flag=True, help="Those that are packed on this machine.")
@output_option
def list_(local: bool, output: str) -> None:
    """List the registered ones."""
    if local:
        names = sorted(each.parent.name for each in _home().glob("*/photon.json"))
        if output == "json":
            print_json([{"name": name, "directory": str(_folder(name))} for name in names])
        elif names:
            print_table(("PHOTON", "DIRECTORY"), [(name, str(_folder(name))) for name in names])
        else:
            say("none is packed here; make one: leptonai photon create -n NAME -m FILE.py")
        return
    from leptonai.spec.photons import FORMAT

    with connect() as client:
        found = [each for each in client.models.list() if each.spec.format == FORMAT]
    print_list(
        found,
        output,
        ("PHOTON", "CLASS", "REQUIRES", "AGE"),
        lambda each: (
            each.reference,
            str(each.spec.attributes.get("class", "")),
            ", ".join(each.spec.attributes.get("requirement_dependency", ())),
            age(each.metadata.created_at),
        ),
        none="no photons yet; make one: leptonai photon run -n NAME -m FILE.py",
    )


@photon.does(
    "run",
    example="""\
leptonai photon run -n counter -m counter.py:Counter
leptonai photon run -n counter --max-replicas 4 --target-concurrency 2 --scale-to-zero-after 10m
leptonai photon run -n counter --local --port 9000""",
)
@_name_option
@_model_option
@click.option("--local", is_flag=True, help="On this machine, in this terminal.")
@click.option("--port", type=click.IntRange(1, 65535), help="With --local: 8080 if not given.")
@scaling_options
@click.option("-rs", "--resource-shape", metavar="SHAPE", help="A named amount: cpu.small.")
@click.option("--public", is_flag=True, help="Let everybody in, without a token.")
@output_option
def run(
    name: str,
    reference: str | None,
    local: bool,
    port: int | None,
    scaling: Mapping[str, Any],
    resource_shape: str | None,
    public: bool,
    output: str,
) -> None:
    """Serve a photon as an endpoint of its name; with --local, here."""
    from leptonai.serving.packing import serve_packed

    if port is not None and not local:
        raise click.UsageError("--port goes with --local: the platform chooses an endpoint's port")
    if reference is not None:
        _pack(name, reference)
    if local:
        serve_packed(_packed_folder(name), port=port)
        return
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        if (_folder(name) / "photon.json").exists():
            version = _push(client, name)
        else:
            version = registered_photon(client, name)
        asked = _endpoint(name, version, given(resource_shape=resource_shape), scaling, public)
        try:
            made = client.endpoints.create(asked)
        except AlreadyExists as there:
            raise AlreadyExists(
                there.message,
                hint=f"let it serve this: leptonai endpoint update {name} "
                f"--model {version.reference}",
                existing_id=there.existing_id,
            ) from None
    if output == "json":
        print_json(made)
        return
    click.echo(made.status.endpoint.external_endpoint if made.status else name)
    say(f"next: leptonai endpoint why {name}")


@photon.does("remove", example="leptonai photon remove counter@1\nleptonai photon remove counter")
@click.option("--local", is_flag=True, help="What is packed on this machine.")
@output_option
@click.argument("references", nargs=-1, required=True, metavar="NAME[@VERSION]...")
def remove(local: bool, output: str, references: tuple[str, ...]) -> None:
    """Forget a version, or all versions of a name."""
    if local:
        for name in references:
            shutil.rmtree(_packed_folder(name))
    else:
        with connect() as client:
            for reference in references:
                registered_photon(client, reference)
                client.models.remove(reference)
    if output == "json":
        print_json([{"reference": each, "action": "removed"} for each in references])
    else:
        for reference in references:
            click.echo(f"removed {reference}")


def registered_photon(client: LeptonClient, reference: str) -> Artifact:
    """
    Raises:
        InvalidRequest: it is a model.
        NotFound: nothing of this name is registered.
    """
    from leptonai.spec.photons import FORMAT

    found = client.models.get(reference)
    if found.spec.format != FORMAT:
        raise InvalidRequest(
            f"{reference} is a model, not a photon", hint="see `leptonai photon list`"
        )
    return found


def _pack(name: str, reference: str) -> Packed:
    from leptonai.serving.packing import pack

    check_name(name, "photon")
    folder = _folder(name)
    making = folder.with_name(f".{name}")  # what fails leaves the old one
    shutil.rmtree(making, ignore_errors=True)
    try:
        packed = pack(reference, making, name)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    making.rename(folder)
    return packed


def _push(client: LeptonClient, name: str) -> Artifact:
    from leptonai.serving.packing import read_packed
    from leptonai.spec.photons import FORMAT

    folder = _packed_folder(name)
    facts = read_packed(folder).facts
    with Progress("storing", interrupted="nothing was registered") as progress:
        return client.models.push(name, folder, format=FORMAT, attributes=facts, progress=progress)


def _endpoint(
    name: str, version: Artifact, resources: Any, scaling: Mapping[str, Any], public: bool
) -> Any:
    from leptonai.cli.requested import endpoint_of, read
    from leptonai.spec.endpoints import LeptonDeployment

    asked = endpoint_of(
        read(LeptonDeployment, None),
        name=name,
        labels={},
        model=version.reference,
        command=(),
        image=None,
        port=None,
        scaling=scaling,
        tokens=(),
        public=public,
        health_path=None,
        priority=None,
        envs=(),
        resources=resources,
    )
    return as_its_template(asked, version)


def as_its_template(asked: LeptonDeployment, version: Artifact) -> LeptonDeployment:
    """With what the photon's own template says, where nothing else was asked for.

    Raises:
        InvalidRequest: a variable that the photon needs is not given.
    """
    from msgspec.structs import replace

    from leptonai.cli.requested import merged_variables
    from leptonai.cli.session import variables
    from leptonai.serving.packing import required_variables, template_variables

    template = version.spec.attributes.get("deployment_template") or {}
    envs = tuple(f"{name}={value}" for name, value in template_variables(template).items())
    secrets = tuple(str(secret) for secret in template.get("secret") or ())
    merged = merged_variables(variables(envs, secrets), asked.spec.envs or ())
    missing = sorted({*required_variables(template)} - {each.name for each in merged})
    if missing:
        options = " ".join(f"-e {name}=…" for name in missing)
        raise InvalidRequest(
            f"the photon {version.reference} needs {', '.join(missing)}",
            hint=f"leptonai endpoint create -n {asked.metadata.name} "
            f"--photon {version.reference} {options}",
        )
    size = asked.spec.resource_requirement
    if not (size.resource_shape or size.cpu or size.memory or size.accelerator_num):
        size = replace(size, resource_shape=template.get("resource_shape") or None)
    return replace(asked, spec=replace(asked.spec, envs=merged or None, resource_requirement=size))


def _home() -> Path:
    import os

    from leptonai.client.connection import lepton_home

    return lepton_home(os.environ) / "photons"


def _folder(name: str) -> Path:
    check_name(name, "photon")
    return _home() / name


def _packed_folder(name: str) -> Path:
    folder = _folder(name)
    if not (folder / "photon.json").exists():
        raise NotFound(
            f"no photon called {name} is packed on this machine",
            hint=f"make one: leptonai photon create -n {name} -m FILE.py",
        )
    return folder
