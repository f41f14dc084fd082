"""`asynchronous/artifacts.py` as `tools/derive_sync_client.py` made it sync; change that."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leptonai.client.synchronous.calls import Calls, new_key
from leptonai.client.files import Progress, telling
from leptonai.client.http_sync import Feed, in_thread
from leptonai.client.messages import Request, Told, delete_of, get_of, path_of, post_to
from leptonai.errors import InvalidRequest, NotFound, Unavailable
from leptonai.spec.artifacts import Artifact, ArtifactSpec
from leptonai.spec.metadata import Metadata

if TYPE_CHECKING:
    from leptonai.data.shelf import Shelf


class Blobs:
    """Bytes by their digest."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def has(self, digest: str) -> bool:
        """Whether the workspace has it; if so, it keeps it for an hour, whoever refers to it."""
        try:
            self._calls.ask(Request(method="HEAD", path=path_of("blobs", digest)))
        except NotFound:
            return False
        return True

    def put(self, digest: str, file: Path, *, told: Told | None = None) -> None:
        """`told`, now and then, how many bytes were sent."""
        path = path_of("blobs", digest)
        self._calls.ask(Request(method="PUT", path=path, body=file, told=told))

    def fetch(self, digest: str, shelf: "Shelf", *, progress: Progress | None = None) -> None:
        """Put it upon the shelf, unless it is there. What came of it before an interruption is not
        asked for again.

        Raises:
            Internal: what arrived is something else.
        """
        if shelf.has(digest):
            return
        arriving = in_thread(shelf.begin, digest)
        try:
            if not arriving.is_there:
                self._calls.download(digest, arriving, progress)
                in_thread(arriving.keep)
        finally:
            arriving.close()


class Trees:
    """Directories as blobs: what a workload's working directory, a dataset and a model are."""

    def __init__(self, calls: Calls, blobs: Blobs) -> None:
        self._calls = calls
        self._blobs = blobs

    def push(self, directory: Path | str) -> str:
        """Upload what is in a directory, without what its .gitignore names, unless the platform
        has just that already; returns its digest."""
        digest, _ = self.push_sized(directory)
        return digest

    def push_sized(
        self, directory: Path | str, *, progress: Progress | None = None
    ) -> tuple[str, int]:
        """As `push`; returns the size in bytes, too."""
        from leptonai.blobs.tree import pack

        packed = in_thread(pack, Path(directory))
        size_bytes = packed.path.stat().st_size
        path = path_of("blobs", packed.digest)
        try:
            try:
                self._calls.ask(Request(method="HEAD", path=path))
            except NotFound:
                told = telling(progress, size_bytes)
                self._calls.ask(Request(method="PUT", path=path, body=packed.path, told=told))
        finally:
            packed.path.unlink(missing_ok=True)
        return packed.digest, size_bytes

    def pull(
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
        self._blobs.fetch(digest, shelf, progress=progress)
        try:
            with shelf.held(digest) as tar:
                target.mkdir(parents=True, exist_ok=True)
                in_thread(unpack, tar, target)
        except FileNotFoundError as gone:
            raise Unavailable(
                f"{gone.filename} was removed meanwhile", hint="repeat the command"
            ) from gone


class Artifacts:
    """Named, numbered versions of files: the datasets of a workspace, or its models."""

    def __init__(
        self,
        calls: Calls,
        trees: Trees,
        blobs: Blobs,
        kind: Literal["datasets", "models"],
    ) -> None:
        self._calls = calls
        self._trees = trees
        self._blobs = blobs
        self._kind: str = kind

    def push(
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
        digest, size_bytes = self._trees.push_sized(directory, progress=progress)
        try:
            newest = self.get(name)
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
        return self.register(name, spec)

    def register(self, name: str, spec: ArtifactSpec) -> Artifact:
        """Make what was uploaded the next version of a name.

        Raises:
            InvalidRequest: not all of it was uploaded.
        """
        artifact = Artifact(metadata=Metadata(name=name), spec=spec)
        return self._calls.read(post_to(f"/{self._kind}", artifact, new_key()), Artifact)

    def get(self, reference: str) -> Artifact:
        """`NAME` is its newest version, `NAME@3` the third, `NAME@best` the one of this alias."""
        return self._calls.read(get_of(self._kind, reference), Artifact)

    def versions(self, name: str) -> Sequence[Artifact]:
        """Oldest first.

        Raises:
            NotFound: there is none of this name.
        """
        found = [each for each in self._all(name=name)]
        if not found:
            raise NotFound(f"{name!a} is not in the {self._kind}", hint="see the list for names")
        return sorted(found, key=lambda each: each.metadata.version or 0)

    def set_alias(self, reference: str, alias: str) -> Artifact:
        """From now on `NAME@ALIAS` is this version, and no other."""
        path = path_of(self._kind, reference, "aliases", alias)
        return self._calls.read(Request(method="PUT", path=path), Artifact)

    def drop_alias(self, reference: str, alias: str) -> None:
        self._calls.ask(delete_of(self._kind, reference, "aliases", alias))

    def download(
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
        artifact = self.get(reference)
        if artifact.spec.layout == "tree":
            self._trees.pull(artifact.spec.digest, directory, progress=progress)
            return artifact
        from leptonai.data.files import Reached, check_target, lay_out
        from leptonai.data.manifest import Manifest
        from leptonai.data.transfers import Fetcher

        check_target(Path(directory))
        shelf = self._calls.shelf
        self._blobs.fetch(artifact.spec.digest, shelf)
        manifest = in_thread(Manifest.open, shelf.path(artifact.spec.digest))
        reached = Reached(progress)
        fetch = Fetcher(self._calls.connection, shelf, reached.arrived)
        in_thread(lay_out, manifest, shelf, Path(directory), fetch=fetch, reached=reached)
        return artifact

    def remove(self, reference: str) -> None:
        """`NAME` forgets all its versions, `NAME@3` the third."""
        self._calls.ask(delete_of(self._kind, reference))

    def list(self) -> Sequence[Artifact]:
        """Every version of every name."""
        return [each for each in self._all()]

    def _all(self, name: str | None = None) -> Feed[Artifact]:
        seen: set[tuple[str | None, int | None]] = set()
        for artifacts in self._calls.pages(
            lambda answer: answer.read(list[Artifact]), self._kind, name=name
        ):
            for each in artifacts:
                key = each.metadata.name, each.metadata.version
                if key not in seen:
                    seen.add(key)
                    yield each
