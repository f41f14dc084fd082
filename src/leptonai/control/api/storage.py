"""The files of volumes, over HTTP: for those who are not on the machine."""

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from leptonai.beneath import Beneath, Entry, parts_of
from leptonai.control.actions.volumes import find_volume, volumes_of
from leptonai.control.api.blobs import byte_range
from leptonai.control.api.multipart import file_in
from leptonai.control.api.routing import BYTES, DONE, Answer, Call, Parameter, Route, json_answer
from leptonai.control.uploads import digest_of, part_of, receive, received_bytes, to_its_end
from leptonai.core.access import Action, Resource
from leptonai.core.records import Volume
from leptonai.core.volumes import DEFAULT_VOLUME, may_pass, may_use, refused
from leptonai.errors import InvalidRequest, RangeNotSatisfiable
from leptonai.security.permissions import require
from leptonai.spec.metadata import Metadata
from leptonai.spec.storage import FileDigest, FileEntry, FileSystem, FileSystemStatus, UploadState

READ_BYTES = 1 << 20


async def list_volumes(call: Call) -> list[FileSystem]:
    _require(call, Action.READ)
    volumes = await volumes_of(call.world.store, call.workspace)
    seen = [volume for volume in volumes if may_pass(call.principal, volume.rules, "/")]
    return [FileSystem(_metadata(volume), FileSystemStatus()) for volume in seen]


async def default_usage(call: Call) -> FileSystem:
    _require(call, Action.READ)
    volume = await find_volume(call.world, call.workspace, DEFAULT_VOLUME)
    _check_use(call, volume, "/")
    used = await to_its_end(lambda: _files(volume).usage_bytes(""))
    return FileSystem(_metadata(volume), FileSystemStatus(total_usage_bytes=used))


async def head(call: Call) -> Answer:
    volume, path = await _asked(call, Action.READ)
    _check_pass(call, volume, path)
    entry = await to_its_end(lambda: _files(volume).entry(path))
    headers = (("x-lepton-type", "dir" if entry.is_dir else "file"), ("accept-ranges", "bytes"))
    return Answer(
        media=BYTES, headers=(*headers, ("content-length", str(entry.size_bytes))), body=b""
    )


async def get(call: Call) -> Answer:
    """The entries of a directory, or the bytes of a file; or what they take, or what has come of an
    upload."""
    volume, path = await _asked(call, Action.READ)
    files = _files(volume)
    if call.flag("usage"):
        _check_use(call, volume, path)
        return json_answer(FileSystemStatus(await to_its_end(lambda: files.usage_bytes(path))))
    if upload := call.text("upload"):
        _check_use(call, volume, path)
        return json_answer(
            UploadState(await to_its_end(lambda: received_bytes(files, path, upload)))
        )
    if call.flag("digest"):
        _check_use(call, volume, path)
        return json_answer(FileDigest(*await to_its_end(lambda: digest_of(files, path))))
    _check_pass(call, volume, path)
    entry = await to_its_end(lambda: files.entry(path))
    if entry.is_dir:
        entries = await to_its_end(lambda: files.entries(path))
        return json_answer(_shown(call, volume, path, entries))
    _check_use(call, volume, path)
    return await _content(call, files, path)


async def post(call: Call) -> UploadState:
    """A file: whole as a form or as raw bytes, or a part of it; or a move."""
    volume, path = await _asked(call, Action.UPDATE)
    _check_use(call, volume, path)
    files = _files(volume)
    if to := call.text("move_to"):
        _check_use(call, volume, to)
        await to_its_end(lambda: files.move(path, to))
        return UploadState(received_bytes=0, complete=True)
    upload = call.text("upload") or secrets.token_hex(16)
    part = part_of(upload, call.header("content-range"), call.text("sha256"))
    return await receive(files, path, part, file_in(call, "file"))


async def put(call: Call) -> Answer:
    volume, path = await _asked(call, Action.UPDATE)
    _check_use(call, volume, path)
    await to_its_end(lambda: _files(volume).make_directory(path))
    return DONE


async def delete(call: Call) -> Answer:
    volume, path = await _asked(call, Action.UPDATE)
    _check_use(call, volume, path)
    recursive = call.flag("removeall")
    await to_its_end(lambda: _files(volume).remove(path, recursive=recursive))
    return DONE


async def _asked(call: Call, action: Action) -> tuple[Volume, str]:
    _require(call, action)
    path = "/" + "/".join(parts_of(call.path.get("path", "")))
    return await find_volume(call.world, call.workspace, call.path["volume"]), path


def _require(call: Call, action: Action) -> None:
    require(call.principal, action, Resource(kind="file", workspace=call.workspace))


def _files(volume: Volume) -> Beneath:
    """Where rules speak of paths, a link must not make one path mean another."""
    return Beneath(Path(volume.path), links=not volume.rules)


def _check_use(call: Call, volume: Volume, path: str) -> None:
    if not may_use(call.principal, volume.rules, path):
        raise refused(call.principal.name, path, volume)


def _check_pass(call: Call, volume: Volume, path: str) -> None:
    if not may_pass(call.principal, volume.rules, path):
        raise refused(call.principal.name, path, volume)


def _shown(call: Call, volume: Volume, path: str, entries: list[Entry]) -> list[FileEntry]:
    below = path.rstrip("/")
    return [
        FileEntry(
            type="dir" if entry.is_dir else "file",
            name=entry.name,
            path=f"{below}/{entry.name}",
            size_bytes=entry.size_bytes,
            modified_at=entry.modified_at_ms,
            by_link=entry.by_link,
        )
        for entry in entries
        if may_pass(call.principal, volume.rules, f"{below}/{entry.name}")
    ]


async def _content(call: Call, files: Beneath, path: str) -> Answer:
    fd, size = await to_its_end(_open, files, path)
    try:
        start, end = byte_range(call.header("range"), size) or (0, size)
    except RangeNotSatisfiable:
        os.close(fd)
        raise
    headers = [("content-length", str(end - start)), ("accept-ranges", "bytes")]
    partial = (start, end) != (0, size)
    if partial:
        headers.append(("content-range", f"bytes {start}-{end - 1}/{size}"))
    return Answer(
        status=206 if partial else 200,
        stream=_reading(fd, start, end),
        media=BYTES,
        headers=tuple(headers),
    )


def _open(files: Beneath, path: str) -> tuple[int, int]:
    """Of its own, for an answer that outlives the call."""
    with files.reading(path) as fd:
        return os.dup(fd), os.fstat(fd).st_size


async def _reading(fd: int, start: int, end: int) -> AsyncIterator[bytes]:
    try:
        while start < end:
            data = await to_its_end(os.pread, fd, min(READ_BYTES, end - start), start)
            if not data:
                raise InvalidRequest("the file became shorter", hint="Ask for it again.")
            yield data
            start += len(data)
    finally:
        os.close(fd)


def _metadata(volume: Volume) -> Metadata:
    return Metadata(id=volume.name, name=volume.name, created_at=volume.created_at_ms)


_UPLOAD = Parameter("upload", about="A name of your own, of one upload in parts.")

ROUTES = (
    Route(
        method="GET",
        path="/storage",
        handler=list_volumes,
        summary="The volumes whose files may be reached",
        answer=list[FileSystem],
    ),
    Route(
        method="GET",
        path="/storage/du",
        handler=default_usage,
        summary="What the files of the default volume take",
        answer=FileSystem,
    ),
    *(
        route
        for path in ("/storage/{volume}", "/storage/{volume}/{path:path}")
        for route in (
            Route(
                method="HEAD",
                path=path,
                handler=head,
                summary="Whether there is a file or directory",
                media=BYTES,
            ),
            Route(
                method="GET",
                path=path,
                handler=get,
                summary="A file, or the entries of a directory",
                media=BYTES,
                ranges=True,
                query=(
                    _UPLOAD,
                    Parameter("usage", bool, "Only what its files take."),
                    Parameter("digest", bool, "Only the SHA-256 of a file."),
                ),
            ),
        )
    ),
    Route(
        method="POST",
        path="/storage/{volume}/{path:path}",
        handler=post,
        summary="Upload a file, whole or the next part of it, or move it",
        raw_body=True,
        answer=UploadState,
        query=(
            _UPLOAD,
            Parameter("sha256", about="Of the whole file."),
            Parameter("move_to", about="Where to in the same volume; the body is ignored."),
        ),
    ),
    Route(
        method="PUT",
        path="/storage/{volume}/{path:path}",
        handler=put,
        summary="Make a directory, with those above it",
    ),
    Route(
        method="DELETE",
        path="/storage/{volume}/{path:path}",
        handler=delete,
        summary="Remove a file or an empty directory",
        query=(Parameter("removeall", bool, "Also a directory that is not empty."),),
    ),
)
