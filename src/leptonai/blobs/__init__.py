"""Content-addressed blobs: bytes named by their SHA-256, in a directory or an object store.

`leptonai.blobs.tree` makes one blob of a directory, and a directory of such a blob.
"""

from leptonai.blobs.store import BlobStore

__all__ = ["BlobStore"]
