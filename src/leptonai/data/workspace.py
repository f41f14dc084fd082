"""Datasets of a workspace: committed here, stored and registered there, and back again."""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonai.client import LeptonClient
from leptonai.data.commit import Committed, commit
from leptonai.data.dataset import Dataset
from leptonai.data.kinds import Kind
from leptonai.data.manifest import Manifest
from leptonai.data.progress import Progress, Steps, of_step
from leptonai.data.quality.gates import thresholds
from leptonai.data.shelf import Shelf, shelf_of
from leptonai.data.sources import open_source
from leptonai.data.transfers import Fetcher, upload
from leptonai.data.version import Version
from leptonai.errors import InvalidRequest, NotFound, Unavailable
from leptonai.spec.artifacts import Artifact, ArtifactSpec
from leptonai.spec.names import check_name

if TYPE_CHECKING:
    from leptonai.client.connection import Connection

MAX_TRIES = 3  # of a commit whose objects somebody removes meanwhile
MAX_SHOWN_FIELDS = 200  # of a schema, in the record; the manifest has them all
MAX_SHOWN_CLASSES = 50  # by name, the same
MAX_SHOWN_CHARS = 100  # of a class's name


def create(
    name: str,
    source: str | Path,
    *,
    kind: Kind | None = None,
    lineage: dict[str, str] | None = None,
    fail_on: Mapping[str, float] | Collection[str] = (),
    client: LeptonClient | None = None,
    progress: Steps | None = None,
) -> Dataset:
    """See `Dataset.create`."""
    check_name(name, "dataset")
    gates = thresholds(fail_on)
    with connected(client) as at, open_source(source, progress) as opened:
        shelf = shelf_of(at.connection.blobs)
        fetch = Fetcher(at.connection, shelf)
        newest = newest_of(at, name)
        told = {"source": opened.name, **(lineage or {})}
        if newest is not None:
            told["parent"] = newest.reference
        for _ in range(MAX_TRIES):
            with shelf.keeping():
                made = commit(
                    opened,
                    shelf,
                    kind=kind,
                    lineage=told,
                    kept=lambda digest: shelf.touch(digest) or at.blobs.has(digest),
                    fetch=fetch,
                    progress=of_step(progress, "storing"),
                    reading=of_step(progress, "reading"),
                )
                checking = of_step(progress, "checking")
                quality = _held(name, made, newest, gates, shelf, at, checking) if gates else {}
                content = made.manifest.facts.content
                if newest is not None and newest.spec.attributes.get("content") == content:
                    return _dataset(newest, shelf, at.connection)
                if _stored(at, shelf, made, of_step(progress, "sending")):
                    registered = at.datasets.register(name, _spec(made, told, quality))
                    return _dataset(registered, shelf, at.connection)
    raise Unavailable(
        f"what was stored of {name} was removed meanwhile, {MAX_TRIES} times over",
        hint="see who cleans up the blobs, then repeat the command",
    )


def get(reference: str, *, client: LeptonClient | None = None) -> Dataset:
    """See `Dataset.get`."""
    with connected(client) as at:
        artifact = at.datasets.get(reference)
        if artifact.spec.layout != "manifest":
            raise InvalidRequest(
                f"{reference} is a plain tree of files",
                hint=f"leptonai dataset download {reference} DIRECTORY",
            )
        return _dataset(artifact, shelf_of(at.connection.blobs), at.connection)


@contextlib.contextmanager
def connected(given: LeptonClient | None) -> Iterator[LeptonClient]:
    """The one that was given, which stays open; or one of our own."""
    if given is not None:
        yield given
        return
    with LeptonClient() as own:
        yield own


def manifest_of(at: LeptonClient, artifact: Artifact) -> Manifest:
    """Fetched if it is not here."""
    shelf = shelf_of(at.connection.blobs)
    at.blobs.fetch(artifact.spec.digest, shelf)
    return Manifest.open(shelf.path(artifact.spec.digest))


def looks_like_a_reference(text: str) -> bool:
    try:
        check_name(text.partition("@")[0], "dataset")
    except InvalidRequest:
        return False
    return True


def _dataset(artifact: Artifact, shelf: Shelf, connection: "Connection") -> Dataset:
    version = Version.open(shelf, artifact.spec.digest, fetch=Fetcher(connection, shelf))
    return Dataset(version, name=artifact.metadata.name or "", version=artifact.metadata.version)


def _stored(at: LeptonClient, shelf: Shelf, made: Committed, progress: Progress | None) -> bool:
    """Everything is in the workspace, the manifest last; False if something has gone from both."""
    manifest = made.manifest
    sizes = manifest.columns["object_size"].tolist()
    objects = [*zip(manifest.objects, sizes, strict=True)]
    try:
        last = [(made.digest, shelf.path(made.digest).stat().st_size)]
    except FileNotFoundError:
        return False
    # Where its blobs are the shelf nothing is sent, and nothing is worth being told.
    told = None if at.connection.blobs is not None else progress
    return upload(at, shelf, objects, told) and upload(at, shelf, last)


def _held(
    name: str,
    made: Committed,
    newest: Artifact | None,
    gates: Mapping[str, float],
    shelf: Shelf,
    at: LeptonClient,
    progress: Progress | None,
) -> dict[str, dict[str, object]]:
    """What these gates measured of what was committed, and is no version yet.

    Raises:
        GatesFailed: one of them does not hold.
    """
    from leptonai.data.quality.check import check
    from leptonai.data.quality.report import GatesFailed

    version = Version.open(shelf, made.digest, fetch=Fetcher(at.connection, shelf))
    earlier = None
    if newest is not None and newest.spec.layout == "manifest":
        earlier = _dataset(newest, shelf, at.connection)
    report = check(
        Dataset(version, name=name), against=earlier, fail_on=gates, only=gates, progress=progress
    )
    if report.failed:
        raise GatesFailed.of(report)
    return report.summary()


def newest_of(at: LeptonClient, name: str) -> Artifact | None:
    try:
        return at.datasets.get(name)
    except NotFound:
        return None


def _spec(
    made: Committed, lineage: dict[str, str], quality: dict[str, dict[str, object]]
) -> ArtifactSpec:
    manifest, facts = made.manifest, made.manifest.facts
    attributes: dict[str, Any] = {
        "content": facts.content,
        "files": manifest.file_count,
        "samples": len(manifest),
        "schema": {each.name: each.type for each in facts.schema[:MAX_SHOWN_FIELDS]},
    }
    if facts.classes:
        attributes["classes"] = len(facts.classes)
        attributes["class_names"] = [
            each[:MAX_SHOWN_CHARS] for each in facts.classes[:MAX_SHOWN_CLASSES]
        ]
    if facts.splits:
        attributes["splits"] = [split for split in facts.splits if split]
    if quality:
        attributes["quality"] = quality
    return ArtifactSpec(
        digest=made.digest,
        size_bytes=manifest.size_bytes,
        format=facts.type,
        layout="manifest",
        lineage=lineage,
        attributes=attributes,
    )
