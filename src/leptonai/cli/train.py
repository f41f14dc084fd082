"""`leptonai train`: a training script, on as many workers as asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.groups import Command
from leptonai.cli.job_submission import submit
from leptonai.cli.mounts import storage_options
from leptonai.cli.session import (
    FOLLOW_PATIENCE_S,
    connect,
    environment_options,
    gang_options,
    given,
    labels,
    output_option,
    resource_options,
    waiting_options,
)
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.spec.containers import EnvVar

RETRIES = 3  # of the gang: each goes on from the last checkpoint
WISHED_PORT = 2222  # of each worker, for tf.distribute; any other one will do
DATASET_VARIABLE = "LEPTON_DATASET"
LABEL = "kind=training"

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@click.command(
    "train",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    example="""\
leptonai train train.py
leptonai train --num-workers 2 --cpu 1 --dataset digits@1 train.py -- --epochs 5
leptonai train --mount data:/mnt/data train.py -- --data /mnt/data
leptonai train --gpu 8 --num-workers 4 --preemptible my_package.train""",
)
@click.option("-n", "--name", help="Of the job; by default the script's.")
@click.option(
    "--dataset", metavar="NAME[@VERSION]", help=f"Told to the script: ${DATASET_VARIABLE}."
)
@resource_options
@environment_options
@storage_options
@gang_options
@click.option(
    "--max-job-failure-retry",
    type=click.IntRange(min=0),
    default=RETRIES,
    show_default=True,
    help="How often all workers go back to the last checkpoint.",
)
@waiting_options
@output_option
@click.argument("script", metavar="SCRIPT|MODULE")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS...]")
def train(
    name: str | None,
    num_workers: int | None,
    min_workers: int | None,
    dataset: str | None,
    resources: Mapping[str, Any],
    container_image: str | None,
    envs: list[EnvVar],
    workdir: Path | None,
    storage: Mapping[str, Any],
    priority: str | None,
    preemptible: bool | None,
    project: str | None,
    max_job_failure_retry: int,
    label_texts: tuple[str, ...],
    follow: bool,
    wait: bool,
    output: str,
    script: str,
    arguments: tuple[str, ...],
) -> None:
    """Train: a job whose workers find each other.

    SCRIPT is shipped with the folder it lies in, or with --workdir; a MODULE is run as `python -m`.
    Workers get what torchrun, PyTorch and TensorFlow read, so a script that is distributed needs no
    change. When a worker fails, all go back to the last checkpoint; but not when it exits with 78,
    which says that another try would end the same.
    """
    from msgspec.structs import replace

    from leptonai.cli.requested import job_of, merged_variables, read
    from leptonai.spec.containers import ContainerPort, EnvVar
    from leptonai.spec.jobs import FINAL_EXIT_CODE, LeptonJob

    if follow and output == "json":
        raise click.UsageError("--follow prints a log, which is no JSON: use --wait")
    if arguments[:1] == ("--",):  # which only says that what follows is the script's own
        arguments = arguments[1:]
    directory, command = _program(
        script, workdir, processes=int(resources.get("accelerator_num", 0))
    )
    asked = job_of(
        read(LeptonJob, None),
        name=name or _name_of(script),
        labels=labels((LABEL, *label_texts, *([f"project={project}"] if project else []))),
        command=(*command, *arguments),
        image=container_image,
        workers=num_workers,
        priority=priority,
        preemptible=preemptible,
        envs=envs,
        # An elastic gang comes and goes in places that no port can be kept for.
        ports=() if min_workers else (ContainerPort(container_port=WISHED_PORT),),
        overrides=given(
            **resources,
            **storage,
            min_workers=min_workers,
            max_job_failure_retry=max_job_failure_retry,
            final_exit_codes=[FINAL_EXIT_CODE],
            include_workspace_token=True,
        ),
    )
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        if dataset is not None:
            meant = client.datasets.get(dataset)  # its version, whatever becomes the newest later
            variable = EnvVar(name=DATASET_VARIABLE, value=meant.reference)
            told = merged_variables(asked.spec.envs, [variable])
            asked = replace(asked, spec=replace(asked.spec, envs=told))
        submit(client, asked, directory, follow=follow, wait=wait, output=output)


def _program(
    script: str, workdir: Path | None, *, processes: int
) -> tuple[Path | None, tuple[str, ...]]:
    """The folder to ship, and the command to run in it."""
    # With several GPUs each needs a process of its own, and torchrun starts them.
    python = ("torchrun",) if processes > 1 else ("python",)
    path = Path(script)
    if path.is_file():
        root = workdir or path.parent
        try:
            inside = path.resolve().relative_to(root.resolve())
        except ValueError:
            raise InvalidRequest(
                f"{script} does not lie in {root}", hint="name a --workdir that holds it"
            ) from None
        return root, (*python, str(inside))
    if path.suffix == ".py" or not _MODULE.fullmatch(script):
        raise InvalidRequest(
            f"there is no script {script}", hint="name a file, or a module that can be imported"
        )
    return workdir, (*python, "-m", script)


def _name_of(script: str) -> str:
    """Of `my_package/train.py`: train."""
    stem = script.rpartition("/")[2].removesuffix(".py").rpartition(".")[2]
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "train"
