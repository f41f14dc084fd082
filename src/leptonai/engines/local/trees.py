"""Trees of the blob store, laid out on this machine."""

import asyncio
import tempfile
from pathlib import Path

from leptonai.blobs import BlobStore
from leptonai.blobs.tree import unpack


async def lay_out(blobs: BlobStore, digest: str, directory: Path) -> None:
    """Unpack a tree's blob into an empty directory."""
    with tempfile.TemporaryFile(dir=directory.parent) as tar:
        async for chunk in blobs.get(digest):
            tar.write(chunk)
        tar.seek(0)
        await asyncio.to_thread(unpack, tar, directory)
