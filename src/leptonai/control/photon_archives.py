"""Photon archives of published clients: unpacked, and told what they hold. Nothing of them is run.

Such an archive is a zip of `metadata.json`, the class as a pickle, the file that the class is
written in, and files beside it. The pickle is left alone: what serves the photon, in its replica,
reads the class from its file.
"""

import keyword
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from leptonai.errors import InvalidRequest, TooLarge
from leptonai.spec.photons import METADATA_FILE, DeploymentTemplate, Packed

MAX_MEMBERS = 10_000
MAX_UNPACKED_BYTES = 4 << 30
MAX_METADATA_BYTES = 4 << 20
MAX_PATH_BYTES = 1_024  # of a member
MAX_NAME_BYTES = 255  # of each of its parts, as file systems bound them
SOURCE, PICKLE, METADATA = "py.py", "obj.pkl", "metadata.json"
CHUNK_BYTES = 1 << 20


_UNREADABLE = (  # what the standard library raises for archives that are damaged or made to harm
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class _Object(msgspec.Struct, frozen=True):
    name: str  # of the class


class Metadata(msgspec.Struct, frozen=True):
    """What is read of `metadata.json`."""

    name: str
    model: str
    type: str
    py_obj: _Object | None = None
    requirement_dependency: list[str] | None = None
    system_dependency: list[str] | None = None
    deployment_template: DeploymentTemplate | None = None
    image: str | None = None


def unpack_archive(archive: Path, directory: Path) -> tuple[Metadata, Packed]:
    """Lay the photon down in an empty directory, as `leptonai photon create` would.

    Raises:
        InvalidRequest: it is no such archive, or what it holds cannot be served; says why.
        TooLarge: it holds too much.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = _checked(zipped)
            metadata = _metadata(zipped, members)
            packed = _packed(metadata, members)
            left = MAX_UNPACKED_BYTES
            for name, member in members.items():
                if name not in (PICKLE, METADATA):
                    left -= _extract(zipped, member, directory / name, left)
    except _UNREADABLE as error:
        raise InvalidRequest(
            f"the archive cannot be read: {error}", hint="Make it again, and push it again."
        ) from None
    (directory / METADATA_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(packed)))
    return metadata, packed


def _checked(zipped: zipfile.ZipFile) -> Mapping[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    infos = zipped.infolist()
    if len(infos) > MAX_MEMBERS or sum(each.file_size for each in infos) > MAX_UNPACKED_BYTES:
        raise _too_large()
    directories: set[str] = set()
    for info in infos:
        if info.is_dir():
            continue
        path = PurePosixPath(info.filename)
        mode = info.external_attr >> 16
        plain = stat.S_IFMT(mode) in (0, stat.S_IFREG)
        inside = not path.is_absolute() and ".." not in path.parts and "\\" not in info.filename
        if len(os.fsencode(path)) > MAX_PATH_BYTES or _longest(path) > MAX_NAME_BYTES:
            raise InvalidRequest(
                f"the archive's member {info.filename[:100]!a} has too long a name",
                hint=f"At most {MAX_PATH_BYTES} bytes, and {MAX_NAME_BYTES} between two slashes.",
            )
        if (
            not (plain and inside and path.parts)
            or "\0" in info.filename
            or str(path) == METADATA_FILE
        ):
            raise InvalidRequest(
                f"the archive's member {info.filename[:100]!a} is no plain file inside of it",
                hint="Leave out links, absolute paths and paths with '..'.",
            )
        above = {str(parent) for parent in path.parents}
        if str(path) in found or str(path) in directories or not above.isdisjoint(found):
            raise InvalidRequest(
                f"the archive holds {info.filename[:100]!a} twice", hint="Make it again."
            )
        directories |= above
        found[str(path)] = info
    return found


def _longest(path: PurePosixPath) -> int:
    return max((len(os.fsencode(part)) for part in path.parts), default=0)


def _metadata(zipped: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> Metadata:
    member = members.get(METADATA)
    if member is None:
        raise InvalidRequest(
            f"the archive has no {METADATA}", hint="Send what `photon create` wrote."
        )
    with zipped.open(member) as file:
        raw = file.read(MAX_METADATA_BYTES + 1)
    if len(raw) > MAX_METADATA_BYTES:
        raise _too_large()
    try:
        return msgspec.json.decode(raw, type=Metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"the archive's {METADATA}: {error}", hint="Send what `photon create` wrote."
        ) from None


def _packed(metadata: Metadata, members: Mapping[str, Any]) -> Packed:
    if metadata.type != "photon":
        raise InvalidRequest(
            f"photons of the type {metadata.type[:60]!r} are not served",
            hint="Register the model, and serve it with `leptonai endpoint create --model`.",
        )
    name = metadata.py_obj.name if metadata.py_obj else ""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise InvalidRequest(
            f"the archive's class {name[:60]!r} is not at the top of its file",
            hint="Write the class at the top level of a file.",
        )
    if SOURCE not in members:
        raise InvalidRequest(
            "the archive does not hold the file that its class is written in",
            hint="Write the class in a file, and make the photon of that: -m FILE.py:Class.",
        )
    template = metadata.deployment_template or DeploymentTemplate()
    extra = sorted(set(members) - {SOURCE, PICKLE, METADATA})
    return Packed(
        name=metadata.name,
        file=SOURCE,
        photon=name,
        requirement_dependency=metadata.requirement_dependency or [],
        system_dependency=metadata.system_dependency or [],
        deployment_template=msgspec.to_builtins(template),
        extra_files=extra,
    )


def _extract(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, left: int) -> int:
    """How many bytes it had. What a member says of its size is not believed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with zipped.open(member) as packed, path.open("xb") as out:
        while chunk := packed.read(CHUNK_BYTES):
            size += len(chunk)
            if size > left:
                raise _too_large()
            out.write(chunk)
    return size


def _too_large() -> TooLarge:
    return TooLarge(
        f"the archive holds more than {MAX_MEMBERS} files or {MAX_UNPACKED_BYTES} bytes",
        hint="Keep models and data out of it, and fetch them in `init`.",
    )
