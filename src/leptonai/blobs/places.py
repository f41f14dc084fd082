"""Where bytes lie: a directory of this machine, or a bucket by its URL.

Credentials are what the environment says (AWS_*, GOOGLE_*, AZURE_*), as the stores' own tools find
them; none are asked for, kept or shown.
"""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")
CONNECT_TIMEOUT_S = 10
TIMEOUT_S = 60  # of one request
RETRIES = 5  # of one request, by the store's client
RETRY_FOR_S = 30


def is_url(place: str) -> bool:
    return "://" in place


def check_bucket(url: str) -> None:
    """Raises:
    InvalidRequest: the URL names no bucket.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc or parts.query or parts.username:
        raise InvalidRequest(
            f"{url!a} names no bucket", hint="for example s3://my-bucket/my-dataset"
        )


def open_directory(directory: Path) -> "ObjectStore":
    from obstore.store import LocalStore

    return LocalStore(directory.absolute(), mkdir=True)


def open_url(url: str) -> "ObjectStore":
    """Raises:
    InvalidRequest: it cannot be opened.
    """
    from obstore.exceptions import BaseError
    from obstore.store import MemoryStore, from_url

    if url == "memory://":
        return MemoryStore()
    try:
        return from_url(
            url,
            client_options={
                "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
                "timeout": timedelta(seconds=TIMEOUT_S),
                # Stores speak https unless the environment names an endpoint that does not.
                "allow_http": True,
            },
            retry_config={
                "max_retries": RETRIES,
                "retry_timeout": timedelta(seconds=RETRY_FOR_S),
            },
        )
    except (BaseError, ValueError) as error:
        raise InvalidRequest(
            f"{url!a} cannot be opened: {str(error).splitlines()[0][:300]}",
            hint="for example s3://my-bucket/my-dataset; credentials come from the environment",
        ) from error
