"""`leptonai template`: workloads with parameters that are still to be filled in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import answer, print_facts, print_json, print_table
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect, output_option

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.templates import LeptonTemplate

template = Group(
    name="template",
    help="Keep workloads with parameters, and fill them in.",
    example="""\
leptonai template list
leptonai template start torchrun run="train.py --epochs 3" -n train
leptonai template render torchrun run="train.py --epochs 3" > job.json
leptonai template create -n nightly template.json""",
)


@template.does("list", example="leptonai template list")
@output_option
def list_(output: str) -> None:
    """List the templates that come with the platform, and the workspace's own."""
    with connect() as client:
        found = {scope: list(client.templates.list(scope)) for scope in ("public", "private")}
    if output == "json":
        print_json([each for some in found.values() for each in some])
        return
    rows = [_row(scope, each) for scope, some in found.items() for each in some]
    print_table(("TEMPLATE", "OF", "MAKES", "WHAT", "PARAMETERS"), rows)


@template.does("get", example="leptonai template get torchrun")
@click.argument("name")
@output_option
def get(name: str, output: str) -> None:
    """Show a template and its parameters."""
    with connect() as client:
        scope, found = _find(client, name)
    if output == "json":
        print_json(found)
        return
    schema = found.spec.json_schema or {}
    print_facts(
        (
            ("template", found.metadata.id or ""),
            ("of", scope),
            ("makes", _makes(found)),
            ("what", str(schema.get("description", ""))),
            *((name, _parameter(found, name)) for name in schema.get("properties") or {}),
        )
    )


@template.does(
    "render",
    example="""\
leptonai template render torchrun run="train.py --epochs 3"
leptonai template render vllm model=Qwen/Qwen3-8B tensor_parallel=2 -o json > endpoint.json""",
)
@click.argument("name")
@click.argument("values", nargs=-1, metavar="[PARAMETER=VALUE]...")
@output_option
def render(name: str, values: tuple[str, ...], output: str) -> None:
    """Print the workload that a template becomes, as JSON."""
    with connect() as client:
        scope, found = _find(client, name)
        made = client.templates.render(scope, name, _values(found, values))
    print_json(made if output == "json" else made.spec)


@template.does(
    "start",
    example="""\
leptonai template start torchrun run="train.py --epochs 3" -n train --follow
leptonai template start jupyterlab -n lab --wait
leptonai template start vllm model=Qwen/Qwen3-8B -n chat""",
)
@click.option("-n", "--name", required=True, help="Of the job, pod or endpoint.")
@click.option("--follow", is_flag=True, help="Print a job's log until it ends; fail if it fails.")
@click.option("--wait", is_flag=True, help="Return when a job has ended, or all else is ready.")
@output_option
@click.argument("template")
@click.argument("values", nargs=-1, metavar="[PARAMETER=VALUE]...")
def start(
    name: str, follow: bool, wait: bool, output: str, template: str, values: tuple[str, ...]
) -> None:
    """Start what a template becomes: a job, a pod or an endpoint.

    To change more of it than its parameters, `render` it into a file, and create it with -f.
    """
    from msgspec.structs import replace

    from leptonai.cli import endpoint, job_submission, pod
    from leptonai.cli.pod_keys import default_keys
    from leptonai.cli.requested import entering, named
    from leptonai.spec import codec
    from leptonai.spec.endpoints import EndpointSpec, LeptonDeployment
    from leptonai.spec.jobs import JobSpec, LeptonJob
    from leptonai.spec.metadata import Metadata
    from leptonai.spec.pods import PodSettings

    if follow and output == "json":
        raise click.UsageError("--follow prints a log, which is no JSON: use --wait")
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        scope, found = _find(client, template)
        kind = _makes(found)
        if follow and kind != "job":
            raise click.UsageError(f"--follow is for jobs, and {template} makes an endpoint or pod")
        metadata = named(Metadata(), kind, name, None)
        made = client.templates.render(scope, template, _values(found, values)).spec
        if kind == "job":
            asked = LeptonJob(metadata=metadata, spec=codec.convert(JobSpec, made))
            job_submission.submit(client, asked, None, follow=follow, wait=wait, output=output)
            return
        spec = codec.convert(EndpointSpec, made)
        if kind == "pod":
            settings = spec.pod or PodSettings()
            settings = replace(settings, ssh_keys=settings.ssh_keys or default_keys() or None)
            asked_pod = LeptonDeployment(metadata=metadata, spec=replace(spec, pod=settings))
            pod.submit(client, asked_pod, wait=wait, output=output)
            return
        spec = replace(spec, api_tokens=entering(spec))
        served = LeptonDeployment(metadata=metadata, spec=spec)
        endpoint.submit(client, served, wait=wait, output=output)


@template.does(
    "create",
    example="""\
leptonai template create -n nightly template.json
leptonai template get torchrun -o json   # what such a file looks like: its `spec`""",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-n", "--name", required=True)
@output_option
def create(file: Path, name: str, output: str) -> None:
    """Keep a template of the workspace's own. FILE is JSON: content, json_schema, workload_type."""
    from leptonai.spec import codec
    from leptonai.spec.templates import TemplateSpec

    whole = codec.parse(file.read_bytes())
    spec = whole.get("spec", whole) if isinstance(whole, dict) else whole
    with connect() as client:
        made = client.templates.create(name, codec.convert(TemplateSpec, spec))
    answer(made, output, f"created {name}")


@template.does("remove", example="leptonai template remove nightly")
@click.argument("name")
@output_option
def remove(name: str, output: str) -> None:
    """Remove a template of the workspace's own; what was made of it stays."""
    with connect() as client:
        client.templates.remove(name)
    answer({"name": name, "action": "removed"}, output, f"removed {name}")


def _find(client: LeptonClient, name: str) -> tuple[str, LeptonTemplate]:
    for each in client.templates.list("public"):
        if each.metadata.id == name:
            return "public", each
    return "private", client.templates.get("private", name)


def _makes(found: LeptonTemplate) -> str:
    kind = found.spec.workload_type
    return "endpoint" if kind == "deployment" else kind


def _values(found: LeptonTemplate, texts: tuple[str, ...]) -> dict[str, Any]:
    """As the template's schema types them."""
    properties = (found.spec.json_schema or {}).get("properties") or {}
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"{text!r} is no PARAMETER=VALUE")
        kind = str((properties.get(name) or {}).get("type", "string"))
        values[name] = _typed(name, kind, value)
    return values


def _typed(name: str, kind: str, value: str) -> Any:
    if kind == "string":
        return value
    if kind == "boolean":
        if value not in ("true", "false"):
            raise click.UsageError(f"{name} is true or false")
        return value == "true"
    try:
        return int(value) if kind == "integer" else float(value)
    except ValueError:
        raise click.UsageError(f"{name} is a number") from None


def _parameter(found: LeptonTemplate, name: str) -> str:
    schema = found.spec.json_schema or {}
    parameter = (schema.get("properties") or {})[name]
    about = str(parameter.get("description", parameter.get("type", "string")))
    if "default" in parameter:
        return f"{about} (default: {parameter['default']})"
    return f"{about} (required)" if name in (schema.get("required") or ()) else about


def _row(scope: str, each: LeptonTemplate) -> tuple[str, ...]:
    schema = each.spec.json_schema or {}
    return (
        each.metadata.id or "",
        scope,
        _makes(each),
        str(schema.get("description", "")),
        ", ".join(schema.get("properties") or {}),
    )
