"""What a home holds, opened for a platform: its database, key, blobs and tokens."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from leptonai.errors import Conflict, InvalidRequest, NotFound
from leptonai.home import Home, Settled, replace_file
from leptonai.main.options import Options

if TYPE_CHECKING:
    from leptonai.blobs import BlobStore
    from leptonai.ports.store import Store

log = logging.getLogger("leptonai")


def settle(before: Settled, options: Options, *, is_new: bool) -> Settled:
    """What is asked now, and what was asked before and not again."""
    database = options.database or before.database
    return Settled(
        blobs=options.blobs or before.blobs,
        workspaces=tuple(dict.fromkeys((*before.workspaces, options.workspace))),
        database=database,
        sole_database=is_new or (before.sole_database and database == before.database),
    )


async def open_store_of(home: Home, settled: Settled) -> "Store":
    """
    Raises:
        NotFound: its file is gone: an empty one in its place would hide that.
    """
    from leptonai.stores import open_store

    if not settled.database and home.key_file.exists() and not _has_bytes(home.database):
        raise NotFound(
            f"the database {home.database} is gone or empty, with all jobs, endpoints and secrets",
            hint=f"restore it; or, to begin anew without them, remove {home.key_file}",
        )
    return await open_store(settled.database or f"sqlite:///{home.database}")


async def open_blobs(
    home: Home, before: Settled, settled: Settled, options: Options, key: bytes
) -> "tuple[BlobStore, bool]":
    """The blobs, and whether they are encrypted.

    Raises:
        InvalidRequest: the place cannot be one.
        Conflict: it is another's; or others lie where they were before.
    """
    from leptonai.blobs import BlobStore
    from leptonai.blobs.ownership import MARK
    from leptonai.blobs.places import check_bucket, is_url
    from leptonai.security.keys import derive

    def place_of(settled: Settled) -> str:
        return settled.blobs or str(home.blobs)

    place, place_before = place_of(settled), place_of(before)
    if is_url(place):
        check_bucket(place)
    if place != place_before and not await BlobStore(place_before).is_empty():
        raise Conflict(
            f"the blobs of this platform lie in {place_before}",
            hint=f"leave --blobs out; or move sha256/ and {MARK} from there to {place}, then "
            "start again",
        )
    own = place == str(home.blobs)
    if own and not options.encrypt_blobs and not (home.blobs / MARK).exists():
        return BlobStore(place), False  # as most are, without the time that a look takes
    encrypted = await BlobStore(place).claim(
        platform=derive(key, "lepton blobs owner v1").hex()[:32],
        encrypt=options.encrypt_blobs,
        alone=own,
    )
    return BlobStore(place, key=derive(key, "lepton blobs v1") if encrypted else None), encrypted


async def key_of(home: Home, store: "Store") -> bytes:
    """
    Raises:
        NotFound: it is gone, and there are secrets that only it opens.
    """
    from leptonai.core.records import Secret
    from leptonai.ports.store import Query
    from leptonai.security.keys import load_or_create_key

    if not home.key_file.exists() and (secrets := await store.count(Secret, Query())):
        raise NotFound(
            f"the key {home.key_file} is gone, and {secrets} secrets are sealed with it",
            hint="restore it from a backup: without it, nobody can read them",
        )
    return load_or_create_key(home.key_file)


def see_to_token(path: Path) -> None:
    """Make the token at the first start; later, see that it is one, and nobody else's to read.

    Raises:
        InvalidRequest: the file holds none.
        OSError: it cannot be read.
    """
    from leptonai.security.tokens import is_token, new_token

    if not os.path.lexists(path):
        replace_file(path, f"{new_token()}\n")
        return
    try:
        whole = is_token(path.read_bytes().decode("ascii").strip())
        if path.stat().st_mode & 0o077:
            log.warning("%s could be read by others; now it cannot", path)
            path.chmod(0o600)
    except ValueError:
        whole = False
    if not whole:
        raise InvalidRequest(
            f"{path} holds no token",
            hint="restore it; or remove it, and the next start makes a new one",
        )


async def honour_tokens(store: "Store", home: Home, workspace: str, now_ms: int) -> None:
    """Let in who holds the tokens of the home's files, and no longer who held earlier ones."""
    from leptonai.core.records import Token
    from leptonai.ports.store import Change, Delete, Put, Query
    from leptonai.security.tokens import record_of

    files: tuple[tuple[Path, Literal["admin", "gateway"]], ...] = (
        (home.token_file, "admin"),
        (home.gateway_token_file, "gateway"),
    )
    for path, role in files:
        token = record_of(
            path.read_text().strip(), workspace=workspace, name=role, role=role, now_ms=now_ms
        )
        held = await store.find(Token, Query(workspace=workspace, name=role))
        changes: list[Change] = [Delete(each) for each in held if each.sha256 != token.sha256]
        if not any(each.sha256 == token.sha256 for each in held):
            changes.append(Put(token))
        if changes:
            await store.commit(*changes)


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
