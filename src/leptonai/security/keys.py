"""The key file: the one secret that is kept outside the database."""

import contextlib
import hashlib
import hmac
import os
import stat
from pathlib import Path

from leptonai.durable import sync
from leptonai.errors import Internal

KEY_BYTES = 32


class UnsafeKeyFile(Internal):
    code = "UnsafeKeyFile"


def load_or_create_key(path: Path) -> bytes:
    """The key in `path`; made at the first call, readable by nobody else, whoever else tries at the
    same moment.

    Raises:
        UnsafeKeyFile: others may read or write it, or it holds no key.
    """
    with contextlib.suppress(FileExistsError):
        _create(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            raise UnsafeKeyFile(
                f"the key file {path} may be read by others (its mode is {mode:o})",
                hint=f"Run `chmod 600 {path}`, and replace the secrets if others were here.",
            )
        key = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != KEY_BYTES:
        raise UnsafeKeyFile(
            f"the key file {path} holds {len(key)} bytes, not a key of {KEY_BYTES}",
            hint="Restore it from a backup: without it, stored secrets cannot be read.",
        )
    return key


def derive(key: bytes, purpose: str) -> bytes:
    """A key for one purpose, so that what is learnt about one says nothing about another.

    HKDF-Expand (RFC 5869) of one block: `key` is uniformly random already.
    """
    return hmac.new(key, purpose.encode() + b"\x01", hashlib.sha256).digest()


def _create(path: Path) -> None:
    """Written beside it and linked into place: the file is whole from the first moment on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, path)
    finally:
        fresh.unlink()
    sync(path.parent)


class KeysOf:
    """A key for each record of a kind; derived, so nothing of them is stored."""

    def __init__(self, key: bytes, purpose: str) -> None:
        self._key = derive(key, purpose)

    def of(self, workspace: str, id: str) -> str:
        return hmac.new(self._key, f"{workspace}/{id}".encode(), hashlib.sha256).hexdigest()


def pod_keys(key: bytes) -> KeysOf:
    """What gateways show pods to be believed."""
    return KeysOf(key, "lepton pod keys v1")


def ray_tokens(key: bytes) -> KeysOf:
    """What the nodes of a Ray cluster, and whoever is let through to its head, are known by."""
    return KeysOf(key, "lepton ray tokens v1")
