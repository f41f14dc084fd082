"""Photon, the model server. Public as `leptonai.photon`."""
