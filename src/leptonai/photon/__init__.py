"""Model servers as classes: the public face of `leptonai.serving`."""

from typing import TYPE_CHECKING

from leptonai.serving.files import File, FileParam
from leptonai.serving.handlers import Batch
from leptonai.serving.photon import Photon
from leptonai.serving.responses import (
    HTTPException,
    JPEGResponse,
    PNGResponse,
    Response,
    StreamingResponse,
    WAVResponse,
)

if TYPE_CHECKING:
    from starlette.staticfiles import StaticFiles as StaticFiles

handler = Photon.handler

__all__ = [
    "Batch",
    "File",
    "FileParam",
    "HTTPException",
    "JPEGResponse",
    "PNGResponse",
    "Photon",
    "Response",
    "StaticFiles",
    "StreamingResponse",
    "WAVResponse",
    "handler",
]


def __getattr__(name: str) -> object:
    """Starlette is loaded by those alone who use it."""
    if name == "StaticFiles":
        from starlette.staticfiles import StaticFiles

        return StaticFiles
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
