"""Volumes of an attempt: found on this machine, and mounted where it wants them, or linked to."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leptonai.beneath import Beneath
from leptonai.errors import Conflict, InvalidRequest, LeptonError
from leptonai.ports.engine import VolumeAt
from leptonai.supervisor import Folder

PROGRAM = Path(__file__).parents[2] / "supervisor" / "mounting.py"
HOSTS = Path("/etc/hosts")
FILES = "files"  # of an attempt's folder
PROBE_TIMEOUT_S = 30.0  # a busy machine is no reason to mount nothing


@dataclass(frozen=True, slots=True)
class Found:
    source: Path
    at: str
    read_only: bool


async def possible(directory: Path) -> bool:
    """Whether this user may mount directories for a command, seen by doing it. Takes 30 ms."""
    staging = directory / "mounting"
    staging.mkdir(exist_ok=True)
    asked = json.dumps({"staging": str(staging), "binds": [[str(staging), "/lepton", True]]})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(PROGRAM), asked),
        cwd="/",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await process.wait() == 0
    except TimeoutError:
        process.kill()
        await process.wait()
        return False


def find(volumes: Sequence[VolumeAt]) -> list[Found]:
    """Where the directories really are. Blocks.

    Raises:
        LeptonError: one is not there, or its path leads out of its volume.
    """
    found = []
    for volume in volumes:
        if not Path(volume.root).is_dir():
            raise Conflict(
                f"the volume {volume.name} is not on this node: there is no {volume.root}",
                hint="mount or make it there",
            )
        files = Beneath(Path(volume.root), links=volume.links)
        try:
            source = files.real_directory(volume.path, make=not volume.read_only)
        except LeptonError as error:
            raise InvalidRequest(
                f"{volume.path or '/'} of the volume {volume.name} cannot be mounted: "
                f"{error.message}",
                hint=error.hint,
            ) from error
        if ":" in str(source):
            raise InvalidRequest(f"nothing with a colon can be mounted: {source}", hint="rename it")
        found.append(Found(source, volume.at, volume.read_only))
    return found


def mounting(folder: Folder, found: Sequence[Found], command: Sequence[str]) -> tuple[str, ...]:
    """The command, run by what mounts them for it."""
    staging = folder.at("mounts")
    Path(staging).mkdir(parents=True, exist_ok=True)
    binds = [[str(each.source), each.at, each.read_only] for each in found]
    asked = json.dumps({"staging": staging, "binds": binds})
    return (sys.executable, "-I", "-S", str(PROGRAM), asked, *command)


def hosts(folder: Folder, addresses: Mapping[str, str]) -> Found:
    """A file that knows these hosts and all that the machine's knows, in the place of that."""
    try:
        known = HOSTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        known = ""
    path = Path(folder.at("hosts"))
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = "".join(f"{address}\t{host}\n" for host, address in addresses.items())
    path.write_text(f"{known.rstrip()}\n{ours}", encoding="utf-8")
    return Found(path, str(HOSTS), read_only=True)


def link(directory: Path, found: Sequence[Found], *, again: bool = False) -> None:
    """`/mnt/data` is found as `mnt/data` in the directory in which the attempt starts.

    Args:
        again: an earlier attempt may have left a link there, which leads elsewhere.

    Raises:
        InvalidRequest: something else is there.
    """
    for each in found:
        place = directory / each.at.lstrip("/")
        if place.is_symlink() and place.readlink() == each.source:
            continue
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if again and place.is_symlink():
                place.unlink()
            place.symlink_to(each.source)
        except OSError as error:
            raise InvalidRequest(
                f"{each.at} cannot be linked at {place.relative_to(directory)} in the working "
                f"directory: {error.strerror}",
                hint="mount it elsewhere, or take that out of the working directory",
            ) from error


def write_files(folder: Folder, files: Mapping[str, str]) -> dict[str, str]:
    """Readable by this user alone; the variables that tell where each lies."""
    directory = folder.at(FILES)
    Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = {}
    for variable, text in files.items():
        paths[variable] = f"{directory}/{variable.lower()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(paths[variable], flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    return paths
