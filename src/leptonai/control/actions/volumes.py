"""Volumes of node groups, who may use what of them, and buckets: set by admins, seen by all."""

import asyncio
import re
import secrets
from pathlib import Path

from msgspec.structs import replace

from leptonai.beneath import Beneath
from leptonai.control.actions.committing import insisting, name_taken, put
from leptonai.control.actions.finding import with_key
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import DataSource, Node, Secret, Volume
from leptonai.core.volumes import DEFAULT_VOLUME, SYSTEM_DIRECTORIES
from leptonai.errors import Conflict, InvalidRequest, NotFound
from leptonai.ports.store import Delete, Put, Query, Store
from leptonai.security.permissions import require
from leptonai.spec import nodes as wire
from leptonai.spec.storage import DataSourceSpec, StoragePermission

MAX_VOLUMES = 1_000
MAX_RULES = 1_000
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


async def find_volume(world: World, workspace: str, name: str, group: str = "") -> Volume:
    for volume in await volumes_of(world.store, workspace):
        if volume.name == name and group in ("", volume.group):
            return volume
    raise NotFound(
        f"there is no volume {name[:100]!r}", hint="`leptonai storage list` shows the volumes."
    )


async def volumes_of(store: Store, workspace: str) -> list[Volume]:
    found = await store.find(Volume, Query(workspace=workspace))
    return sorted(found, key=lambda volume: (volume.group, volume.name))


async def make_default_volume(
    store: Store, workspace: str, group: str, home: Path, now_ms: int
) -> None:
    """Every workspace has a volume on this machine; where the home was moved, so was that."""
    path = home / "volumes" / workspace / DEFAULT_VOLUME
    await asyncio.to_thread(path.mkdir, parents=True, exist_ok=True, mode=0o700)
    unique = f"{group}/{DEFAULT_VOLUME}"
    found = await store.find(Volume, Query(workspace=workspace, unique_key=unique))
    if not found:
        fresh = Volume(
            workspace=workspace,
            id=secrets.token_hex(8),
            name=DEFAULT_VOLUME,
            created_at_ms=now_ms,
            group=group,
            path=str(path),
            creation_mode="mkdir",
            managed=True,
        )
        await store.commit(Put(fresh))
    elif found[0].managed and found[0].path != str(path):
        await store.commit(Put(replace(found[0], path=str(path))))


async def add_volume(
    world: World, principal: Principal, workspace: str, group: str, asked: wire.Volume
) -> Volume:
    require(principal, Action.CREATE, Resource(kind="volume", workspace=workspace))
    await _check_group(world, group)
    _check_name(asked.name)
    if asked.source not in ("local", "nfs"):
        raise InvalidRequest(
            f"from: there are no volumes from {asked.source[:60]!r}", hint="Use local or nfs."
        )
    path = _checked_path(world, asked.from_path or "")
    there = await volumes_of(world.store, workspace)
    if len(there) >= MAX_VOLUMES:
        raise Conflict(f"there are {MAX_VOLUMES} volumes", hint="Delete one first.")
    await asyncio.to_thread(_make, path, make=asked.creation_mode == "mkdir")
    fresh = Volume(
        workspace=workspace,
        id=secrets.token_hex(8),
        name=asked.name,
        created_at_ms=world.clock.now_ms(),
        owner=principal.name,
        group=group,
        source="nfs" if asked.source == "nfs" else "local",
        path=str(path),
        size_in_gb=asked.size_in_gb,
        creation_mode=asked.creation_mode or "none",
    )
    with name_taken(
        f"there is a volume {asked.name} in this node group already",
        hint="Choose another name, or delete that one first.",
    ):
        return await put(world, fresh)


async def delete_volume(
    world: World,
    principal: Principal,
    workspace: str,
    group: str,
    name: str,
    *,
    with_data: bool,
) -> None:
    """What was mounted before stays so until it ends; what starts later is told."""

    async def change() -> Volume:
        volume = await find_volume(world, workspace, name, group)
        require(principal, Action.DELETE, volume)
        if volume.managed:
            raise Conflict(
                f"the volume {name} is the platform's own", hint="Remove the files in it instead."
            )
        await world.commit(Delete(volume))
        return volume

    volume = await insisting(change)
    if with_data:
        await asyncio.to_thread(Beneath(Path(volume.path)).clear)


async def set_permission(
    world: World,
    principal: Principal,
    workspace: str,
    name: str,
    group: str,
    rule: StoragePermission,
) -> None:
    """One rule for each path: a later one takes the place of that before."""
    if not rule.path_prefix.startswith("/") or ".." in rule.path_prefix.split("/"):
        raise InvalidRequest(
            f"path_prefix: {rule.path_prefix[:100]!r} is no path of a volume",
            hint="For example /datasets.",
        )
    if rule.subfolder_policy and rule.allowed_users:
        raise InvalidRequest(
            "allowed_users: with by_user every member has a directory", hint="Leave one out."
        )

    async def change() -> None:
        volume = await find_volume(world, workspace, name, group)
        require(principal, Action.UPDATE, volume)
        kept = tuple(each for each in volume.rules if each.path_prefix != rule.path_prefix)
        if len(kept) >= MAX_RULES:
            raise Conflict(f"the volume has {MAX_RULES} rules", hint="Delete one first.")
        await put(world, replace(volume, rules=(*kept, replace(rule, nodegroup_id=None))))

    await insisting(change)


async def delete_permission(
    world: World, principal: Principal, workspace: str, name: str, group: str, prefix: str
) -> None:
    async def change() -> None:
        volume = await find_volume(world, workspace, name, group)
        require(principal, Action.UPDATE, volume)
        kept = tuple(each for each in volume.rules if each.path_prefix != prefix)
        if len(kept) == len(volume.rules):
            raise NotFound(
                f"the volume {name} has no rule for {prefix[:100]!r}",
                hint="`leptonai storage permission NAME` shows them.",
            )
        await put(world, replace(volume, rules=kept))

    await insisting(change)


async def find_data_source(world: World, workspace: str, group: str, name: str) -> DataSource:
    found = await with_key(world, workspace, DataSource, f"{group}/{name}")
    if found is None:
        raise NotFound(
            f"there is no data source {name[:100]!r} in the node group {group[:100]!r}",
            hint="`lep node storage` shows them.",
        )
    return found


async def create_data_source(
    world: World, principal: Principal, workspace: str, group: str, spec: DataSourceSpec
) -> DataSource:
    require(principal, Action.CREATE, Resource(kind="datasource", workspace=workspace))
    await _check_group(world, group)
    _check_name(spec.name)
    await _check_credentials(world, principal, workspace, spec)
    fresh = DataSource(
        workspace=workspace,
        id=secrets.token_hex(8),
        name=spec.name,
        created_at_ms=world.clock.now_ms(),
        owner=principal.name,
        group=group,
        spec=spec,
    )
    with name_taken(
        f"there is a data source {spec.name} in this node group already",
        hint="Choose another name, or delete that one first.",
    ):
        return await put(world, fresh)


async def update_data_source(
    world: World,
    principal: Principal,
    workspace: str,
    group: str,
    name: str,
    spec: DataSourceSpec,
) -> DataSource:
    """Only credentials and permissions change; permissions that are left out are cleared."""

    async def change() -> DataSource:
        before = await find_data_source(world, workspace, group, name)
        require(principal, Action.UPDATE, before)
        fixed = replace(before.spec.bucket, credentials=spec.bucket.credentials)
        if spec.name != name or spec.bucket != fixed:
            raise InvalidRequest(
                "only credentials and permissions of a data source can be changed",
                hint="Delete it and create it again.",
            )
        await _check_credentials(world, principal, workspace, spec)
        return await put(world, replace(before, spec=spec))

    return await insisting(change)


async def delete_data_source(
    world: World, principal: Principal, workspace: str, group: str, name: str
) -> None:
    async def change() -> None:
        found = await find_data_source(world, workspace, group, name)
        require(principal, Action.DELETE, found)
        await world.commit(Delete(found))

    await insisting(change)


async def _check_group(world: World, group: str) -> None:
    if not any(node.group == group for node in await world.store.find(Node, Query())):
        raise NotFound(
            f"there is no node group {group[:100]!r}", hint="`leptonai node list` shows them."
        )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"name: {name[:100]!r} is no name for storage",
            hint="Use at most 63 lower-case letters, digits and dashes.",
        )


def _checked_path(world: World, path: str) -> Path:
    """Any directory but those that would give the platform or the system away."""
    if not path.startswith("/") or "\0" in path or ":" in path or len(path) > 1_024:
        raise InvalidRequest(
            f"from_path: {path[:100]!r} is no absolute path", hint="For example /data/shared."
        )
    real = Path(path).resolve()
    home = Path(world.config.home).resolve() if world.config.home else None
    if str(real) in SYSTEM_DIRECTORIES or str(real).startswith(("/proc/", "/sys/", "/dev/")):
        raise InvalidRequest(
            f"from_path: {path[:100]} is a directory of the system",
            hint="Make one for the volume, for example /data/shared.",
        )
    if home is not None and (real.is_relative_to(home) or home.is_relative_to(real)):
        raise InvalidRequest(
            f"from_path: {path[:100]} holds the platform's own files",
            hint="Make a directory for the volume elsewhere.",
        )
    return real


def _make(path: Path, *, make: bool) -> None:
    try:
        if make:
            path.mkdir(parents=True, exist_ok=True)
        there = path.is_dir()
    except OSError as error:
        raise InvalidRequest(
            f"from_path: {path} cannot be made: {error.strerror}",
            hint="Make it yourself, as the user who runs the platform.",
        ) from error
    if not there:
        raise InvalidRequest(
            f"from_path: there is no directory {path}", hint="Make or mount it there first."
        )


async def _check_credentials(
    world: World, principal: Principal, workspace: str, spec: DataSourceSpec
) -> None:
    if spec.workspace != workspace:
        raise InvalidRequest(
            f"workspace: the data source would be of {spec.workspace[:100]!r}",
            hint=f"Here it is {workspace}.",
        )
    credentials = spec.bucket.credentials
    s3 = credentials.secrets.s3 if credentials and credentials.secrets else None
    if credentials is None or credentials.kind != "leptonSecret" or s3 is None:
        return
    for name in (s3.access_key_secret_name, s3.secret_key_secret_name):
        found = await with_key(world, workspace, Secret, name)
        if found is None:
            raise InvalidRequest(
                f"credentials: there is no secret {name[:100]!r}",
                hint=f"Create it first: `leptonai secret create {name[:100]}`.",
            )
        require(principal, Action.USE, found)
