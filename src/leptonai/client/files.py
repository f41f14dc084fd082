"""The user's files, as the SDK sends and checks them."""

from collections.abc import Callable
from pathlib import Path

from leptonai.client.messages import Told
from leptonai.errors import NotFound

PART_BYTES = 8 << 20  # of an upload, sent at once

Progress = Callable[[int, int], None]  # bytes done, bytes in all


def telling(progress: Progress | None, total: int) -> Told | None:
    if progress is None:
        return None
    return lambda done: progress(done, total)


def digest_of(file: Path) -> tuple[str, int]:
    """Of a file's bytes, and how many there are.

    Raises:
        NotFound: there is no such file.
    """
    import hashlib

    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return f"sha256:{digest}", opened.tell()
    except (FileNotFoundError, IsADirectoryError) as missing:
        raise NotFound(f"{file} is no file", hint="check the path") from missing


def part_of(file: Path, start: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(PART_BYTES)
