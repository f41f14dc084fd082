"""Files by their digest, and datasets and models, which are named versions of such."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leptonai.client.asynchronous.calls import AsyncCalls, new_key
from leptonai.client.files import Progress, telling
from leptonai.client.http_async import Feed, in_thread
from leptonai.client.messages import Request, Told, delete_of, get_of, path_of, post_to
from leptonai.errors import InvalidRequest, NotFound, Unavailable
from leptonai.spec.artifacts import Artifact, ArtifactSpec
from leptonai.spec.metadata import Metadata

if TYPE_CHECKING:
    from leptonai.data.shelf import Shelf


class AsyncBlobs:
    """Bytes by their digest."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def has(self, digest: str) -> bool:
        """Whether the workspace has it; if so, it keeps it for an hour, whoever refers to it."""
        try:
            await self._calls.ask(Request(method="HEAD", path=path_of("blobs", digest)))
        except NotFound:
            return False
        return True

    async def put(self, digest: str, file: Path, *, told: Told | None = None) -> None:
        """`told`, now and then, how many bytes were sent."""
        path = path_of("blobs", digest)
        await self._calls.ask(Request(method="PUT", path=path, body=file, told=told))

    async def fetch(self, digest: str, shelf: "Shelf", *, progress: Progress | None = None) -> None:
        """Put it upon the shelf, unless it is there. What came of it before an interruption is not
        asked for again.

        Raises:
            Internal: what arrived is something else.
        """
        if shelf.has(digest):
            return
        arriving = await in_thread(shelf.begin, digest)
        try:
            if not arriving.is_there:
                await self._calls.download(digest, arriving, progress)
                await in_thread(arriving.keep)
        finally:
            arriving.close()


class AsyncTrees:
    """Directories as blobs: what a workload's working directory, a dataset and a model are."""

    def __init__(self, calls: AsyncCalls, blobs: AsyncBlobs) -> None:
        self._calls = calls
        self._blobs = blobs

    async def push(self, directory: Path | str) -> str:
        """Upload what is in a directory, without what its .gitignore names, unless the platform
        has just that already; returns its digest."""
        digest, _ = await self.push_sized(directory)
        return digest

    async def push_sized(
        self, directory: Path | str, *, progress: Progress | None = None
    ) -> tuple[str, int]:
        """As `push`; returns the size in bytes, too."""
        from leptonai.blobs.tree import pack

        packed = await in_thread(pack, Path(directory))
        size_bytes = packed.path.stat().st_size
        path = path_of("blobs", packed.digest)
        try:
            try:
                await self._calls.ask(Request(method="HEAD", path=path))
            except NotFound:
                told = telling(progress, size_bytes)
                await self._calls.ask(Request(method="PUT", path=path, body=packed.path, told=told))
        finally:
            packed.path.unlink(missing_ok=True)
        return packed.digest, size_bytes

    async def pull(
        self, digest: str, directory: Path | str, *, progress: Progress | None = None
    ) -> None:
        """Download a tree into a directory that is new or empty. Where that was interrupted, it
        goes on where it was.

        Raises:
            InvalidRequest: the directory is not empty.
            Internal: what arrived is not what the digest names; nothing was written.
        """
        from leptonai.blobs.tree import unpack

        target = Path(directory)
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise InvalidRequest(f"{target} is not empty", hint="name a new or empty directory")
        shelf = self._calls.shelf
        await self._blobs.fetch(digest, shelf, progress=progress)
        try:
            with shelf.held(digest) as tar:
                target.mkdir(parents=True, exist_ok=True)
                await in_thread(unpack, tar, target)
        except FileNotFoundError as gone:
            raise Unavailable(
                f"{gone.filename} was removed meanwhile", hint="repeat the command"
            ) from gone


class AsyncArtifacts:
    """Named, numbered versions of files: the datasets of a workspace, or its models."""

    def __init__(
        self,
        calls: AsyncCalls,
        trees: AsyncTrees,
        blobs: AsyncBlobs,
        kind: Literal["datasets", "models"],
    ) -> None:
        self._calls = calls
        self._trees = trees
        self._blobs = blobs
        self._kind: str = kind

    async def push(
        self,
        name: str,
        directory: Path | str,
        *,
        format: str = "files",
        lineage: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Artifact:
        """Register what is in a directory as the next version of a name.

        Where the newest version holds the same files, that one is returned and none is made.
        """
        digest, size_bytes = await self._trees.push_sized(directory, progress=progress)
        try:
            newest = await self.get(name)
            if newest.spec.digest == digest:
                return newest
        except NotFound:
            pass
        spec = ArtifactSpec(
            digest=digest,
            size_bytes=size_bytes,
            format=format,
            lineage=dict(lineage or {}),
            attributes=dict(attributes or {}),
        )
        return await self.register(name, spec)

    async def register(self, name: str, spec: ArtifactSpec) -> Artifact:
        """Make what was uploaded the next version of a name.

        Raises:
            InvalidRequest: not all of it was uploaded.
        """
        artifact = Artifact(metadata=Metadata(name=name), spec=spec)
        return await self._calls.read(post_to(f"/{self._kind}", artifact, new_key()), Artifact)

    async def get(self, reference: str) -> Artifact:
        """`NAME` is its newest version, `NAME@3` the third, `NAME@best` the one of this alias."""
        return await self._calls.read(get_of(self._kind, reference), Artifact)

    async def versions(self, name: str) -> Sequence[Artifact]:
        """Oldest first.

        Raises:
            NotFound: there is none of this name.
        """
        found = [each async for each in self._all(name=name)]
        if not found:
            raise NotFound(f"{name!a} is not in the {self._kind}", hint="see the list for names")
        return sorted(found, key=lambda each: each.metadata.version or 0)

    async def set_alias(self, reference: str, alias: str) -> Artifact:
        """From now on `NAME@ALIAS` is this version, and no other."""
        path = path_of(self._kind, reference, "aliases", alias)
        return await self._calls.read(Request(method="PUT", path=path), Artifact)

    async def drop_alias(self, reference: str, alias: str) -> None:
        await self._calls.ask(delete_of(self._kind, reference, "aliases", alias))

    async def download(
        self,
        reference: str,
        directory: Path | str,
        *,
        progress: Progress | None = None,
    ) -> Artifact:
        """Fetch the files of a version into a directory that is new or empty.

        Args:
            progress: is told, now and then, how many bytes are there, and of how many.

        Raises:
            InvalidRequest: the directory is not empty.
        """
        artifact = await self.get(reference)
        if artifact.spec.layout == "tree":
            await self._trees.pull(artifact.spec.digest, directory, progress=progress)
            return artifact
        from leptonai.data.files import Reached, check_target, lay_out
        from leptonai.data.manifest import Manifest
        from leptonai.data.transfers import Fetcher

        check_target(Path(directory))
        shelf = self._calls.shelf
        await self._blobs.fetch(artifact.spec.digest, shelf)
        manifest = await in_thread(Manifest.open, shelf.path(artifact.spec.digest))
        reached = Reached(progress)
        fetch = Fetcher(self._calls.connection, shelf, reached.arrived)
        await in_thread(lay_out, manifest, shelf, Path(directory), fetch=fetch, reached=reached)
        return artifact

    async def remove(self, reference: str) -> None:
        """`NAME` forgets all its versions, `NAME@3` the third."""
        await self._calls.ask(delete_of(self._kind, reference))

    async def list(self) -> Sequence[Artifact]:
        """Every version of every name."""
        return [each async for each in self._all()]

    async def _all(self, name: str | None = None) -> Feed[Artifact]:
        seen: set[tuple[str | None, int | None]] = set()
        async for artifacts in self._calls.pages(
            lambda answer: answer.read(list[Artifact]), self._kind, name=name
        ):
            for each in artifacts:
                key = each.metadata.name, each.metadata.version
                if key not in seen:
                    seen.add(key)
                    yield each
