"""The entry of the command line: runs it, and says in two lines what went wrong."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from leptonai import __version__
from leptonai.cli.groups import LazyGroup
from leptonai.errors import LeptonError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells say it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
TRACEBACK_VARIABLE = "LEPTON_TRACEBACK"


def _print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(f"leptonai {__version__}")
        context.exit()


root = LazyGroup(
    name="leptonai",
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version and exit.",
        )
    ],
    help="An open AI cloud that you run yourself: jobs, endpoints, datasets and models.",
    lazy={
        "up": ("leptonai.cli.platform:up", "Start the platform on this machine."),
        "down": ("leptonai.cli.platform:down", "Stop the platform and what it runs."),
        "status": ("leptonai.cli.platform:status", "Show whether the platform runs, and where."),
        "doctor": ("leptonai.cli.platform:doctor", "Check what this machine can do."),
        "job": ("leptonai.cli.job:job", "Run commands to their end, on one or many workers."),
        "train": ("leptonai.cli.train:train", "Train a model, on one or many workers."),
        "photon": ("leptonai.cli.photon:photon", "Pack and run model servers written as classes."),
        "endpoint": ("leptonai.cli.endpoint:endpoint", "Serve models and programs over HTTP."),
        "ingress": ("leptonai.cli.ingress:ingress", "Have domains lead to endpoints."),
        "template": ("leptonai.cli.template:template", "Fill in workloads with parameters."),
        "raycluster": ("leptonai.cli.raycluster:raycluster", "Run Ray, and Ray jobs on it."),
        "pod": ("leptonai.cli.pod:pod", "Work on a machine: shell, SSH, JupyterLab, files."),
        "dataset": ("leptonai.cli.dataset:dataset", "Keep versions of data, and fetch them."),
        "model": ("leptonai.cli.model:model", "Register and fetch trained models."),
        "node": ("leptonai.cli.node:node", "See the machines and what is free on them."),
        "pipeline": ("leptonai.cli.pipeline:pipeline", "Fit what prepares data, and look at it."),
        "storage": ("leptonai.cli.storage:storage", "Keep files that outlive what runs."),
        "object": ("leptonai.cli.objects:object_", "Keep files by name, for all workloads."),
        "kv": ("leptonai.cli.kv:kv", "Keep small values by key, for all workloads."),
        "queue": ("leptonai.cli.queue:queue", "Hand messages from workload to workload."),
        "quota": ("leptonai.cli.quota:quota", "Guarantee users and projects a part of it all."),
        "secret": ("leptonai.cli.secret:secret", "Keep values that workloads need."),
        "run": ("leptonai.cli.run:run", "See what trainings measured, compare and plot it."),
        "simulate": (
            "leptonai.cli.simulate:simulate",
            "Ask what a policy would do with a workload.",
        ),
        "token": ("leptonai.cli.tokens:token", "Give people tokens, and take them back."),
        "workspace": ("leptonai.cli.workspace:workspace", "Show the workspace that is used."),
    },
    example="""\
leptonai up -d
leptonai job create -n hello -- echo hi
leptonai job log -f hello""",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Never returns: exits with 0 on success only."""
    _fill_standard_streams()
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # whatever the terminal cannot show becomes "?"
            stream.reconfigure(errors="replace")
    try:
        with root.make_context("leptonai", list(arguments)) as context:
            root.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as asked:
        return _flushed(asked.exit_code)
    except click.exceptions.NoArgsIsHelpError as empty:
        click.echo(empty.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as wrong:
        at = wrong.ctx.command_path if wrong.ctx else "leptonai"
        _complain(wrong.format_message(), f"see `{at} --help`")
        return EXIT_USAGE
    except click.ClickException as failure:
        _complain(failure.format_message(), "")
        return EXIT_FAILED
    except LeptonError as failure:
        _complain(failure.message, failure.hint)
        return EXIT_FAILED
    except (KeyboardInterrupt, EOFError, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as failure:
        _forget_stdout()
        _complain(_of_the_system(failure), "look at the place it names; `leptonai doctor` helps")
        return EXIT_FAILED
    except Exception as fault:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        _complain(
            f"a fault of leptonai itself: {type(fault).__name__}: {fault}",
            f"please report it, with what {TRACEBACK_VARIABLE}=1 shows",
        )
        return EXIT_FAILED
    return 0


def _fill_standard_streams() -> None:
    """Where the caller closed some, the next files would take their numbers, and our words."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - for all our life


def _flushed(exit_code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
        return EXIT_BROKEN_PIPE
    return exit_code


def _forget_stdout() -> None:
    """What it still holds reaches nobody, and the interpreter's last flush must not fail loudly."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):  # in tests it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, hint: str) -> None:
    """One line of what happened, one line of what to do."""
    click.echo(f"error: {_one_line(message)}", err=True)
    if hint:
        click.echo(f"hint: {_one_line(hint)}", err=True)


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _of_the_system(failure: OSError) -> str:
    reason = (failure.strerror or str(failure)).lower()
    return f"{failure.filename}: {reason}" if failure.filename else reason


if __name__ == "__main__":
    main()
