"""Photons that published clients push: registered as versions of models, with their archive."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from leptonai.control.actions.artifacts import find_artifact, register_artifact
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import Model
from leptonai.durable import DISK_FULL
from leptonai.errors import NotFound, StorageFull, TooLarge
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read, require
from leptonai.spec.artifacts import Artifact, ArtifactSpec
from leptonai.spec.metadata import Metadata
from leptonai.spec.names import check_name
from leptonai.spec.photons import FORMAT

ARCHIVE = "archive"  # the attribute that names the blob of the archive itself
MAX_ARCHIVE_BYTES = 1 << 30
CHUNK_BYTES = 1 << 20


async def register_photon(
    world: World, principal: Principal, workspace: str, archive: AsyncIterator[bytes]
) -> Model:
    """The next version of the photon's name. Nothing of the archive is run here."""
    # What reads archives is loaded with the first one, and not to start.
    from leptonai.blobs.tree import pack
    from leptonai.control.photon_archives import unpack_archive

    require(principal, Action.CREATE, Resource(kind="model", workspace=workspace))
    with _told_if_full(), tempfile.TemporaryDirectory(prefix="leptonai-photon-") as scratch:
        file, directory = Path(scratch, "archive"), Path(scratch, "photon")
        await _receive(archive, file)
        directory.mkdir()
        metadata, packed = await asyncio.to_thread(unpack_archive, file, directory)
        check_name(metadata.name, "photon")
        tree = await asyncio.to_thread(pack, directory)
        try:
            size = tree.path.stat().st_size
            await world.blobs.put(_chunks(tree.path), tree.digest)
        finally:
            tree.path.unlink(missing_ok=True)
        kept = await world.blobs.put(_chunks(file))
    facts = {"model": metadata.model, "image": metadata.image or "", ARCHIVE: kept}
    asked = Artifact(
        metadata=Metadata(name=metadata.name),
        spec=ArtifactSpec(
            digest=tree.digest, size_bytes=size, format=FORMAT, attributes=packed.facts | facts
        ),
    )
    found = await register_artifact(world, principal, workspace, Model, asked)
    assert isinstance(found, Model)
    return found


@contextmanager
def _told_if_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise StorageFull(
            "the disk of the platform's temporary files is full", hint="Free space, then try again."
        ) from error


async def find_photon(world: World, principal: Principal, workspace: str, id: str) -> Model:
    found = await find_artifact(world, principal, workspace, Model, id)
    assert isinstance(found, Model)
    if found.spec.format != FORMAT:
        raise NotFound(f"{id[:100]!r} is a model, not a photon", hint="See /models for models.")
    return found


async def count_photons(world: World, workspace: str) -> int:
    return await world.store.count(Model, Query(workspace=workspace, states=(FORMAT,)))


async def list_photons(world: World, principal: Principal, workspace: str) -> list[Model]:
    """Newest first."""
    query = Query(workspace=workspace, states=(FORMAT,), newest_first=True)
    found = await world.store.find(Model, query)
    return [each for each in found if may_read(principal, each)]


async def _receive(stream: AsyncIterator[bytes], file: Path) -> None:
    size = 0
    with file.open("wb") as out:
        async for chunk in stream:
            size += len(chunk)
            if size > MAX_ARCHIVE_BYTES:
                raise TooLarge(
                    f"the archive has more than {MAX_ARCHIVE_BYTES} bytes",
                    hint="Keep models and data out of it, and fetch them in `init`.",
                )
            out.write(chunk)


async def _chunks(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            yield chunk
