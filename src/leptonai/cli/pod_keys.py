"""The public key of whoever is at this machine."""

from pathlib import Path

from leptonai.errors import InvalidRequest, NotFound

DEFAULT_KEYS = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")


def default_keys() -> list[str]:
    """The first of those that ssh would offer by itself, if there is one."""
    file = default_key_file()
    return [read_key(file)] if file else []


def default_key_file() -> Path | None:
    folder = Path("~/.ssh").expanduser()
    return next((folder / name for name in DEFAULT_KEYS if (folder / name).is_file()), None)


def read_key(file: Path) -> str:
    """
    Raises:
        NotFound, InvalidRequest: it is no public key.
    """
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise NotFound(
            f"the key {file} cannot be read: {error}", hint="name a file like id_ed25519.pub"
        ) from None
    if "PRIVATE KEY" in text:
        raise InvalidRequest(
            f"{file} is a private key, which nobody else may see", hint=f"name {file}.pub"
        )
    if "\n" in text or len(text.split()) < 2:
        raise InvalidRequest(f"{file} holds no public key", hint="name a file like id_ed25519.pub")
    return text
