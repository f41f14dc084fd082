"""What all commands share: the client, and the options that mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from leptonai.cli.options import Options, as_one, together
from leptonai.errors import InvalidRequest, NotFound
from leptonai.spec.names import check_env_name, check_label, check_secret_name
from leptonai.spec.quantities import cpu_cores, gpus, memory_mib, priority_class

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.containers import EnvVar

    ParamType = click.ParamType[object]
else:
    ParamType = click.ParamType

T = TypeVar("T")

MOST_SHOWN = 1_000  # unless more are asked for
PATIENCE_S = 3.0  # with a platform that does not answer
FOLLOW_PATIENCE_S = 30.0  # where somebody is waiting anyway: it may be restarting


def connect(*, retry_for_s: float = PATIENCE_S) -> LeptonClient:
    """The client of the workspace that is meant; does not wait for a platform that is gone."""
    import os

    from leptonai.client import LeptonClient
    from leptonai.client.connection import lepton_home, local_platform, resolve

    if resolve().local:
        platform = local_platform(lepton_home(os.environ))
        if platform is not None and platform.process_is_gone:
            retry_for_s = 0.0
    return LeptonClient(retry_for_s=retry_for_s)


class Parsed(ParamType):
    """An option whose text a pure function of `spec` turns into its value."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except InvalidRequest as wrong:
            self.fail(f"{wrong.message}; {wrong.hint}", param, ctx)


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    help="What to print: a table for people, or JSON for programs.",
)


def _resources(
    resource_shape: str | None,
    cpu: float | None,
    memory: int | None,
    gpu: float | None,
    gpu_type: str | None,
) -> Mapping[str, object]:
    return given(
        resource_shape=resource_shape,
        cpu=cpu,
        memory=memory,
        accelerator_num=gpu,
        accelerator_type=gpu_type,
    )


def given(**options: object) -> Mapping[str, object]:
    """Those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


# What a worker or a replica needs: the command gets `resources`, fields of a spec.
resource_options = as_one(
    "resources",
    _resources,
    click.option("-rs", "--resource-shape", metavar="SHAPE", help="A named amount: cpu.small."),
    click.option("--cpu", type=Parsed("cores", cpu_cores), help="CPU cores: 2, 0.5, 500m."),
    click.option("--memory", type=Parsed("2GiB", memory_mib), help="Memory."),
    click.option("--gpu", type=Parsed("number", gpus), help="GPUs; 0.5 is half of one."),
    click.option("--gpu-type", metavar="TYPE", help="Of the GPUs."),
)


def variables(envs: Sequence[str], secrets: Sequence[str]) -> list[EnvVar]:
    """The variables that `--env` and `--secret` ask for; of several with one name, the last."""
    from leptonai.spec.containers import EnvVar, SecretReference

    found: dict[str, EnvVar] = {}
    for text in envs:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequest(
                f"--env {name} has no value", hint=f'write --env {name}=VALUE, or "{name}="'
            )
        check_env_name(name)
        found[name] = EnvVar(name=name, value=value)
    for text in secrets:
        name, _, of = text.partition("=")
        check_env_name(name)
        check_secret_name(of or name)
        found[name] = EnvVar(name=name, value_from=SecretReference(secret_name_ref=of or name))
    return [*found.values()]


# The command gets `envs`, variables.
variable_options = as_one(
    "envs",
    variables,
    click.option(
        "-e", "--env", "envs", multiple=True, metavar="NAME=VALUE", help="Set a variable."
    ),
    click.option(
        "-s",
        "--secret",
        "secrets",
        multiple=True,
        metavar="NAME|ENV=NAME",
        help="Set a variable to a secret's value.",
    ),
)


def existing_directory(text: str) -> Path:
    """Raises:
    NotFound: it is none.
    """
    directory = Path(text)
    if not text or not directory.is_dir():
        raise NotFound(
            f"{text or repr(text)} is not a directory",
            hint="name the directory that holds the files",
        )
    return directory


# What a worker or a replica finds around it.
environment_options = together(
    click.option("--container-image", metavar="IMAGE", help="Run in a container of this image."),
    variable_options,
    click.option(
        "--workdir",
        type=Parsed("directory", existing_directory),
        metavar="DIR",
        help="Ship this directory and run there; what its .gitignore names stays here.",
    ),
)


priority_option = click.option(
    "--priority",
    type=Parsed("priority", priority_class),
    help="low, mid or high, or 1 (last) to 9 (first).",
)


label_option = click.option(
    "--label", "label_texts", multiple=True, metavar="KEY=VALUE", help="To find it by."
)


def file_option(help: str) -> Options:
    """What `cli.requested` reads."""
    kind = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option("-f", "--file", "file", type=kind, help=help)


# How many workers a job has, and how it shares the machines with others.
gang_options = together(
    click.option("--num-workers", type=click.IntRange(min=1), help="Workers that run together."),
    click.option(
        "--min-workers",
        type=click.IntRange(min=1),
        help="Elastic: fewer will do, down to so many. Each change is a restart.",
    ),
    priority_option,
    click.option(
        "--preemptible",
        is_flag=True,
        default=None,
        help="More urgent jobs may take its place: it is stopped, and starts again by itself.",
    ),
    click.option(
        "--project", metavar="NAME", help="Whose quota it counts against; label `project`."
    ),
    label_option,
)


# What to wait for once a job is created.
waiting_options = together(
    click.option("--follow", is_flag=True, help="Print its log until it ends; fail if it fails."),
    click.option("--wait", is_flag=True, help="Return when it has ended; fail if it failed."),
)


def labels(texts: Sequence[str]) -> dict[str, str] | None:
    pairs: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        check_label(key, value)
        pairs[key] = value
    return pairs or None


limit_option = click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=MOST_SHOWN,
    show_default=True,
    help="At most so many.",
)


def first_of(found: Iterable[T], limit: int) -> tuple[list[T], bool]:
    """So many of them, and whether there are more."""
    some = [*islice(found, limit + 1)]
    return some[:limit], len(some) > limit
