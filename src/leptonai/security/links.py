"""Links to objects: a URL that reads or writes one object for a while, for whoever has it."""

import msgspec

from leptonai.core.access import Principal, Role
from leptonai.security.signing import Signed

LINK_PREFIX = "lepton_link_"


class _Grant(msgspec.Struct, frozen=True, array_like=True):
    workspace: str
    object: str
    writes: bool
    by: str  # who made the link, and owns what is written with it
    until_ms: int


class Links:
    """Nothing of a link is stored: it proves itself by its signature."""

    def __init__(self, key: bytes) -> None:
        self._signed = Signed(key, LINK_PREFIX, "lepton object links v1")

    def token(self, workspace: str, object: str, *, writes: bool, by: str, until_ms: int) -> str:
        grant = _Grant(workspace, object, writes, by, until_ms)
        return self._signed.token(msgspec.json.encode(grant).decode())

    def read(self, token: str, now_ms: int) -> Principal | None:
        """Whom its bearer is; None where it is not ours or has expired."""
        said = self._signed.read(token)
        if said is None:
            return None
        grant = msgspec.json.decode(said, type=_Grant)
        if grant.until_ms <= now_ms:
            return None
        return Principal(
            grant.by, Role.LINK, grant.workspace, object=grant.object, writes=grant.writes
        )
