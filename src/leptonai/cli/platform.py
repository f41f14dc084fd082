"""up, down, status and doctor: the platform on this machine."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from leptonai import errors
from leptonai.cli.output import print_facts, print_json, print_table, say
from leptonai.home import OPTIONS_VARIABLE, Home, PlatformState, refuse_if_locked_out
from leptonai.otlp import check_url

READY_WITHIN_S = 60.0
LOOK_AGAIN_S = 0.02

as_json = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to answer."
)


@click.command(
    epilog="Example: leptonai up -d --port 8420",
)
@click.option("-d", "--detach", is_flag=True, help="Return when ready; the platform goes on.")
@click.option("--port", default=8420, show_default=True, help="Of the API; 0 takes any free port.")
@click.option(
    "--gateway-port", default=8421, show_default=True, help="Of the gateway; 0 takes any free port."
)
@click.option(
    "--gateway",
    type=click.Choice(["own", "envoy"]),
    default="own",
    show_default=True,
    help="envoy: have Envoy serve what needs nothing else of the gateway.",
)
@click.option(
    "--access-log", is_flag=True, help="Have the gateway write a line of JSON for each request."
)
@click.option(
    "--otlp-endpoint",
    default="",
    envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
    metavar="URL",
    help="Have the gateway send spans to this OpenTelemetry collector: http://HOST:4318.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--workspace", default="default", show_default=True, help="Workspace to use.")
@click.option("--database", default="", help="Database URL; default: SQLite under $LEPTON_HOME.")
@click.option(
    "--blobs",
    default="",
    metavar="DIR|URL",
    help="Where files lie: a directory, s3://, gs:// or az://; default: under $LEPTON_HOME.",
)
@click.option("--encrypt-blobs", is_flag=True, help="Encrypt them; settled at the first start.")
@click.option(
    "--containers",
    type=click.Choice(["off", "auto"]),
    default="off",
    show_default=True,
    help="auto: run container images with podman or docker.",
)
@as_json
def up(detach: bool, output: str, blobs: str, **options: str | int) -> None:
    """Start the platform on this machine.

    It needs no container engine and no network. All it keeps is under $LEPTON_HOME (~/.leptonai),
    unless --database or --blobs name another place.
    What runs goes on when the platform is stopped with Ctrl-C or SIGTERM; `leptonai down` ends it.
    """
    home = Home.default()
    if options["otlp_endpoint"]:
        check_url(str(options["otlp_endpoint"]))
    options["blobs"] = blobs if "://" in blobs or not blobs else str(Path(blobs).absolute())
    running = home.state()
    if running is not None:
        _refuse_other_places(home, running, options)
        _announce(running, output, "already running")
        return
    home.make()
    with _control_process(home, options) as (process, answers):
        try:
            state = _first_answer(process, answers, home)
        except errors.Locked:
            another = _started_by_another(home)
            if another is None:
                raise
            _refuse_other_places(home, another, options)
            _announce(another, output, "already running")
            return
        except BaseException:
            process.terminate()
            raise
        if not detach:
            _hand_on_signals(process)  # first: who reads that it is ready may press Ctrl-C
        _announce(state, output, "ready")
        if not _stays_here(str(options["host"])):
            say(
                f"note: who reaches {options['host']} can read what travels, tokens too: let HTTPS "
                "end in front of it, or the network be yours alone"
            )
        if not detach:
            say("Ctrl-C stops the platform; what runs goes on.")
            _stay(process)


def _stays_here(host: str) -> bool:
    """Whether nobody but this machine reaches it."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_other_places(home: Home, running: PlatformState, options: dict[str, str | int]) -> None:
    """Whoever names a place would believe that the platform which runs uses it."""
    blobs, asked = str(options["blobs"]), str(options["database"])
    if (blobs and blobs != running.blobs) or (
        options["encrypt_blobs"] and not running.blobs_encrypted
    ):
        raise errors.Conflict(
            f"the platform that runs in {home.path} keeps its blobs in {running.blobs}, "
            + ("encrypted" if running.blobs_encrypted else "not encrypted"),
            hint="stop it first: leptonai down; or leave the options for blobs out",
        )
    if asked and asked != (home.config().database or f"sqlite:///{home.database}"):
        raise errors.Conflict(
            f"the platform that runs in {home.path} uses another database",
            hint="stop it first: leptonai down; or leave --database out",
        )


@click.command(epilog="Example: leptonai down --keep")
@click.option("--keep", is_flag=True, help="Leave jobs and replicas running.")
@as_json
def down(keep: bool, output: str) -> None:
    """Stop the platform, and what it runs.

    Running jobs are stopped and can be started again; endpoints come back with the next `up`.
    """
    home = Home.default()
    if not home.path.exists():
        raise errors.NotFound(
            f"there is no platform in {home.path}", hint="start one: leptonai up -d"
        )
    from leptonai.main.ending import shut_down

    ended = shut_down(home, keep=keep)
    if output == "json":
        facts = {"stopped": ended.platform, "workloads_ended": ended.workloads, "kept": keep}
        print_json(facts)
    elif not (ended.platform or ended.gateway or ended.workloads):
        click.echo("nothing was running")
    else:
        rest = (
            "what it ran goes on"
            if keep
            else f"{ended.workloads} running replica{'' if ended.workloads == 1 else 's'} ended"
        )
        click.echo(f"stopped; {rest}")


@click.command(epilog="Example: leptonai status -o json")
@as_json
def status(output: str) -> None:
    """Show the platform that runs on this machine."""
    home = Home.default()
    state = home.state()
    if state is None and (holder := home.holder()) is not None:
        raise errors.NotFound(
            f"a platform runs in {home.path} (pid {holder.pid}), "
            f"and {home.state_file} does not say where",
            hint="if it is not just starting: leptonai down --keep, then leptonai up -d",
        )
    if state is None:
        refuse_if_locked_out(home.path)
        raise errors.NotFound(
            f"no platform is running in {home.path}", hint="start one: leptonai up -d"
        )
    if output == "json":
        print_json(state.shown)
    else:
        words = {True: "yes", False: "no"}
        print_facts(
            [
                (name.replace("_", " "), words[value] if isinstance(value, bool) else str(value))
                for name, value in state.shown.items()
            ]
        )


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that doctor looked at."""

    name: str
    ok: bool
    found: str
    hint: str = ""


@click.command(epilog="Example: leptonai doctor")
@as_json
def doctor(output: str) -> None:
    """Check this machine, and say what to do about what is missing."""
    checks = list(_checks(Home.default()))
    if output == "json":
        print_json([asdict(check) for check in checks])
    else:
        rows = [
            [check.name, "ok" if check.ok else "missing", check.found, check.hint]
            for check in checks
        ]
        print_table(["CHECK", "", "FOUND", "WHAT TO DO"], rows)


def _checks(home: Home) -> Iterator[Check]:
    yield Check("python", True, f"{sys.version.split()[0]} at {sys.executable}")
    try:
        home.make()
        free_gb = shutil.disk_usage(home.path).free / (1 << 30)
        yield Check(
            "home", free_gb >= 1, f"{home.path}, {free_gb:.0f} GiB free", "make room on this disk"
            if free_gb < 1 else "",
        )  # fmt: skip
    except errors.LeptonError as error:
        yield Check("home", False, error.message, error.hint)
    state = home.state()
    yield Check(
        "platform", True, f"running at {state.url}" if state else "not running",
        "" if state else "leptonai up -d",
    )  # fmt: skip
    from leptonai.main.facts import container_facts, machine_facts

    limits, gpus, gpu_type = machine_facts()
    yield Check(
        "limits",
        limits != "none",
        f"enforced by {limits}" if limits != "none" else "not enforced",
        "" if limits != "none" else "run where cgroups are writable to have CPU and memory limited",
    )
    yield Check("gpus", True, f"{gpus} × {gpu_type}" if gpus else "none")
    runs_images, runtime, hint = container_facts()
    yield Check(
        "containers", runs_images, runtime, hint or "to run images: leptonai up --containers auto"
    )
    for package, purpose, extra in (
        ("torch", "training", "train"),
        ("uvicorn", "the platform", "server"),
        ("numpy", "datasets", "data"),
    ):
        found = _has(package)
        yield Check(
            package,
            found,
            f"installed, for {purpose}" if found else f"not installed: no {purpose}",
            "" if found else f"pip install 'openlepton[{extra}]'",
        )


def _has(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


@contextlib.contextmanager
def _control_process(
    home: Home, options: dict[str, str | int]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The control plane as a process of its own, and where it says whether it is ready."""
    from leptonai.log_files import open_log

    answers, telling = os.pipe()
    try:
        with open_log(home.control_log) as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "leptonai.main", "--home", str(home.path)),
                    *("--ready-fd", str(telling)),
                ],
                env=os.environ | {OPTIONS_VARIABLE: json.dumps(options)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[telling],
                start_new_session=True,
                cwd="/",
            )
    finally:
        os.close(telling)
    try:
        yield process, answers
    finally:
        os.close(answers)


def _first_answer(process: subprocess.Popen[bytes], answers: int, home: Home) -> PlatformState:
    """Wait until it is ready, or says why not."""
    deadline = time.monotonic() + READY_WITHIN_S
    received = b""
    while not received.endswith(b"\n"):
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([answers], [], [], left_s)[0]:
            process.kill()
            raise errors.Unavailable(
                f"the platform was not ready after {READY_WITHIN_S:.0f} s",
                hint=f"see {home.control_log}",
            )
        part = os.read(answers, 65536)
        if not part:
            raise errors.Internal(
                f"the platform ended with code {process.wait()} before it was ready",
                hint=f"see {home.control_log}",
            )
        received += part
    answer = json.loads(received)
    if "error" in answer:
        process.wait()
        raise errors.from_wire(500, answer["error"])
    return PlatformState(**answer["ready"])


def _started_by_another(home: Home) -> PlatformState | None:
    """The platform that another `up` starts at the same time, once it is ready."""
    deadline = time.monotonic() + READY_WITHIN_S
    while (state := home.state()) is None:
        if not home.is_locked or time.monotonic() > deadline:
            return None
        time.sleep(LOOK_AGAIN_S)
    return state


def _announce(state: PlatformState, output: str, what: str) -> None:
    if output == "json":
        print_json(state.shown)
        return
    click.echo(f"Lepton {state.version} is {what}.")
    print_facts(
        [
            ("url", state.url),
            ("gateway", state.gateway_url),
            ("workspace", state.workspace),
            ("token file", state.token_file),
        ]
    )


def _hand_on_signals(process: subprocess.Popen[bytes]) -> None:
    """What asks us to end asks the platform."""

    def hand_on(number: int, _frame: object) -> None:
        process.send_signal(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, hand_on)


def _stay(process: subprocess.Popen[bytes]) -> None:
    """Stay until the platform ends."""
    code = process.wait()
    if code:
        raise errors.Internal(
            f"the platform ended with code {code}",
            hint=f"see {Path(Home.default().control_log)}",
        )
