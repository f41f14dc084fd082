"""A directory here, and one in a pod that is kept like it: only what differs travels."""

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from leptonai.blobs.tree import escapes
from leptonai.blobs.walking import Ignored, walk
from leptonai.client.sessions import Tunnel
from leptonai.errors import InvalidRequest, LeptonError, TooLarge, Unavailable
from leptonai.spec.pods import (
    MAX_SYNC_ENTRIES,
    SYNC_BLOCK_BYTES,
    SYNC_ENTRIES_A_MESSAGE,
    SyncContent,
    SyncContents,
    SyncDone,
    SyncEntry,
    SyncFiles,
    SyncRemoval,
    SyncStart,
    SyncWants,
    SyncWish,
)

IGNORE_FILES = (".gitignore", ".leptonignore")
DIGEST_BYTES = 16
BATCH_BYTES = 4 << 20  # of files that are announced together
MESSAGE_BYTES = 256 << 10
SHRUNK_NS = 1  # the time of a file that changed while it was sent: the next look sends it again


@dataclass(frozen=True, slots=True)
class Listing:
    """What is in a directory here."""

    entries: tuple[SyncEntry, ...]
    skipped: tuple[str, ...] = field(default=(), compare=False)  # and why, for people


def listing(directory: Path) -> Listing:
    """All that no ignore file leaves out. Reads no file: 15 µs each.

    Raises:
        TooLarge: there are more than `MAX_SYNC_ENTRIES`.
    """
    entries: list[SyncEntry] = []
    skipped: list[str] = []
    for path, found in walk(str(directory), IGNORE_FILES):
        if len(entries) >= MAX_SYNC_ENTRIES:
            raise TooLarge(
                f"{directory} has more than {MAX_SYNC_ENTRIES} files",
                hint="leave out what is not needed with a .leptonignore",
            )
        try:
            path.encode()
            seen = found.stat(follow_symlinks=False)
            if stat.S_ISDIR(seen.st_mode):
                entries.append(SyncEntry(path, "d"))
            elif stat.S_ISREG(seen.st_mode):
                executable = bool(seen.st_mode & stat.S_IXUSR)
                entries.append(SyncEntry(path, "f", seen.st_size, seen.st_mtime_ns, executable))
            elif stat.S_ISLNK(seen.st_mode):
                target = str(Path(found.path).readlink())
                if escapes(path, target):
                    skipped.append(f"{path}: it links to {target}, which lies outside")
                else:
                    entries.append(SyncEntry(path, "l", target=target))
            else:
                skipped.append(f"{path}: it is neither a file, a directory nor a link")
        except FileNotFoundError:
            continue  # it has just gone
        except UnicodeEncodeError:
            skipped.append(f"{path!a}: its name is no UTF-8")
    return Listing(tuple(entries), tuple(skipped))


async def sync(
    tunnel: Tunnel, directory: Path, found: Listing, *, to: str = "", delete: bool = False
) -> SyncDone:
    """Have what is in a pod's directory be like this one; what only the pod has stays, unless
    `delete`, and then still what ignore files here leave out.

    Raises:
        Unavailable: the pod cannot take it.
    """
    await tunnel.send(SyncStart(to=to, delete=delete))
    entries = found.entries
    for start in range(0, len(entries), SYNC_ENTRIES_A_MESSAGE):
        await tunnel.send(SyncFiles(entries=[*entries[start : start + SYNC_ENTRIES_A_MESSAGE]]))
    await tunnel.send(SyncFiles(entries=[], last=True))
    wishes: list[SyncWish] = []
    extra: list[str] = []
    while True:
        wants = await tunnel.receive_value(SyncWants | SyncDone)  # type: ignore[arg-type]
        if isinstance(wants, SyncDone):
            raise _refusal(wants, hint="look at the directory in the pod")
        wishes += wants.wishes
        extra += wants.extra
        if wants.last:
            break
    await _send_files(tunnel, directory, wishes)
    ignored = Ignored(str(directory), IGNORE_FILES)
    # A file that could not be listed, and a link that was skipped, are here all the same.
    removal = [
        path for path in extra if path not in ignored and not os.path.lexists(directory / path)
    ]
    for start in range(0, len(removal), SYNC_ENTRIES_A_MESSAGE):
        await tunnel.send(SyncRemoval(paths=removal[start : start + SYNC_ENTRIES_A_MESSAGE]))
    await tunnel.send(SyncRemoval(paths=[], last=True))
    done = await tunnel.receive_value(SyncDone)
    if done.error:
        raise _refusal(done, hint="is its disk full?")
    return done


def _refusal(done: SyncDone, hint: str) -> LeptonError:
    """Args: hint: where the pod gave none."""
    if done.hint:
        return InvalidRequest(done.error, hint=done.hint)
    return Unavailable(f"the pod cannot take it: {done.error}", hint=hint)


async def _send_files(tunnel: Tunnel, directory: Path, wishes: Sequence[SyncWish]) -> None:
    batch: list[_Sending] = []
    size = 0
    try:
        for wish in wishes:
            sending = _Sending.of(directory, wish)
            if sending is None:
                continue
            batch.append(sending)
            size += sending.bytes_sent
            if size >= BATCH_BYTES or len(batch) >= 200:  # open files
                await _send_batch(tunnel, batch)
                batch, size = [], 0
        if batch:
            await _send_batch(tunnel, batch)
    finally:
        for sending in batch:
            sending.file.close()


async def _send_batch(tunnel: Tunnel, batch: "list[_Sending]") -> None:
    await tunnel.send(SyncContents(files=[sending.content for sending in batch]))
    message = bytearray()
    for sending in batch:
        for offset, count in sending.pieces:
            sending.file.seek(offset)
            while count > 0:
                data = sending.file.read(min(count, MESSAGE_BYTES))
                # It was longer a moment ago. What is sent in its place is not meant to last.
                message += data or bytes(min(count, MESSAGE_BYTES))
                count -= len(data) or min(count, MESSAGE_BYTES)
                if len(message) >= MESSAGE_BYTES:
                    await tunnel.send(bytes(message))
                    message.clear()
        sending.file.close()
    if message:
        await tunnel.send(bytes(message))


@dataclass(frozen=True, slots=True)
class _Sending:
    file: BinaryIO
    content: SyncContent
    pieces: list[tuple[int, int]]  # offset and count of what is sent

    @property
    def bytes_sent(self) -> int:
        return sum(count for _, count in self.pieces)

    @classmethod
    def of(cls, directory: Path, wish: SyncWish) -> "_Sending | None":
        """None where it has gone meanwhile."""
        try:
            descriptor = os.open(directory / wish.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidRequest(
                f"{wish.path} cannot be read: {error.strerror}",
                hint="make it readable, or name it in .leptonignore",
            ) from None
        file = os.fdopen(descriptor, "rb", buffering=0)
        seen = os.fstat(descriptor)
        parts = _parts(descriptor, seen.st_size, wish.blocks)
        after = os.fstat(descriptor)
        settled = (seen.st_size, seen.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        pieces, offset = [], 0
        for first, count in parts:
            if first < 0:
                pieces.append((offset, count))
                offset += count
            else:
                offset += count * SYNC_BLOCK_BYTES
        executable = bool(seen.st_mode & stat.S_IXUSR)
        mtime_ns = seen.st_mtime_ns if settled else SHRUNK_NS
        return cls(file, SyncContent(wish.path, mtime_ns, executable, parts), pieces)


def _parts(file: int, size: int, theirs: Sequence[bytes]) -> list[tuple[int, int]]:
    """Runs of the blocks that the pod has anyway, wherever in the file, and of bytes."""
    if not theirs:
        return [(-1, size)] if size else []
    where = {digest: number for number, digest in reversed([*enumerate(theirs)])}
    parts: list[tuple[int, int]] = []
    for offset in range(0, size, SYNC_BLOCK_BYTES):
        block = os.pread(file, SYNC_BLOCK_BYTES, offset)
        own = hashlib.blake2b(block, digest_size=DIGEST_BYTES).digest()
        number = offset // SYNC_BLOCK_BYTES
        # Best the one at the same place: it continues the run.
        if number < len(theirs) and theirs[number] == own:
            found: int | None = number
        else:
            found = where.get(own)
        last = offset + SYNC_BLOCK_BYTES >= size
        whole = len(block) == SYNC_BLOCK_BYTES or (last and found == len(theirs) - 1)
        if found is not None and whole:
            if parts and parts[-1][0] >= 0 and sum(parts[-1]) == found:
                parts[-1] = (parts[-1][0], parts[-1][1] + 1)
            else:
                parts.append((found, 1))
        elif parts and parts[-1][0] < 0:
            parts[-1] = (-1, parts[-1][1] + len(block))
        else:
            parts.append((-1, len(block)))
    return parts
