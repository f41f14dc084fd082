"""Whose blobs a place holds, and whether they are encrypted: a mark that lies beside them.

Who removes what nothing refers to must be the only one who writes there, and blobs are encrypted
all or none.
"""

import msgspec

from leptonai.errors import Conflict

MARK = "lepton-blobs.json"


class Mark(msgspec.Struct, frozen=True):
    platform: str
    encrypted: bool = False


def decide(found: Mark | None, *, platform: str, encrypt: bool, empty: bool, place: str) -> Mark:
    """What holds from now on.

    Args:
        found: what lies there; None if nothing was noted.
        empty: whether no blob lies there.

    Raises:
        Conflict: the place is another platform's, or holds blobs that are not encrypted.
    """
    if found is not None and found.platform != platform:
        raise Conflict(
            f"the blobs in {place} are those of another platform, or of another key",
            hint=f"name another place, or restore that key; or, to begin anew, remove {MARK} and "
            "sha256/ there",
        )
    if found is not None and found.encrypted:
        return found
    if encrypt and not empty:
        raise Conflict(
            f"{place} holds blobs that are not encrypted",
            hint="--encrypt-blobs is settled before the first one; name an empty place: --blobs",
        )
    return Mark(platform, encrypt)
