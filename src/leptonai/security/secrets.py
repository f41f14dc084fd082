"""Secrets at rest: AES-256-GCM, each bound to its place."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from leptonai.errors import Internal
from leptonai.security.keys import derive

FORMAT = b"\x01"  # the first byte of a ciphertext
NONCE_BYTES = 12


class Sealer:
    """Seals values under the key file's key. Neither the key nor a value ever shows in a repr."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(derive(key, "lepton secrets v1"))

    def seal(self, workspace: str, name: str, value: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return FORMAT + nonce + self._cipher.encrypt(nonce, value.encode(), _place(workspace, name))

    def open(self, workspace: str, name: str, ciphertext: bytes) -> str:
        """The value, if it was sealed for this place.

        Raises:
            Internal: it was sealed with another key, for another place, or was tampered with.
        """
        nonce, sealed = ciphertext[1 : 1 + NONCE_BYTES], ciphertext[1 + NONCE_BYTES :]
        try:
            if ciphertext[:1] != FORMAT:
                raise InvalidTag
            return self._cipher.decrypt(nonce, sealed, _place(workspace, name)).decode()
        except (InvalidTag, ValueError):
            raise Internal(
                f"the secret {name} cannot be decrypted: it was sealed with another key",
                hint="Restore the key file that belongs to this database, or set the secret anew.",
            ) from None


def _place(workspace: str, name: str) -> bytes:
    """What a value is bound to: a ciphertext copied to another row does not open there."""
    assert "/" not in workspace, workspace
    return f"{workspace}/{name}".encode()
