"""`leptonai storage`: volumes, the files in them, and who may use which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leptonai.cli.data_sources import source
from leptonai.cli.groups import Group
from leptonai.cli.output import answer, print_json, print_table, say
from leptonai.cli.progress import Progress
from leptonai.cli.session import connect, output_option
from leptonai.errors import Conflict, InvalidRequest, NotFound
from leptonai.spec.quantities import show_bytes

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.storage import FileEntry

DEFAULT_VOLUME = "default"

storage = Group(
    name="storage",
    help="Keep files that outlive what runs: in volumes, which workloads mount.",
    example="""\
leptonai storage upload images data/images         # into the volume `default`
leptonai storage ls data
leptonai storage download data/images/cat.png .
leptonai job create -n train --mount data:/mnt/data -- ls /mnt/data""",
)


storage.add_command(source)


@storage.does("list", example="leptonai storage list")
@output_option
def list_(output: str) -> None:
    """List the volumes."""
    with connect() as client:
        groups = client.storage.volumes()
    volumes = [(group, volume) for group, found in groups.items() for volume in found]
    if output == "json":
        print_json([{"node_group": group, "volume": volume} for group, volume in volumes])
        return
    print_table(
        ["NAME", "FROM", "PATH ON THE NODES", "NODE GROUP"],
        [[volume.name, volume.source, volume.from_path or "", group] for group, volume in volumes],
    )


@storage.does("ls", example="leptonai storage ls data\nleptonai storage ls shared:datasets")
@output_option
@click.argument("place", default="")
def ls(output: str, place: str) -> None:
    """List a directory: PATH in the default volume, or VOLUME:PATH."""
    volume, path = _place(place)
    with connect() as client:
        entry = _entry(client, volume, path)
        entries = client.storage.list(volume, path) if entry.type == "dir" else [entry]
    if output == "json":
        print_json(entries)
        return
    print_table(["SIZE", "MODIFIED", "NAME"], [_row(each) for each in entries])


@storage.does(
    "upload",
    example="leptonai storage upload cat.png images/\nleptonai storage upload images shared:images",
)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("place", default="")
def upload(source: Path, place: str) -> None:
    """Upload a file, or a directory with all files below it.

    What is there already, as large and not older, is left out; the rest takes the place of what was
    there. The same command goes on with what was cut off.
    """
    volume, path = _place(place)
    if not source.exists():
        raise NotFound(f"there is no {source}", hint="name a file or a directory of this machine")
    with connect() as client:
        if not source.is_dir():
            target = client.storage.entry(volume, path)
            if place.endswith("/") or not path.strip("/") or (target and target.type == "dir"):
                path = f"{path.rstrip('/')}/{source.name}"
            if above := path.strip("/").rpartition("/")[0]:
                client.storage.make_directory(volume, above)
            with Progress(f"uploading {source.name}") as progress:
                client.storage.upload(source, volume, path, progress)
            click.echo(f"uploaded {volume}:{path.lstrip('/')}")
            return
        sent = _upload_tree(client, source, volume, path or source.resolve().name)
    click.echo(f"uploaded {_files(sent)} to {volume}:{(path or source.resolve().name).lstrip('/')}")


@storage.does("download", example="leptonai storage download images/cat.png\n"
              "leptonai storage download shared:images ./images")  # fmt: skip
@click.argument("place")
@click.argument("target", type=click.Path(path_type=Path), default=".")
def download(place: str, target: Path) -> None:
    """Download a file, or a directory with all files below it, into TARGET.

    The same command goes on with what was cut off.
    """
    volume, path = _place(place)
    with connect() as client:
        entry = _entry(client, volume, path)
        if entry.type == "dir":
            got = _download_tree(client, volume, entry.path, target / entry.name)
            click.echo(f"downloaded {_files(got)} to {target / entry.name}")
            return
        to = target / entry.name if target.is_dir() else target
        with Progress(f"downloading {entry.name}") as progress:
            client.storage.download(volume, entry, to, progress)
    click.echo(f"downloaded {to}")


@storage.does("mkdir", example="leptonai storage mkdir shared:datasets/cats")
@click.argument("place")
def mkdir(place: str) -> None:
    """Make a directory, with those above it."""
    volume, path = _place(place)
    with connect() as client:
        client.storage.make_directory(volume, path)


@storage.does("mv", example="leptonai storage mv data/old data/new")
@click.argument("place")
@click.argument("to")
def mv(place: str, to: str) -> None:
    """Move or rename a file or directory in its volume."""
    volume, path = _place(place)
    other, target = _place(to)
    if other != volume and ":" in to:
        raise InvalidRequest(
            "files are moved within a volume", hint="download them, and upload them to the other"
        )
    with connect() as client:
        client.storage.move(volume, path, target)


@storage.does("rm", example="leptonai storage rm data/cat.png\nleptonai storage rm -r data/old")
@click.option("-r", "--recursive", is_flag=True, help="Directories with all that is in them.")
@click.argument("places", nargs=-1, required=True, metavar="PLACE...")
def rm(recursive: bool, places: tuple[str, ...]) -> None:
    """Remove files, or empty directories."""
    with connect() as client:
        for place in places:
            volume, path = _place(place)
            client.storage.remove(volume, path, recursive=recursive)


@storage.does("du", example="leptonai storage du\nleptonai storage du shared:datasets")
@output_option
@click.argument("place", default="")
def du(output: str, place: str) -> None:
    """Say how much the files below a directory take."""
    volume, path = _place(place)
    with connect() as client:
        used = client.storage.usage_bytes(volume, path)
    answer(
        {"volume": volume, "path": path, "bytes": used},
        output,
        f"{show_bytes(used)}  {volume}:{path}",
    )


@storage.does(
    "add",
    example="leptonai storage add shared --path /data/shared\n"
    "leptonai storage add home --path /mnt/nfs/home --nfs",
)
@click.option("--path", required=True, help="The directory on the nodes.")
@click.option("--nfs", is_flag=True, help="It is mounted there; else it is made if need be.")
@click.option("--node-group", default="local", show_default=True, help="Of which nodes.")
@click.argument("name")
def add(path: str, nfs: bool, node_group: str, name: str) -> None:
    """Offer a directory of the nodes as a volume. For admins."""
    from leptonai.spec.nodes import Volume

    volume = Volume(
        name=name,
        source="nfs" if nfs else "local",
        creation_mode="none" if nfs else "mkdir",
        from_path=path,
    )
    with connect() as client:
        client.storage.add_volume(node_group, volume)
    click.echo(f"added the volume {name}")


@storage.does("remove", example="leptonai storage remove shared")
@click.option("--delete-data", is_flag=True, help="Its files, too; else they stay on the nodes.")
@click.option("--node-group", default="local", show_default=True, help="Of which nodes.")
@click.argument("name")
def remove(delete_data: bool, node_group: str, name: str) -> None:
    """Take a volume off. For admins."""
    with connect() as client:
        client.storage.delete_volume(node_group, name, with_data=delete_data)
    click.echo(f"removed the volume {name}" + (" and its files" if delete_data else ""))


@storage.does("permission", example="leptonai storage permission shared")
@output_option
@click.argument("volume", default=DEFAULT_VOLUME)
def permission(output: str, volume: str) -> None:
    """Show who may use what of a volume."""
    with connect() as client:
        rules = client.storage.permissions(volume)
    if output == "json":
        print_json(rules)
    elif not rules:
        click.echo(f"everybody may use all of {volume}")
    else:
        rows = [
            [
                rule.path_prefix,
                "each its own" if rule.subfolder_policy else _who(rule.allowed_users),
            ]
            for rule in rules
        ]
        print_table(["PATH", "WHO"], rows)


@storage.does(
    "permit",
    example="leptonai storage permit shared /datasets --user ann --user ben\n"
    "leptonai storage permit shared /home --by-user",
)
@click.option("--user", "users", multiple=True, metavar="NAME", help="May use it; repeatable.")
@click.option("--everybody", is_flag=True, help="May use it.")
@click.option("--by-user", is_flag=True, help="Everybody the directory of their name in it.")
@click.argument("volume")
@click.argument("path")
def permit(users: tuple[str, ...], everybody: bool, by_user: bool, volume: str, path: str) -> None:
    """Set the rule for a path: from the first on, only what a rule allows is. For admins."""
    from leptonai.spec.storage import StoragePermission

    if bool(users) + everybody + by_user != 1:
        raise click.UsageError("say --user, --everybody or --by-user")
    rule = StoragePermission(
        path_prefix=path,
        allowed_users=["*"] if everybody else [*users],
        subfolder_policy="by_user" if by_user else "",
    )
    with connect() as client:
        client.storage.permit(volume, rule)


@storage.does("forbid", example="leptonai storage forbid shared /datasets")
@click.argument("volume")
@click.argument("path")
def forbid(volume: str, path: str) -> None:
    """Delete the rule for a path. For admins."""
    with connect() as client:
        client.storage.forbid(volume, path)


def _place(text: str) -> tuple[str, str]:
    """The volume and the path of PATH or VOLUME:PATH."""
    volume, colon, path = text.partition(":")
    if not colon:
        return DEFAULT_VOLUME, text
    if not volume or "/" in volume:
        return DEFAULT_VOLUME, text
    return volume, path


def _entry(client: LeptonClient, volume: str, path: str) -> FileEntry:
    entry = client.storage.entry(volume, path)
    if entry is None:
        raise NotFound(f"there is no {path} in {volume}", hint=f"leptonai storage ls {volume}:")
    return entry


def _upload_tree(client: LeptonClient, source: Path, volume: str, path: str) -> int:
    found = sorted(source.rglob("*"))
    files = [each for each in found if each.is_file()]
    for each in found:
        if each.is_dir():
            if each.is_symlink():
                say(f"left out: {each} is a link to a directory")
        elif not each.is_file():
            say(f"left out: {each} is no file")
    total = sum(file.stat().st_size for file in files)
    there: dict[str, dict[str, FileEntry]] = {}
    done, sent = 0, 0
    with Progress(f"uploading {source}") as progress:
        for file in files:
            below = file.relative_to(source)
            target = f"{path.rstrip('/')}/{below.as_posix()}"
            directory = target.rpartition("/")[0]
            if directory not in there:
                client.storage.make_directory(volume, directory)
                entries = client.storage.list(volume, directory)
                there[directory] = {entry.name: entry for entry in entries}
            status, known = file.stat(), there[directory].get(file.name)
            same = known is not None and known.size_bytes == status.st_size
            if not (known and same and known.modified_at >= status.st_mtime_ns // 1_000_000):
                client.storage.upload(file, volume, target, _after(done, total, progress))
                sent += 1
            done += status.st_size
            progress(done, total)
    return sent


def _after(done: int, total: int, progress: Progress) -> Callable[[int, int], None]:
    return lambda part, _: progress(done + part, total)


def _download_tree(client: LeptonClient, volume: str, path: str, target: Path) -> int:
    got = 0
    target.mkdir(parents=True, exist_ok=True)
    for entry in client.storage.list(volume, path):
        if "/" in entry.name or entry.name in ("", ".", ".."):  # whatever the server says
            continue
        to = target / entry.name
        if entry.type == "dir" and entry.by_link:
            say(f"left out: {entry.path} is a link to a directory")
        elif entry.type == "dir":
            got += _download_tree(client, volume, entry.path, to)
        elif not (
            to.is_file()
            and to.stat().st_size == entry.size_bytes
            and to.stat().st_mtime_ns // 1_000_000 >= entry.modified_at
        ):
            if to.is_dir():
                raise Conflict(f"{to} is a directory", hint="download to somewhere else")
            with Progress(f"downloading {entry.path}") as progress:
                client.storage.download(volume, entry, to, progress)
            got += 1
    return got


def _row(entry: FileEntry) -> list[str]:
    from datetime import datetime

    name = entry.name + ("/" if entry.type == "dir" else "")
    size = "" if entry.type == "dir" else show_bytes(entry.size_bytes)
    modified = datetime.fromtimestamp(entry.modified_at / 1_000).astimezone()
    return [size, f"{modified:%Y-%m-%d %H:%M}", name]


def _who(users: list[str]) -> str:
    return "everybody" if "*" in users else ", ".join(users)


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"
