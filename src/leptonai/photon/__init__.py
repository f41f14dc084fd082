"""Model servers as classes: the public face of `leptonai.serving`."""

from leptonai.serving.photon import HTTPException, Photon

__all__ = ["HTTPException", "Photon"]
