"""Volumes, their files, and buckets."""

import random
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from leptonai.client.asynchronous.calls import AsyncCalls
from leptonai.client.files import Progress, digest_of, part_of
from leptonai.client.http_async import in_thread, pause
from leptonai.client.messages import (
    Request,
    delete_of,
    encode,
    get_of,
    patch_of,
    path_of,
    pause_s,
    post_to,
)
from leptonai.errors import Conflict, Internal, InvalidRequest, NotFound, Unavailable
from leptonai.spec.nodes import DedicatedNodeGroup, Volume
from leptonai.spec.storage import (
    DataSourceList,
    DataSourceSpec,
    FileDigest,
    FileEntry,
    FileSystemStatus,
    StorageDataSource,
    StoragePermission,
    UploadState,
)

UPLOAD_TRIES = 5  # that follow one that was cut off


class AsyncStorage:
    """Volumes and their files. A path is that in its volume."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def volumes(self) -> Mapping[str, Sequence[Volume]]:
        """By node group."""
        groups = await self._calls.read(get_of("dedicated-node-groups"), list[DedicatedNodeGroup])
        return {group.metadata.id or "": group.spec.volumes or [] for group in groups}

    async def add_volume(self, group: str, volume: Volume) -> None:
        path = path_of("dedicated-node-groups", group, "volumes")
        await self._calls.ask(post_to(path, volume, key=""))

    async def delete_volume(self, group: str, name: str, *, with_data: bool = False) -> None:
        """Its files stay, unless they are to go too."""
        where = ("dedicated-node-groups", group, "volumes", name)
        await self._calls.ask(delete_of(*where, delete_data=with_data))

    async def add_data_source(self, group: str, source: DataSourceSpec) -> None:
        """A bucket, which workloads may then be given a profile of."""
        path = path_of("dedicated-node-groups", group, "datasources")
        await self._calls.ask(post_to(path, source, key=""))

    async def data_sources(self, group: str) -> Sequence[StorageDataSource]:
        path = ("dedicated-node-groups", group, "datasources")
        return (await self._calls.read(get_of(*path), DataSourceList)).items

    async def data_source(self, group: str, name: str) -> StorageDataSource:
        path = ("dedicated-node-groups", group, "datasources", name)
        return await self._calls.read(get_of(*path), StorageDataSource)

    async def update_data_source(self, group: str, source: DataSourceSpec) -> StorageDataSource:
        """Its description, credentials and permissions; permissions that are left out go."""
        path = ("dedicated-node-groups", group, "datasources", source.name)
        return await self._calls.read(patch_of(encode(source), *path), StorageDataSource)

    async def delete_data_source(self, group: str, name: str) -> None:
        """Its objects stay."""
        await self._calls.ask(delete_of("dedicated-node-groups", group, "datasources", name))

    async def permissions(self, volume: str) -> Sequence[StoragePermission]:
        return await self._calls.read(get_of("storage-permission", volume), list[StoragePermission])

    async def permit(self, volume: str, rule: StoragePermission) -> None:
        await self._calls.ask(post_to(path_of("storage-permission", volume), rule, key=""))

    async def forbid(self, volume: str, path: str) -> None:
        parts = ("storage-permission", volume, *_in_volume(path))
        await self._calls.ask(delete_of(*parts))

    async def entry(self, volume: str, path: str) -> FileEntry | None:
        """Of a file or directory; None where there is none."""
        *above, name = _in_volume(path) or [""]
        if not name:
            return FileEntry(type="dir", name="", path="/")
        try:
            found = await self.list(volume, "/".join(above))
        except NotFound:
            return None
        return next((entry for entry in found if entry.name == name), None)

    async def list(self, volume: str, path: str = "") -> Sequence[FileEntry]:
        """What is in a directory, by name."""
        request = get_of("storage", volume, *_in_volume(path))
        answer = await self._calls.ask(request)
        if answer.headers.get("content-type", "").startswith("application/octet-stream"):
            raise Conflict(f"{path} is a file", hint="list the directory that it is in")
        return answer.read(list[FileEntry])

    async def usage_bytes(self, volume: str, path: str = "") -> int:
        """What the files at and below a path take."""
        request = get_of("storage", volume, *_in_volume(path), usage=True)
        return (await self._calls.read(request, FileSystemStatus)).total_usage_bytes

    async def make_directory(self, volume: str, path: str) -> None:
        """With those above it."""
        await self._calls.ask(
            Request(method="PUT", path=path_of("storage", volume, *_in_volume(path)))
        )

    async def remove(self, volume: str, path: str, *, recursive: bool = False) -> None:
        parts = ("storage", volume, *_in_volume(path))
        await self._calls.ask(delete_of(*parts, removeall=recursive or None))

    async def move(self, volume: str, path: str, to: str) -> None:
        """In one step; what is there already is not replaced."""
        where = path_of("storage", volume, *_in_volume(path), move_to=to)
        await self._calls.ask(Request(method="POST", path=where, body=b""))

    async def upload(
        self, file: Path, volume: str, path: str, progress: Progress | None = None
    ) -> None:
        """Send a file, in place of what was there. One that was cut off goes on where it was. It
        appears when all of it is there and has the digest that it has here.

        Raises:
            Conflict: the file changed while it was sent.
        """
        told, total = await in_thread(digest_of, file)
        digest = told.removeprefix("sha256:")
        parts = ("storage", volume, *_in_volume(path))
        upload = digest[:32]
        failed = 0
        while True:
            state = await self._calls.read(get_of(*parts, upload=upload), UploadState)
            try:
                # If all of it is there, its end is sent again: only then it takes its place.
                start = min(state.received_bytes, max(0, total - 1))
                await self._send(file, parts, upload, digest, start, total, progress)
                return
            except (Unavailable, Conflict):
                failed += 1
                if failed > UPLOAD_TRIES:
                    raise
                await pause(pause_s(failed, random.random()))  # noqa: S311 - no secret

    async def _send(
        self,
        file: Path,
        parts: tuple[str, ...],
        upload: str,
        digest: str,
        start: int,
        total: int,
        progress: Progress | None,
    ) -> None:
        where = path_of(*parts, upload=upload, sha256=digest)
        if total == 0:
            await self._calls.ask(Request(method="POST", path=where, body=b""))
        while start < total:
            data = await in_thread(part_of, file, start)
            if not data:
                raise Conflict(f"{file} became shorter", hint="upload it again")
            said = f"bytes {start}-{start + len(data) - 1}/{total}"
            request = Request(method="POST", path=where, body=data, content_range=said)
            await self._calls.ask(request)
            start += len(data)
            if progress is not None:
                progress(start, total)

    async def download(
        self, volume: str, entry: FileEntry, to: Path, progress: Progress | None = None
    ) -> None:
        """Fetch a file. What has come of it is kept beside its place, for the next try.

        Raises:
            Internal: what arrived is something else; nothing of it stays.
        """
        parts = ("storage", volume, *_in_volume(entry.path))
        draft = to.with_name(f".{to.name}.{entry.size_bytes:x}-{entry.modified_at:x}.part")
        start = draft.stat().st_size if draft.exists() else 0
        if start < entry.size_bytes:
            path = path_of(*parts)
            request = Request(method="GET", path=path, ranged=True, start=start)
            with draft.open("ab") as file:
                async with aclosing(self._calls.chunks(request)) as chunks:
                    async for chunk in chunks:
                        await in_thread(file.write, chunk)
                        start += len(chunk)
                        if progress is not None:
                            progress(start, entry.size_bytes)
        elif not draft.exists():
            draft.touch()
        told = await self._calls.read(get_of(*parts, digest=True), FileDigest)
        digest, _ = await in_thread(digest_of, draft)
        if digest != f"sha256:{told.sha256}":
            draft.unlink()
            raise Internal(
                f"{entry.path} is not what arrived, or changed meanwhile", hint="download it again"
            )
        draft.replace(to)


def _in_volume(path: str) -> list[str]:
    """Raises:
    InvalidRequest: it leads out of the volume.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidRequest(
            f"{path} leads out of the volume", hint="name it from the volume's root, without '..'"
        )
    return parts
