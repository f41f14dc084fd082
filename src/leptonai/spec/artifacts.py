"""Datasets and models: named, versioned, immutable trees of files."""

from typing import Any, Literal

from msgspec import field

from leptonai.spec.metadata import Metadata, Wire

LATEST = "latest"  # the alias that always is the newest version


class ArtifactSpec(Wire, frozen=True):
    """One version of a dataset or a model. The server numbers the versions of a name from 1."""

    digest: str  # of a tree of files, or of a manifest, as the blob store knows it: sha256:…
    size_bytes: int  # of the tree's blob; of all files that the manifest names
    format: str  # of the files: "digits", "torch-cnn", …
    # A tree is one blob; a manifest says which objects, shared with other versions, hold the files.
    layout: Literal["tree", "manifest"] = "tree"
    lineage: dict[str, str] = field(default_factory=dict)  # what it was made from: role → reference
    attributes: dict[str, Any] = field(default_factory=dict)  # facts for people and programs


class Artifact(Wire, frozen=True):
    metadata: Metadata  # name, and version once stored
    spec: ArtifactSpec
    aliases: tuple[str, ...] = ()  # other names of this version: NAME@ALIAS; the server keeps them

    @property
    def reference(self) -> str:
        """NAME@VERSION, once it is stored."""
        return f"{self.metadata.name}@{self.metadata.version}"
