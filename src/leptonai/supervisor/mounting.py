"""Run a command with directories, and files, mounted where it wants them, which nobody else sees.

    python -I -S mounting.py '{"staging": DIR, "binds": [[SOURCE, TARGET, READ_ONLY], …]}' COMMAND…

It gets a mount namespace of its own; where it may not have one as this user, in a user namespace in
which it is the same user. Then it becomes the command: there is no process in between, so signals
and the exit status are the command's. A target that does not exist is made in this namespace alone
where its parent belongs to the system, and else for good, as an empty directory.

This file is run by itself: it imports nothing of ours.
"""

import ctypes
import json
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress

CANNOT_RUN, NOT_FOUND = 126, 127  # as shells say it
NEW_NAMESPACE, NEW_USER = 0x00020000, 0x10000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18
KEPT_FLAGS = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}  # of statvfs, for mount
DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "ppc64le": 203, "s390x": 217}
GENERIC_PIVOT_ROOT = 41  # of the other architectures
# Directories that are made to hold mounts, but not by us.
SYSTEM = frozenset(("/", "/home", "/media", "/mnt", "/opt", "/srv", "/usr", "/var"))

Binding = tuple[str, str, bool]
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    asked, *command = sys.argv[1:]
    told = json.loads(asked)
    directory = os.getcwd()
    try:
        separate()
        mount_all(told["staging"], [tuple(each) for each in told["binds"]])
        os.chdir(directory)
    except OSError as error:
        give_up(
            CANNOT_RUN, f"its volumes cannot be mounted: {error.strerror} {error.filename or ''}"
        )
    if not command:  # only asked whether it can be done
        return
    try:
        os.execvp(command[0], command)  # noqa: S606 - it is what the user wants to run
    except FileNotFoundError:
        give_up(NOT_FOUND, f"{command[0]}: not found")
    except OSError as error:
        give_up(CANNOT_RUN, f"{command[0]}: {error.strerror}")


def give_up(code: int, why: str) -> None:
    sys.stderr.write(f"{why.strip()}\n")
    sys.stderr.flush()
    os._exit(code)


def separate() -> None:
    """From here on mounts are this process's own."""
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", NEW_NAMESPACE)
    except PermissionError:
        _call("unshare", NEW_NAMESPACE | NEW_USER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    _mount(None, "/", RECURSIVE | PRIVATE)


def mount_all(staging: str, binds: Sequence[Binding]) -> None:
    # Opened before anything is mounted over them.
    sources = [(os.open(source, os.O_PATH), target, ro) for source, target, ro in binds]
    missing = {target.split("/")[1] for _, target, _ in binds if _anchor(target) == "/"}
    root = _make_root(staging, missing) if missing else ""
    for source, target, read_only in sorted(sources, key=lambda each: each[1]):
        _make_target(staging, root, target)
        _mount(f"/proc/self/fd/{source}", f"{root}{target}", BIND | RECURSIVE)
        if read_only:
            _mount(None, f"{root}{target}", BIND | REMOUNT | READ_ONLY | _flags(root + target))
        os.close(source)
    if root:
        os.chdir(root)
        number = PIVOT_ROOT.get(platform.machine(), GENERIC_PIVOT_ROOT)
        if _libc.syscall(number, b".", b".") != 0:
            _fail("/")
        _call("umount2", b".", DETACH)


def _make_root(staging: str, missing: set[str]) -> str:
    """A root that has what the root has, and can be added to."""
    _mount("tmpfs", staging, 0, "tmpfs")
    # First the one that holds the staging directory, while that is still empty.
    names = sorted(os.listdir("/"), key=lambda name: not staging.startswith(f"/{name}/"))
    for name in names:
        _copy(f"/{name}", f"{staging}/{name}")
    for name in missing - set(names):
        os.mkdir(f"{staging}/{name}")
    return staging


def _make_target(staging: str, root: str, target: str) -> None:
    if os.path.isfile(f"{root}{target}"):
        return
    anchor = _anchor(f"{root}{target}")
    if anchor == f"{root}{target}":
        return
    if anchor.removeprefix(root) in SYSTEM or not os.access(anchor, os.W_OK):
        _make_addable(f"{staging}.below", anchor)
    os.makedirs(f"{root}{target}", exist_ok=True)


def _make_addable(staging: str, directory: str) -> None:
    """A directory of the system that has what it has, and can be added to."""
    os.makedirs(staging, exist_ok=True)
    _mount(directory, staging, BIND | RECURSIVE)
    _mount("tmpfs", directory, 0, "tmpfs")
    for name in os.listdir(staging):
        _copy(f"{staging}/{name}", f"{directory}/{name}")
    _call("umount2", os.fsencode(staging), DETACH)


def _copy(path: str, to: str) -> None:
    """Have the same there, without copying anything."""
    if os.path.islink(path):
        os.symlink(os.readlink(path), to)
        return
    if os.path.isdir(path):
        os.mkdir(to)
    else:
        os.close(os.open(to, os.O_CREAT | os.O_WRONLY))
    with suppress(FileNotFoundError):  # gone meanwhile
        _mount(path, to, BIND | RECURSIVE)


def _anchor(path: str) -> str:
    """The longest part of a path that is there."""
    while path != "/" and not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _flags(path: str) -> int:
    """What was forbidden there stays so: else a user namespace may not mount it again."""
    told = os.statvfs(path).f_flag
    return sum(flag for seen, flag in KEPT_FLAGS.items() if told & seen)


def _mount(source: str | None, target: str, flags: int, kind: str | None = None) -> None:
    encoded = [os.fsencode(each) if each is not None else None for each in (source, target, kind)]
    if _libc.mount(*encoded, ctypes.c_ulong(flags), None) != 0:
        _fail(target)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        _fail(name)


def _fail(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), what)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


if __name__ == "__main__":
    main()
