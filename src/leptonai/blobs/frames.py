"""Encrypted blobs: AES-256-GCM in frames, so that any range can be read and nothing is trusted
before it was checked.

    8 bytes    what kind of file this is
    32 bytes   salt, drawn for each blob: the keys are derived from it and the platform's
    32 bytes   a tag that binds salt, size and the digest of the plain bytes
    frames     of FRAME_BYTES each, the last one shorter; a tag of 16 bytes after each

A frame's nonce is its number, and whether it is the last: frames that are cut off, repeated or put
in another order do not open. No key is used for two blobs, so no nonce is used twice with one.

Source: STREAM of Hoang et al. 2015, "Online Authenticated-Encryption and its Nonce-Reuse
    Misuse-Resistance", eprint 2015/189.
"""

import hashlib
import hmac
import os
from typing import TYPE_CHECKING

from leptonai.errors import Internal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"LEPTONE1"
SALT_BYTES = 32
HEAD_BYTES = len(MAGIC) + SALT_BYTES + 32
FRAME_BYTES = 64 << 10
TAG_BYTES = 16
SEALED_FRAME_BYTES = FRAME_BYTES + TAG_BYTES


def frame_count(size: int) -> int:
    """Of a blob of so many plain bytes; an empty one has an empty frame."""
    return max(1, -(-size // FRAME_BYTES))


def plain_size(sealed_size: int) -> int:
    """How many plain bytes a sealed blob holds, by its size alone.

    Raises:
        Internal: none is of this size.
    """
    frames = -(-(sealed_size - HEAD_BYTES) // SEALED_FRAME_BYTES)
    size = sealed_size - HEAD_BYTES - frames * TAG_BYTES
    if frames < 1 or size < 0 or frame_count(size) != frames:
        raise damaged("it is cut short")
    return size


def sealed_place(frame: int) -> int:
    """Where a frame begins."""
    return HEAD_BYTES + frame * SEALED_FRAME_BYTES


class Sealing:
    """Seals the bytes of one blob as they come. Its head is known last, and goes first."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._salt = os.urandom(SALT_BYTES)
        self._cipher = _cipher(key, self._salt)
        self._rest = bytearray()
        self._frame = 0
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        """The frames that are complete now. One is held back: it may be the last."""
        self._rest += data
        self._size += len(data)
        sealed = []
        while len(self._rest) > FRAME_BYTES:
            sealed.append(self._seal(bytes(self._rest[:FRAME_BYTES]), last=False))
            del self._rest[:FRAME_BYTES]
        return b"".join(sealed)

    def end(self, digest: str) -> tuple[bytes, bytes]:
        """The last frame, and the head."""
        last = self._seal(bytes(self._rest), last=True)
        tag = _head_tag(self._key, self._salt, digest, self._size)
        return last, MAGIC + self._salt + tag

    def _seal(self, data: bytes, *, last: bool) -> bytes:
        self._frame += 1
        return self._cipher.encrypt(_nonce(self._frame - 1, last=last), data, None)


class Opening:
    """Opens frames of one blob.

    Raises:
        Internal: it was sealed with another key, for another digest, or was tampered with.
    """

    def __init__(self, key: bytes, head: bytes, digest: str, size: int) -> None:
        salt = head[len(MAGIC) : len(MAGIC) + SALT_BYTES]
        tag = head[len(MAGIC) + SALT_BYTES :]
        if head[: len(MAGIC)] != MAGIC:
            raise damaged("it is not encrypted")
        if not hmac.compare_digest(tag, _head_tag(key, salt, digest, size)):
            raise damaged("it was sealed with another key, or changed since")
        self._cipher = _cipher(key, salt)
        self._frames = frame_count(size)

    def open(self, frame: int, sealed: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        nonce = _nonce(frame, last=frame == self._frames - 1)
        try:
            return self._cipher.decrypt(nonce, sealed, None)
        except InvalidTag:
            raise damaged("it was changed after it was written") from None


def damaged(why: str) -> Internal:
    return Internal(
        f"an encrypted blob cannot be read: {why}",
        hint="restore the blobs and keys/platform.key, of the same time, from a backup",
    )


def _cipher(key: bytes, salt: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(hmac.digest(key, b"frames" + salt, hashlib.sha256))


def _head_tag(key: bytes, salt: bytes, digest: str, size: int) -> bytes:
    own = hmac.digest(key, b"head" + salt, hashlib.sha256)
    return hmac.digest(own, f"{digest} {size}".encode(), hashlib.sha256)


def _nonce(frame: int, *, last: bool) -> bytes:
    return frame.to_bytes(11, "big") + (b"\x01" if last else b"\x00")
